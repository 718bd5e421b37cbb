"""Dialogues as training examples: which tokens have a loss, what is truncated, what is left out."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from flan_jax.data.batches import Batches
from flan_jax.data.chat.dialogues import (
    CALLS_UNSEEN,
    DIALOGUES_TRUNCATED,
    DIVIDED,
    INPUTS_TRUNCATED,
    NO_ROOM,
    TARGETS_TRUNCATED,
    TOOLS_UNSEEN,
    DialogueEncoder,
    plain_text,
)
from flan_jax.data.config import DataConfig
from flan_jax.data.layout import make_layout
from flan_jax.data.packing import Member, Plan
from flan_jax.data.shards import open_train_shard, train_shard
from flan_jax.data.vocabulary import ByteVocabulary, load_vocabulary
from flan_jax.errors import UserError
from flan_jax.models import losses
from flan_jax.models.decoder import DecoderConfig, DecoderLM
from support import chat_templates

pytest.importorskip("tokenizers", reason="the extra [hf] is not installed")
pytest.importorskip("jinja2", reason="DIALOGUES ARE NOT CHECKED: jinja2 ([hf]) is missing")


def dialogue(*turns: str):
    """Returns messages of user and assistant in turns."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


FIRST = dialogue("Wet?", "Yes.", "Sure?", "No.")
SECOND = [{"role": "system", "content": "Be brief."}, *dialogue("Hi", "Ho")]


def vocabulary_of(family: str, directory, architecture="decoder", setting="auto"):
    return load_vocabulary(str(chat_templates.save(family, directory)), architecture, setting)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """The vocabulary of ChatML dialogues; its dialogues begin with <|im_start|>."""
    return vocabulary_of("smollm 2", tmp_path_factory.mktemp("smollm"))


def spelled(vocabulary, example) -> tuple[str, str]:
    """Returns the whole text of an example, and the same with · for each token without a loss."""
    ids = [*example.inputs, *example.targets]
    mask = np.ones(len(example.targets)) if example.trained is None else example.trained
    trained = [*[False] * len(example.inputs), *mask.astype(bool)]
    texts = [vocabulary.plain._rendered_model.decode([i], skip_special_tokens=False) for i in ids]
    return "".join(texts), "".join(
        text if is_trained else "·" for text, is_trained in zip(texts, trained)
    )


def by_hand(vocabulary, *pieces):
    """Returns (ids, trained) of (text, trained) pieces that begin and end at special tokens."""
    ids, trained = [], []
    for text, is_trained in pieces:
        new = vocabulary.encode_rendered(text)
        ids, trained = [*ids, *new], [*trained, *[is_trained] * len(new)]
    return ids, trained


FIRST_PIECES = [
    ("<|im_start|>system\nYou are a small model.<|im_end|>\n<|im_start|>user\nWet?<|im_end|>\n", 0),
    ("<|im_start|>assistant\n", 0),
    ("Yes.<|im_end|>", 1),
    ("\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n", 0),
    ("No.<|im_end|>", 1),
]
SECOND_PIECES = [
    ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n", 0),
    ("<|im_start|>assistant\n", 0),
    ("Ho<|im_end|>", 1),
]


def test_the_loss_is_on_exactly_the_trained_tokens_of_two_dialogues(chat):
    encoder = DialogueEncoder(chat, 100, 60)
    examples = [*encoder.encode(FIRST), *encoder.encode(SECOND)]
    assert len(examples) == 2 and not +encoder.counts
    # Through a shard, a plan and a packed row, as in a run.
    shard = train_shard(
        "key",
        [example.inputs for example in examples],
        [example.targets for example in examples],
        {},
        {},
        [example.trained for example in examples],
    )
    assert "trained" in shard.arrays
    row, zero = np.array([0, 2]), np.zeros(2, np.int32)
    plan = Plan(row, zero, zero, np.arange(2, dtype=np.int32), np.ones((2, 1)))
    layout = make_layout("decoder", 100, 100, chat.bos_id)
    opened = open_train_shard(shard)
    batches = Batches(plan, [Member("own", 2, 2)], lambda name, epoch: opened, layout, 1)
    batch = {name: array[0] for name, array in batches.at(0).items()}
    place = 0
    for number, pieces in enumerate((FIRST_PIECES, SECOND_PIECES), 1):
        ids, trained = by_hand(chat, *pieces)
        here = slice(place, place + len(ids) - 1)  # the first token is read and not predicted
        assert batch["decoder_input_tokens"][here].tolist() == ids[:-1]
        assert batch["decoder_target_tokens"][here].tolist() == ids[1:]
        assert batch["decoder_loss_weights"][here].tolist() == trained[1:]
        assert (batch["decoder_segment_ids"][here] == number).all()
        assert batch["decoder_positions"][here].tolist() == list(range(len(ids) - 1))
        place += len(ids) - 1
    assert not batch["decoder_loss_weights"][place:].any()
    assert spelled(chat, examples[0])[1].replace("·", "") == "Yes.<|im_end|>No.<|im_end|>"


