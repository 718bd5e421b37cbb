"""Prompt tuning: golden numbers, packed rows, scores and answers, what a prompt begins as, data."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from flan_jax.checkpoints.formats import adapter_config, safetensors_files
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.tuned import open_tuned
from flan_jax.data.config import DataConfig
from flan_jax.data.layout import make_layout
from flan_jax.data.run_data import open_data
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation.generator import Generator
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.models import decoder, losses, stacking, t5
from flan_jax.models.adapters import PROMPT, prompt_length_of
from flan_jax.optim.adamw import adamw
from flan_jax.parallel import partitioning
from flan_jax.peft.config import PeftConfig
from flan_jax.peft.prompt import EmbeddingMeans, embedding_means
from flan_jax.prepare import prepare
from flan_jax.training.state import ShardedState, init_state
from flan_jax.training.step import make_train_step
from support import golden
from support.converting import convert
from support.random_models import VOCABULARY, make_model, rows

GOLDEN = golden.ROOT / "peft"
CASES = [
    *(f"{model}/prompt_p5" for model in ("t5_untied", "t5_tied", "llama")),
    "t5_untied/prompt_p5_two_submodules",
]
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"NOT CHECKED AGAINST PEFT: the golden numbers are not at {GOLDEN}"
)
P = 5


def with_prompt(params, prompt):
    """Returns the parameters of a model with a prompt beside its embedding."""
    if "decoder" in params and "token_embedder" in params["decoder"]:
        return {**params, "decoder": with_prompt(params["decoder"], prompt)}
    embedder = {**params["token_embedder"], PROMPT: jnp.asarray(prompt)}
    return {**params, "token_embedder": embedder}


def prompt_of(tree):
    return (tree.get("token_embedder") or tree["decoder"]["token_embedder"])[PROMPT]


# --- Golden numbers of peft


@functools.cache
def golden_model(name: str, scan: bool):
    checkpoint = open_checkpoint(GOLDEN / name / "base")
    config = dataclasses.replace(checkpoint.config, scan_layers=scan, dropout_rate=0.0)
    flat = {name: jnp.asarray(tensor.read()) for name, tensor in checkpoint.tensors.items()}
    params = traverse_util.unflatten_dict(flat, sep="/")
    model = (t5.T5 if name.startswith("t5") else decoder.DecoderLM)(config)
    return model, stacking.stack(params) if scan else params


def golden_batch(numbers, vocab_size: int, is_t5: bool) -> dict[str, np.ndarray]:
    """The batch of peft as ours: the ids of the prompt in front, targets shifted."""
    ids, mask, labels = (
        numbers[f"batch/{name}"] for name in ("input_ids", "attention_mask", "labels")
    )
    prompt = np.tile(np.arange(vocab_size, vocab_size + P), (len(ids), 1))
    ids = np.concatenate([prompt, ids], axis=1).astype(np.int32)
    segments = np.concatenate([np.ones_like(prompt), mask], axis=1).astype(np.int32)
    if is_t5:
        targets = np.where(labels < 0, 0, labels)
        first = np.zeros_like(targets[:, :1])
        return {
            "encoder_input_tokens": ids,
            "encoder_segment_ids": segments,
            "decoder_input_tokens": np.concatenate([first, targets[:, :-1]], axis=1),
            "decoder_segment_ids": np.ones_like(targets),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (labels >= 0).astype(np.int32),
        }
    nothing = np.full_like(labels[:, :1], -100)
    following = np.concatenate([prompt * 0 - 100, labels, nothing], axis=1)[:, 1:]
    return {
        "decoder_input_tokens": ids,
        "decoder_segment_ids": segments,
        "decoder_positions": np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1)),
        "decoder_target_tokens": np.where(following < 0, 0, following),
        "decoder_loss_weights": (following >= 0).astype(np.int32),
    }


@needs_golden
@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unscanned"])
@pytest.mark.parametrize("case", CASES)
def test_golden_prompts_of_peft(case, scan):
    name = case.split("/")[0]
    model, base = golden_model(name, scan)
    numbers = np.load(GOLDEN / case / "golden.npz")
    batch = golden_batch(numbers, model.config.vocab_size, name.startswith("t5"))
    (theirs,) = (key for key in numbers.files if key.startswith("grad/"))
    ((_, vectors),) = open_tuned(GOLDEN / case).checkpoint.tensors.items()
    join = lambda trained, frozen: with_prompt(frozen, trained["prompt"])  # noqa: E731
    params = {"prompt": jnp.asarray(vectors.read())}

    logits = jax.jit(lambda *trees: model.apply({"params": join(*trees)}, batch))(params, base)
    shown = batch["decoder_segment_ids"] > 0
    np.testing.assert_allclose(logits[shown], numbers["logits"][shown], atol=5e-5)

    def loss(trained):
        logits = model.apply({"params": join(trained, base)}, batch)
        of = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        return losses.token_loss(logits, *of, z_loss=0.0)[0] / of[1].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, numbers["loss"], rtol=1e-5)
    expected = numbers[theirs]
    np.testing.assert_allclose(gradient["prompt"], expected[:P], atol=5e-4 * np.abs(expected).max())
    assert not expected[P:].any()

    optimizer = adamw(3e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)
    step = jax.jit(make_train_step(model, optimizer, 0, 0.0, 0.0, 0.0, join=join))
    state, found = init_state(params, optimizer), []
    for _ in range(6):
        state, metrics = step(state, base, batch)
        found.append(float(metrics["loss"]))
    np.testing.assert_allclose(found, numbers["adamw/losses"], rtol=1e-4)


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_a_golden_prompt_comes_back_to_the_byte(case, tmp_path):
    convert("peft", "flan", GOLDEN / case, tmp_path / "ours", "--unmerged")
    convert("flan", "peft", tmp_path / "ours", tmp_path / "back")
    convert("peft", "peft", GOLDEN / case, tmp_path / "directly")
    stored = safetensors_files.open_weights(GOLDEN / case / adapter_config.WEIGHTS)
    for name in ("back", "directly"):
        written = safetensors_files.open_weights(tmp_path / name / adapter_config.WEIGHTS)
        assert written.keys() == stored.keys() == {"prompt_embeddings"}
        table = stored["prompt_embeddings"].read()[:P]  # of two tables the encoder's
        assert written["prompt_embeddings"].read().tobytes() == table.tobytes()
        settings, expected = (
            json.loads((path / adapter_config.FILE).read_text())
            for path in (tmp_path / name, GOLDEN / case)
        )
        assert settings["num_transformer_submodules"] == 1
        changed = {"base_model_name_or_path", "num_transformer_submodules"}
        for field in settings.keys() - changed:
            assert settings[field] == expected[field], field
        assert expected.keys() - settings.keys() == {"auto_mapping", "peft_version"}


# --- Packed rows

V = 96
RELATIVE = decoder.DecoderConfig(V, 16, 2, 8, 32, 2, relpos_max_distance=24, dtype="float32")
ROTARY = dataclasses.replace(
    RELATIVE,
    num_kv_heads=1,
    positions="rotary",
    scale_queries=True,
    logits_via_embedding=False,
    mlp_activations=("silu", "linear"),
)
PACKED = {
    "t5": t5.T5(t5.T5Config(V, 16, 2, 8, 32, 2, 2, dropout_rate=0.0, dtype="float32")),
    "relative": decoder.DecoderLM(RELATIVE),
    "relative_bidirectional": decoder.DecoderLM(
        dataclasses.replace(RELATIVE, prefix="bidirectional")
    ),
    "rotary": decoder.DecoderLM(ROTARY),
    "rotary_bidirectional": decoder.DecoderLM(dataclasses.replace(ROTARY, prefix="bidirectional")),
}
LENGTHS = [(5, 2), (9, 1), (1, 7), (3, 3), (6, 4), (2, 2), (4, 5)]
ROWS = [(0, 1, 2), (3, 4), (), (5, 6)]  # ragged, one of them empty


def layout_of(name: str):
    return make_layout("t5" if name == "t5" else "decoder", 40, 16, 0, range(V, V + P))


def examples() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [tuple(rng.integers(1, V, n).astype(np.int32) for n in lengths) for lengths in LENGTHS]


def filled(name: str, of_rows) -> dict[str, np.ndarray]:
    of = [examples()[i] for members in of_rows for i in members]
    inputs, targets = [inputs for inputs, _ in of], [targets for _, targets in of]
    return layout_of(name).batch(inputs, targets, [len(members) for members in of_rows])


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_train_a_prompt_as_their_examples_would_one_by_one(name):
    model = PACKED[name]
    base = nn.unbox(jax.jit(model.init)(jax.random.key(0), filled(name, ROWS)))["params"]
    prompt = jax.random.normal(jax.random.key(1), (P, 16))

    @jax.jit
    def loss_and_gradient(prompt, batch):
        def loss(prompt):
            logits = model.apply({"params": with_prompt(base, prompt)}, batch)
            of = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
            return losses.token_loss(logits, *of)[0]

        return jax.value_and_grad(loss)(prompt)

    packed, gradient = loss_and_gradient(prompt, filled(name, ROWS))
    alone = [loss_and_gradient(prompt, filled(name, [(i,)])) for i in range(len(LENGTHS))]
    assert float(packed) == pytest.approx(sum(float(loss) for loss, _ in alone), rel=1e-5)
    summed = sum(gradient for _, gradient in alone)
    assert np.abs(gradient - summed).max() < 1e-5 * np.abs(summed).max()
    assert np.abs(summed).min(axis=1).max() > 0 and np.isfinite(summed).all()


def test_a_packed_row_is_prompt_bos_inputs_and_targets_without_a_loss_on_the_prompt():
    inputs, targets = [np.array([7, 8]), np.array([9])], [np.array([3]), np.array([4, 5])]
    batch = make_layout("decoder", 12, 8, 2, range(96, 99)).batch(inputs, targets, [2])
    lines = {name.removeprefix("decoder_"): row[0].tolist() for name, row in batch.items()}
    assert lines == {
        "input_tokens": [96, 97, 98, 2, 7, 8, 96, 97, 98, 2, 9, 4, *[0] * 8],
        "target_tokens": [0, 0, 0, 7, 8, 3, 0, 0, 0, 9, 4, 5, *[0] * 8],
        "segment_ids": [*[1] * 6, *[2] * 6, *[0] * 8],
        "positions": [*range(6), *range(6), *[0] * 8],
        "loss_weights": [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, *[0] * 8],
        "causal_attention": [*[1] * 6, *[1] * 5, 0, *[0] * 8],
    }
    batch = make_layout("t5", 12, 8, 0, range(96, 99)).batch(inputs, targets, [2])
    assert batch["encoder_input_tokens"][0].tolist() == [96, 97, 98, 7, 8, 96, 97, 98, 9, 0, 0, 0]
    assert batch["encoder_positions"][0].tolist() == [*range(5), *range(4), 0, 0, 0]
    assert batch["decoder_target_tokens"][0].tolist() == [3, 4, 5, *[0] * 5]


def test_an_id_beyond_the_prompt_is_not_taken_for_its_last_vector():
    model, params = make_model("t5")
    params = with_prompt(params, np.ones((2, 16), np.float32))
    ids = jnp.array([[0, 383, 384, 385, 386]])
    embedded = model.apply({"params": params}, ids, method=lambda m, ids: m.token_embedder(ids))
    table = params["token_embedder"]["embedding"]
    np.testing.assert_array_equal(embedded[0, :2], table[np.array([0, 383])])
    assert (embedded[0, 2:4] == 1).all() and jnp.isnan(embedded[0, 4]).all()


# --- Scores and answers


@functools.cache
def plain(model):
    """Log-probabilities of a batch of one by the plainest means."""
    return jax.jit(lambda params, batch: jax.nn.log_softmax(model.apply({"params": params}, batch)))


def following(model, params, source, given, length: int = 128):
    """Log-probabilities [V] that follow each of the tokens `given` after an input, and BOS."""
    prompt = [*range(384, 384 + prompt_length_of(params))]
    is_decoder = isinstance(model, decoder.DecoderLM)
    before = [*prompt, 0, *source] if is_decoder else [0]
    read = np.zeros((1, length), np.int32)
    read[0, : len(before) + len(given)] = [*before, *given]
    places = np.arange(length)[None]
    batch = {
        "decoder_input_tokens": read,
        "decoder_segment_ids": (places < len(before) + len(given)).astype(np.int32),
        "decoder_positions": places.astype(np.int32),
        "decoder_causal_attention": (places < len(before)).astype(np.int32),
    }
    if not is_decoder:
        tokens = np.array([[*prompt, *source]], np.int32)
        batch |= {"encoder_input_tokens": tokens, "encoder_segment_ids": np.ones_like(tokens)}
    return np.asarray(plain(model)(params, batch))[0, len(before) - 1 : len(before) + len(given)]


@pytest.fixture(params=["t5", "decoder", "relative"])
def prompted(request):
    """A model and its parameters with a prompt of 5 vectors."""
    if request.param == "relative":
        model = decoder.DecoderLM(dataclasses.replace(RELATIVE, vocab_size=384))
        batch = make_layout("decoder", 8, 8, 0).batch([np.arange(3)], [np.arange(3)], [1])
        params = nn.unbox(jax.jit(model.init)(jax.random.key(0), batch)["params"])
    else:
        model, params = make_model(request.param)
    return model, with_prompt(params, np.random.default_rng(0).normal(size=(P, 16)) * 2)


def test_options_score_as_each_does_alone_after_the_prompt(prompted):
    model, params = prompted
    inputs, options = rows(4)
    scores = RankScorer(model, batch_tokens=1024).scores(params, inputs, options)
    apart = RankScorer(model).scores_apart(params, inputs[0], options[0])
    for row, (source, choices) in enumerate(zip(inputs, options)):
        for option, score in zip(choices, scores[row]):
            by_token = following(model, params, source, option[:-1])
            expected = by_token[np.arange(len(option)), option].sum()
            assert score == pytest.approx(expected, abs=2e-5)
    np.testing.assert_allclose(apart, scores[0], atol=2e-5)
    if isinstance(model, decoder.DecoderLM):  # as in lm-evaluation-harness, whose contexts have BOS
        begun = [np.array([0, *source], np.int32) for source in inputs]
        without = RankScorer(model, batch_tokens=1024, bos_id=None).scores(params, begun, options)
        np.testing.assert_array_equal(np.concatenate(without), np.concatenate(scores))
    other = RankScorer(model).scores(with_prompt(params, -prompt_of(params)), inputs, options)
    assert np.abs(other[0] - scores[0]).max() > 1e-3


def test_answers_are_those_of_the_plain_model_after_the_prompt(prompted):
    model, params = prompted
    inputs, _ = rows(3)
    answers = Generator(model, VOCABULARY, max_length=6).tokens(params, inputs)
    for source, answer in zip(inputs, answers):
        written = []
        while len(written) < 6 and 1 not in written:
            written.append(int(following(model, params, source, written)[-1].argmax()))
        assert answer.tolist() == [*written, *[0] * (6 - len(written))]


def test_rows_after_a_restart_get_the_widths_of_rows_with_a_prompt(prompted):
    model, params = prompted
    inputs, options = rows(6)
    scorer, passing = RankScorer(model), RankScorer(model)
    scorer.scores(params, inputs, options)
    passing.pass_over(inputs, options, P)
    assert passing.shapes == scorer.shapes
    writer, passing = (Generator(model, VOCABULARY, max_length=2) for _ in range(2))
    writer.tokens(params, inputs)
    passing.pass_over(inputs, P)
    assert passing.shapes == writer.shapes


# --- What a prompt begins as


def started(init: str, seed: int = 0, length: int = 4, name: str = "t5"):
    """Returns (the parameters of a model, the prompt of step 0)."""
    model = PACKED[name]
    peft = PeftConfig("prompt", prompt_length=length, prompt_init=init)
    mesh = partitioning.make_mesh({"data": 1}, jax.devices()[:1])
    shapes = layout_of(name).shapes(1)
    sharded = ShardedState(model, adamw(1e-3), mesh, shapes, seed, peft=peft)
    base = jax.jit(lambda: partitioning.unbox(sharded._init_base()))()
    start = None
    if sharded.tuning.needs_start:
        start = embedding_means(peft, Letters(), seed)
    return base, np.asarray(prompt_of(sharded.fresh(base, start)["params"]))


class Letters:
    """A vocabulary of 60 ids: those of letters, 'a' being 10."""

    size = 60

    def encode(self, text):
        return [10 + ord(letter) - ord("a") for letter in text if letter.isalpha()]

    encode_target = encode


@pytest.mark.parametrize("name", ["t5", "rotary"])
def test_a_prompt_begins_as_rows_of_the_table(name):
    base, prompt = started("vocabulary", name=name)
    embedder = base["token_embedder"] if name == "t5" else base["decoder"]["token_embedder"]
    table = np.asarray(embedder["embedding"])
    places = [int(np.flatnonzero((table == vector).all(axis=1))[0]) for vector in prompt]
    assert len(set(places)) == 4 and max(places) < 60  # not the rows that pad the table
    np.testing.assert_array_equal(prompt, started("vocabulary", name=name)[1])
    assert (prompt != started("vocabulary", seed=1, name=name)[1]).any()
    text = started("text: abc", name=name)[1]
    np.testing.assert_array_equal(text, table[[10, 11, 12, 10]])
    labels = started("labels: ac, b", name=name)[1]
    np.testing.assert_allclose(labels[0], (table[10] + table[12]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(labels[1], table[11])
    np.testing.assert_array_equal(labels[2:], prompt[:2])
    uniform = started("uniform", length=50, name=name)[1]
    assert 0.45 < np.abs(uniform).max() < 0.5 and np.unique(uniform).size > 700


def test_a_prompt_longer_than_the_vocabulary_repeats_its_tokens():
    means = embedding_means(PeftConfig("prompt", prompt_length=130), Letters(), 0)
    assert isinstance(means, EmbeddingMeans) and sorted(set(means.ids)) == list(range(60))
    assert means.places.tolist() == list(range(130))


@pytest.mark.parametrize(
    "init, said",
    [
        ("text: 12", "'12' has no token in VOCABULARY"),
        ("labels: a,,b", "'' has no token in VOCABULARY"),
        ("labels: a,b,c,d,e", "5 labels, and PROMPT_LENGTH is 4; give fewer labels"),
    ],
)
def test_texts_that_give_no_prompt_are_refused(init, said):
    peft = PeftConfig("prompt", prompt_length=4, prompt_init=init)
    with pytest.raises(UserError, match=said):
        embedding_means(peft, Letters(), 0)


# --- Data


def data_of(tmp_path, inputs: int, prompt_length: int, architecture: str = "t5"):
    config = DataConfig(
        held_out="none",
        mixture_or_task_name="rte",
        architecture=architecture,
        task_feature_lengths={"inputs": inputs, "targets": 32},
        train_steps=2,
        batch_size=2,
        validation_batches=1,
        cache_dir=str(tmp_path / "cache"),
        prompt_length=prompt_length,
    )
    prepare(config, workers=1)
    return open_data(config, 512)


def test_inputs_leave_room_for_the_prompt_and_tokens_are_those_of_shorter_rows(tmp_path):
    longer, shorter = data_of(tmp_path, 220, 20), data_of(tmp_path, 200, 0)
    assert longer.train.shard_key("rte", 0) == shorter.train.shard_key("rte", 0)
    assert longer.train.counts("rte") == shorter.train.counts("rte")
    assert longer.train.counts("rte")["inputs truncated"] > 0
    for split in ("train", "validation"):
        batch = longer.train.batches(split).at(0)
        starts = batch["encoder_input_tokens"] == 512
        count = batch["encoder_segment_ids"].max(axis=1).sum()
        assert starts.sum() == count > 0 and (batch["encoder_positions"][starts] == 0).all()
    other = data_of(tmp_path, 220, 20, "decoder")
    batch = other.train.batches().at(0)
    starts = batch["decoder_input_tokens"] == 512
    assert starts.sum() == batch["decoder_segment_ids"].max(axis=1).sum()
    assert (batch["decoder_positions"][starts] == 0).all()
    assert batch["decoder_target_tokens"].max() < 512


def test_a_prompt_that_leaves_no_room_is_refused():
    lengths = {"inputs": 100, "targets": 32}
    with pytest.raises(UserError, match="PROMPT_LENGTH=99 leaves no room .* 100 tokens; raise"):
        DataConfig(task_feature_lengths=lengths, prompt_length=99)
    assert DataConfig(task_feature_lengths=lengths, prompt_length=98).example_lengths() == (2, 32)


def test_labels_are_tokens_of_the_byte_vocabulary():
    peft = PeftConfig("prompt", prompt_length=3, prompt_init="labels: yes, no")
    means = embedding_means(peft, ByteVocabulary(), 0)
    assert means.ids[:5].tolist() == [ord(letter) + 3 for letter in "yesno"]
    assert means.places.tolist() == [0, 0, 0, 1, 1, 2]
