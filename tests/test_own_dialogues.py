"""Files of dialogues: their records, the batches of a run, and a run that is resumed."""

import collections
import json

import numpy as np
import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue.records import Drop
from flan_jax.cli import dispatch
from flan_jax.data.config import DataConfig
from flan_jax.data.record_forms import FORMS, recognize, row_of
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.prepare import prepare
from support import chat_templates
from support.runs import SMALL_DECODER, command, losses, run

pytest.importorskip("tokenizers", reason="the extra [hf] is not installed")
pytest.importorskip("jinja2", reason="DIALOGUES ARE NOT CHECKED: jinja2 ([hf]) is missing")


def messages(number: int, turns: int = 2) -> list[dict]:
    """Returns a dialogue whose texts have its number."""
    result = []
    for turn in range(turns):
        result.append({"role": "user", "content": f"Question {number}.{turn}?"})
        result.append({"role": "assistant", "content": f"Answer {number}.{turn}."})
    return result


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def mine(tmp_path):
    """A file of 30 dialogues of one to three turns."""
    return write(tmp_path / "chat.jsonl", [{"messages": messages(i, 1 + i % 3)} for i in range(30)])


def config(tmp_path, mine, **changes) -> DataConfig:
    directory = chat_templates.save("smollm 2", tmp_path / "tokenizer")
    settings = dict(
        mixture_or_task_name=str(mine),
        held_out="none",
        architecture="decoder",
        vocabulary=str(directory / "tokenizer.json"),
        batch_size=4,
        train_steps=6,
        task_feature_lengths={"inputs": 200, "targets": 100},
        cache_dir=str(tmp_path / "cache"),
        validation_batches=1,
    )
    return DataConfig(**{**settings, **changes})


TURNS = [("human", "Hi"), ("gpt", "Ho"), ("observation", "rain"), ("gpt", "Wet.")]
SHARED = [{"from": role, "value": text} for role, text in TURNS]


@pytest.mark.parametrize("spell", [lambda value: value, json.dumps])
def test_both_forms_become_messages(spell):
    roles = ("user", "assistant", "tool", "assistant")
    expected = [{"role": role, "content": text} for role, (_, text) in zip(roles, TURNS)]
    row = row_of({"conversations": spell(SHARED)}, "conversations")
    assert row["messages"] == expected and row["answer"] == "Wet."
    assert row["inputs"] == "User: Hi\n\nAssistant: Ho\n\nTool: rain"
    tools = [{"type": "function"}]
    row = row_of({"messages": spell(expected), "tools": spell(tools)}, "messages")
    assert (row["messages"], row["tools"]) == (expected, tools)
    row = row_of({"conversations": spell(SHARED), "system": "Be brief."}, "conversations")
    assert row["messages"] == [{"role": "system", "content": "Be brief."}, *expected]
    form, unread = recognize([{"messages": [], "id": 1}], "rows")
    assert (form, unread) == (FORMS["messages"], ["id"])


CALL = [{"function": {"name": "weather", "arguments": {}}}]


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "no list in messages"),
        ([], "no list in messages"),
        ("not json", "messages or tools is a text that is not JSON"),
        (["hello"], "messages has an entry that is not an object"),
        ([{"content": "x"}], "a message has no role"),
        ([{"role": "assistant"}], "a message has no content"),
        ([{"role": "user", "content": "x"}], "no turn of the assistant's"),
        (
            [{"role": "assistant", "content": "\udcff"}],
            "a message is not UTF-8, or has half of a character",
        ),
        (
            [{"role": "assistant", "content": "x"}, {"role": "user", "content": "\udcff"}],
            "a message is not UTF-8, or has half of a character",
        ),
        (
            [{"role": "user", "content": {"text": "x"}}],
            "the content of a message is not text but a dict",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}],
            "a message has a part that is not text",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": {"value": "x"}}]}],
            "a message has a part that is not text",
        ),
    ],
)
def test_a_dialogue_that_cannot_be_used_is_dropped_with_the_reason(value, reason):
    assert row_of({"messages": value}, "messages") == Drop(reason)
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": CALL}]
    assert json.loads(row_of({"messages": said}, "messages")["answer"]) == CALL
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": " you"}]
    for content in (parts, ["Hi", " you"]):
        shared = [{"from": "human", "value": content}, {"from": "gpt", "value": content}]
        row = row_of({"conversations": shared}, "conversations")
        assert (row["inputs"], row["answer"]) == ("Hi you", "Hi you")
    odd = [{"from": "narrator", "value": "x"}]
    assert row_of({"conversations": odd}, "conversations") == Drop(
        "unknown role narrator in conversations"
    )


def texts_of(data, batch) -> list[tuple[str, str]]:
    """Returns (text, trained text) of each example, special tokens included."""
    decode, found = data.vocabulary.plain._rendered_model.decode, []
    for b in range(len(batch["decoder_segment_ids"])):
        segments = batch["decoder_segment_ids"][b]
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            ids = batch["decoder_target_tokens"][b][here]
            weights = batch["decoder_loss_weights"][b][here]
            first = batch["decoder_input_tokens"][b][here][:1]
            parts = (np.concatenate([first, ids]), ids[weights == 1])
            found.append(tuple(decode(part.tolist(), skip_special_tokens=False) for part in parts))
    return found