def test_gradients_of_a_packed_row_are_those_of_its_trained_tokens(chat):
    """The loss of two packed dialogues is the sum of the log-probabilities of the tokens trained.

    The model reads each dialogue alone, and the tokens are chosen by hand.
    """
    model = DecoderLM(DecoderConfig(chat.size, 16, 2, 8, 32, 2, dtype="float32"))
    encoder, layout = DialogueEncoder(chat, 100, 60), make_layout("decoder", 100, 60, chat.bos_id)
    examples = [*encoder.encode(FIRST), *encoder.encode(SECOND)]
    ones = [np.ones(len(e.targets), int) if e.trained is None else e.trained for e in examples]
    packed = layout.batch(
        [example.inputs for example in examples],
        [example.targets for example in examples],
        [2],
        ones,
    )
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), packed))["params"]
    logits = model.apply({"params": params}, packed)
    loss = losses.token_loss(
        logits, packed["decoder_target_tokens"], packed["decoder_loss_weights"], z_loss=0.0
    )
    expected, count = 0.0, 0
    for pieces in (FIRST_PIECES, SECOND_PIECES):
        ids, trained = by_hand(chat, *pieces)
        alone = {
            "decoder_input_tokens": np.array([ids[:-1]]),
            "decoder_segment_ids": np.ones((1, len(ids) - 1), np.int32),
            "decoder_positions": np.arange(len(ids) - 1)[None],
        }
        scores = jax.nn.log_softmax(model.apply({"params": params}, alone)[0])
        for place, (token, is_trained) in enumerate(zip(ids[1:], trained[1:])):
            expected -= is_trained * float(scores[place, token])
            count += is_trained
    assert float(loss[2]) == count
    assert float(loss[0]) == pytest.approx(expected, rel=1e-5)


def test_loss_on_last_and_all(chat):
    last = DialogueEncoder(chat, 100, 60, "last").encode(FIRST)
    assert spelled(chat, last[0])[1].replace("·", "") == "No.<|im_end|>"
    whole = DialogueEncoder(chat, 100, 60, "all").encode(FIRST)
    assert spelled(chat, whole[0])[1].startswith("system\nYou are a small")  # read: <|im_start|>
    assert whole[0].trained is None and not len(whole[0].inputs)
    only_user = dialogue("A text alone")
    encoder = DialogueEncoder(chat, 100, 60, "all")
    assert "A text alone" in spelled(chat, encoder.encode(only_user)[0])[1]
    encoder = DialogueEncoder(chat, 100, 60)
    assert not encoder.encode(only_user)
    assert encoder.counts == {"dialogues without a turn of the assistant's": 1}
    with pytest.raises(UserError, match="LOSS_ON='all' trains what an encoder only reads"):
        DataConfig(loss_on="all", architecture="t5")


def test_turns_are_examples_of_their_own_where_a_template_rewrites_earlier_ones(tmp_path):
    vocabulary = vocabulary_of("qwen 3", tmp_path)
    encoder = DialogueEncoder(vocabulary, 100, 100)
    thought = "<think>\nhm\n</think>\n\n"
    messages = dialogue("Wet?", f"{thought}Yes.", "Sure?", f"{thought}No.")
    first, second = encoder.encode(messages)
    assert encoder.counts == {DIVIDED: 1}
    for example, said in ((first, "Yes.<|im_end|>"), (second, "No.<|im_end|>")):
        said = f"{thought}{said}"
        assert spelled(vocabulary, example)[1].replace("·", "").strip() == said
    # What is read is what a model reads that is to answer.
    assert second.inputs.tolist() == vocabulary.encode_messages(messages[:-1])
    assert "hm" not in spelled(vocabulary, second)[0].split("Sure?")[0]
    last = DialogueEncoder(vocabulary, 100, 100, "last").encode(messages)
    assert len(last) == 1 and last[0].inputs.tolist() == second.inputs.tolist()


def test_a_turn_that_does_not_follow_what_a_model_reads_before_it_is_left_out(tmp_path):
    """Mistral's puts the system message into the last message, and an answer after it hides it."""
    encoder = DialogueEncoder(vocabulary_of("mistral", tmp_path), 100, 100)
    assert encoder.encode(FIRST) and not encoder.counts
    assert not encoder.encode([SECOND[0], *FIRST])
    assert encoder.counts[DIVIDED] == 1
    assert any("does not begin the text of message 3" in reason for reason in encoder.counts)


def test_long_dialogues_are_truncated_and_counted(chat):
    whole = DialogueEncoder(chat, 100, 60).encode(FIRST)[0]
    length = len(whole.inputs) + len(whole.targets)
    encoder = DialogueEncoder(chat, length - 3, 1)
    cut = encoder.encode(FIRST)[0]
    assert [*cut.inputs, *cut.targets] == [*whole.inputs, *whole.targets][: length - 2]
    assert encoder.counts[DIALOGUES_TRUNCATED] == 1
    # Nothing that is trained fits.
    encoder = DialogueEncoder(chat, 5, 5)
    assert not encoder.encode(FIRST)
    assert encoder.counts[NO_ROOM] == 1 and encoder.counts[DIALOGUES_TRUNCATED] == 1


def test_what_a_template_refuses_is_left_out_and_counted(tmp_path):
    encoder = DialogueEncoder(vocabulary_of("gemma 3", tmp_path), 100, 60)
    assert encoder.encode(dialogue("a", "b"))
    assert not encoder.encode([*dialogue("a", "b"), {"role": "assistant", "content": "c"}])
    assert not encoder.encode([{"role": "assistant", "content": "c"}])
    reason = "dialogues refused by the chat template (user and assistant must take turns)"
    assert encoder.counts[reason] >= 1 and encoder.counts.total() == 2


def test_each_turn_is_an_example_of_a_t5(tmp_path):
    directory = chat_templates.save("gemma 3", tmp_path)
    (tmp_path / "mine.jinja").write_text(chat_templates.template("gemma 3"))
    vocabulary = load_vocabulary(str(directory), "t5", str(tmp_path / "mine.jinja"))
    encoder = DialogueEncoder(vocabulary, 60, 20)
    first, second = encoder.encode(FIRST)
    assert spelled(vocabulary, first) == (
        "<bos><start_of_turn>user\nWet?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>",
        "·" * len(first.inputs) + "Yes.<end_of_turn>",
    )
    assert second.inputs.tolist() == vocabulary.encode_messages(FIRST[:3])
    assert not +encoder.counts and first.trained is None
    # The end of what is read is kept, and the end of a turn.
    short = DialogueEncoder(vocabulary, 12, 3)
    cut = short.encode(dialogue("Wet? " * 20, "Yes, indeed it is."))[0]
    assert short.counts == {INPUTS_TRUNCATED: 1, TARGETS_TRUNCATED: 1}
    assert spelled(vocabulary, cut)[0].count("<start_of_turn>model\n") == 1
    assert len(cut.inputs) == 12 and len(cut.targets) == 3
    assert cut.targets[-1] == vocabulary.eos_id


@pytest.mark.parametrize("architecture", ["t5", "decoder"])
def test_without_a_template_a_dialogue_of_one_turn_is_a_prompt_and_its_completion(architecture):
    vocabulary = ByteVocabulary()
    example = DialogueEncoder(vocabulary, 80, 20).encode(dialogue("Wet?", "Yes."))[0]
    assert example.inputs.tolist() == vocabulary.encode_input("Wet?")
    assert example.targets.tolist() == [*vocabulary.encode_target("Yes."), vocabulary.eos_id]
    assert plain_text(SECOND[:2]) == "Be brief.\n\nHi"
    first, second = DialogueEncoder(vocabulary, 80, 20).encode(FIRST)
    assert vocabulary.decode(first.inputs) == "Wet?"
    assert vocabulary.decode(second.inputs) == "User: Wet?\n\nAssistant: Yes.\n\nUser: Sure?"
    assert vocabulary.decode(second.targets) == "No."
    if architecture == "decoder":
        whole = DialogueEncoder(vocabulary, 80, 20, "all").encode(FIRST)[0]
        assert vocabulary.decode(whole.targets).endswith("\n\nAssistant: No.")
        assert whole.targets[-1] == vocabulary.eos_id and not len(whole.inputs)


CALLS = [{"type": "function", "function": {"name": "rain", "arguments": {"place": "Oslo"}}}]
WITH_CALL = [
    {"role": "user", "content": "Wet?"},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
]


def test_tool_calls_train_as_json_without_a_template_and_never_as_nothing(chat):
    plain = DialogueEncoder(ByteVocabulary(), 200, 200)
    (example,) = plain.encode(WITH_CALL, tools=[{"type": "function"}])
    assert json.loads(ByteVocabulary().decode(example.targets)) == CALLS
    assert plain.counts == {TOOLS_UNSEEN: 1}
    templated = DialogueEncoder(chat, 200, 200)
    assert templated.encode(WITH_CALL) == [] and templated.counts == {CALLS_UNSEEN: 1}


def test_a_turn_with_weight_0_is_not_trained(chat):
    messages = dialogue("Wet?", "WRONG", "Sure?", "No.")
    messages[1]["weight"] = 0
    (example,) = DialogueEncoder(chat, 200, 200).encode(messages)
    assert "WRONG" in spelled(chat, example)[0] and "WRONG" not in spelled(chat, example)[1]
    plain = DialogueEncoder(ByteVocabulary(), 200, 200)
    assert len(plain.encode(messages)) == 1 and plain.encode(messages[:2]) == []