def test_dialogues_train_packed_with_the_loss_on_the_assistants_turns(mine, tmp_path):
    data = prepare(config(tmp_path, mine), workers=1)
    expected = {}
    for i in range(30):
        dialogue = messages(i, 1 + i % 3)
        whole = data.vocabulary.template.render(dialogue).rstrip("\n")
        expected[whole] = "".join(f"Answer {i}.{turn}.<|im_end|>" for turn in range(1 + i % 3))
    seen = {
        pair
        for split in ("train", "validation")
        for batches in [data.train.batches(split)]
        for step in range(len(batches))
        for pair in texts_of(data, batches.at(step))
    }
    assert seen <= set(expected.items()) and len(seen) > 20
    assert data.train.counts("chat.jsonl")["rows"] == 27  # and 3 for validation
    # Several dialogues share a row.
    batch = data.train.batches().at(0)
    assert batch["decoder_segment_ids"].max() > 1
    last = prepare(config(tmp_path, mine, loss_on="last"), workers=1)
    for whole, trained in texts_of(last, last.train.batches().at(0)):
        assert whole.endswith(trained) and trained.count("Answer") == 1


def test_dialogues_are_lost_only_with_a_word_about_it(tmp_path, caplog):
    records = [{"messages": messages(i)} for i in range(20)]
    records[3]["messages"][0]["role"] = "wizard"
    records[4]["messages"].pop(0)
    records += [{"messages": []}, {"other": 1}]
    mine = write(tmp_path / "chat.jsonl", records)
    vocabulary = chat_templates.save("gemma 3", tmp_path / "gemma") / "tokenizer.json"
    data = prepare(config(tmp_path, mine, vocabulary=str(vocabulary)), workers=1)
    counts = data.train.counts("chat.jsonl")
    assert counts["dropped: no list in messages"] == 2
    reason = "dialogues refused by the chat template (user and assistant must take turns)"
    assert counts[reason] == 2
    assert counts["rows"] + counts[reason] + 2 + 2 == len(records)  # two are for validation


@pytest.mark.parametrize("architecture", ["t5", "decoder"])
def test_each_turn_trains_without_a_template(tmp_path, mine, architecture):
    data = prepare(config(tmp_path, mine, vocabulary="bytes", architecture=architecture), workers=1)
    assert data.train.counts("chat.jsonl")["rows"] > 50  # turns of 27 dialogues
    batch, vocabulary = data.train.batches().at(0), ByteVocabulary()
    trained = batch["decoder_target_tokens"][batch["decoder_loss_weights"] == 1].tolist()
    answer = vocabulary.decode(trained)
    assert answer.startswith("Answer ") and answer.endswith(".")


def test_check_and_render_have_the_lengths_and_losses_of_dialogues(tmp_path, mine, capsys):
    """In a chat template whole dialogues, without one each turn; the counts are those of a run."""
    records = [*map(json.loads, mine.read_text().splitlines()), {"messages": []}]
    write(mine, records)
    one = config(tmp_path, mine, task_feature_lengths={"inputs": 100, "targets": 20})
    data = prepare(one, workers=1)
    arguments = [str(mine), f"--vocabulary={one.vocabulary}", "--lengths=100,20"]
    assert dispatch.main(["tasks", "check", *arguments, "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    counts = collections.Counter()
    for name, split in record["splits"].items():
        of_run = data.train.counts("chat.jsonl", name)
        assert split["used"] == split["examples"] == of_run["rows"]
        assert split["counted"].get("dialogues truncated", 0) == of_run["dialogues truncated"]
        counts.update({"used": split["used"], "truncated": of_run["dialogues truncated"]})
        counts.update({reason: count for reason, (count, _) in split["left_out"].items()})
    assert counts == {"used": 30, "truncated": 10, "no list in messages": 1}
    whole = data.vocabulary.template.render(messages(2, 3)).rstrip("\n")
    longest = len(data.vocabulary.encode_rendered(whole)) - 1  # the first token is BOS
    trained = len(data.vocabulary.encode_rendered("Answer 2.0.<|im_end|>")) * 3
    assert dispatch.main(["tasks", "render", *arguments, "--num_rows=3", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[2]["tokens"] == [{"dialogue": longest, "trained": trained}]
    assert [row["counts"] for row in rows] == [{}, {}, {"dialogues truncated": 1}]
    assert dispatch.main(["tasks", "check", *arguments]) == 0
    said = capsys.readouterr().out
    assert f" {record['splits']['train']['counted']['dialogues truncated']} dialogues trunc" in said
    assert "left out: 1, no list in messages (the first: train/30, counted from 0)" in said
    assert dispatch.main(["tasks", "render", str(mine), "--num_rows=2"]) == 0
    said = capsys.readouterr().out
    turns = "inputs 14, targets 12 | inputs 65, targets 12"
    assert f"record (dialogue); tokens: {turns}" in said and "Answer 1.1." in said


@pytest.mark.slow
def test_a_run_on_dialogues_is_the_same_on_eight_devices_and_after_a_restart(mine, tmp_path):
    directory = chat_templates.save("smollm 2", tmp_path / "tokenizer")
    settings = [
        "--gin.ARCHITECTURE=decoder",
        "--gin.SIZE=decoder_test",
        *SMALL_DECODER,
        "--gin.DecoderConfig.dtype=float32",
        "--gin.HELD_OUT=none",
        f"--gin.VOCABULARY={directory}/tokenizer.json",
        f"--gin.MIXTURE_OR_TASK_NAME={mine}",
        "--gin.CHECKPOINT_EVERY=3",
        "--gin.LOG_EVERY=1",
    ]

    def train(name: str, steps: int, devices: int) -> list[float]:
        words = command("train", tmp_path / "cache", tmp_path / name, *settings)
        done = run([*words, f"--gin.TRAIN_STEPS={steps}"], devices=devices)
        assert done.returncode == 0, done.stderr
        return list(losses(tmp_path / name).values())

    whole = train("one", 6, 1)
    assert train("eight", 3, 8) == pytest.approx(whole[:3], rel=1e-5)
    assert train("eight", 6, 8) == pytest.approx(whole, rel=1e-5)
