"""Prompts as messages, stops, and a conversation on a terminal, with a small random model."""

import json

import numpy as np
import pytest

from flan_jax import generate
from flan_jax.cli import dispatch
from flan_jax.config import gin_files
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.models.decoding.method import Decoding
from flan_jax.runs.answers import encoded, make_answer, stopped
from flan_jax.runs.conversation import NEW, Stream, converse
from flan_jax.runs.prompts import read_prompts
from flan_jax.runs.setup import open_model
from flan_jax.training.resume import initial_state
from support import chat_templates

SMALL = ("emb_dim=32", "num_heads=2", "head_dim=16", "mlp_dim=64", "num_layers=2", "dtype=float32")
QUESTION = [{"role": "user", "content": "Wet?"}]


def opened(tmp_path_factory, *settings):
    """Returns a run with a random model, and its parameters."""
    arguments = [
        "--gin_file=gin/flan.gin",
        "--gin.ARCHITECTURE=decoder",
        *(f"--gin.DecoderConfig.{setting}" for setting in SMALL),
        "--gin.MESH={'data': 1}",
        f"--gin.CACHE_DIR={tmp_path_factory.mktemp('cache')}",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 160, 'targets': 8}",
        *settings,
    ]
    gin_files.parse_command_line(arguments, CONFIGURED)
    run = open_model()
    return run, initial_state(run.sharded, None)["params"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return opened(tmp_path_factory, "--gin.VOCABULARY=bytes")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    pytest.importorskip("tokenizers", reason="the extra [hf] is not installed")
    pytest.importorskip("jinja2", reason="CONVERSATIONS ARE NOT CHECKED: jinja2 is missing")
    directory = chat_templates.save("smollm 2", tmp_path_factory.mktemp("tokenizer"))
    return opened(tmp_path_factory, f"--gin.VOCABULARY={directory}/tokenizer.json")


def test_messages_go_through_the_template_and_a_system_message_before_them(chat, plain):
    vocabulary = chat[0].data.vocabulary
    system = {"role": "system", "content": "Be brief."}
    ids = encoded(["Wet?", QUESTION], vocabulary, 100, "Be brief.")
    assert ids[0].tolist() == ids[1].tolist() == vocabulary.encode_messages([system, *QUESTION])
    assert encoded(["Wet?"], vocabulary, 100)[0].tolist() == vocabulary.encode_input("Wet?")
    byte = ByteVocabulary()
    ids = encoded(["Wet?", QUESTION], byte, 100, "Be brief.")
    assert ids[0].tolist() == ids[1].tolist() == byte.encode_input("Be brief.\n\nWet?")
    with pytest.raises(UserError, match="the prompt 'Wet[?]'... has 5 tokens with its end, but"):
        encoded([QUESTION], byte, 4)
    with pytest.raises(UserError, match="does not render the messages .*correct them"):
        encoded([[{"role": "user"}]], vocabulary, 100)


def test_a_stop_ends_an_answer_before_it():
    assert stopped("one\n\ntwo", True, ["\n\n"]) == ("one", False)
    assert stopped("one two three", True, ["three", "two"]) == ("one ", False)
    assert stopped("one", True, ["two"]) == ("one", True)


def test_max_tokens_and_stops_of_answers(plain):
    run, params = plain
    greedy = Decoding()
    whole = make_answer(run, params, ["Wet?"], greedy, 30)(["Wet?"], 0)[0][0]
    assert len(ByteVocabulary().encode(whole)) <= 30
    stop = whole[len(whole) // 2 :][:1] if whole else "x"
    text, _ = make_answer(run, params, ["Wet?"], greedy, 30, [stop])(["Wet?"], 0)[0]
    assert text == whole.split(stop)[0]


def test_tokens_come_as_they_are_written_and_make_the_same_answer(chat):
    run, params = chat
    said, lines = [], iter(["Is it wet?"])

    def read():
        for line in lines:
            return line
        raise EOFError

    converse(run, params, Decoding(), 12, [], None, said.append, read)
    (answer,) = make_answer(run, params, ["Is it wet?"], Decoding(), 12)(["Is it wet?"], 0)
    assert "".join(said) == answer[0] + "\n"
    assert len([piece for piece in said if piece]) > 3, "the answer came at once"


def test_a_conversation_goes_on_until_it_is_begun_anew(chat, monkeypatch, capsys):
    run, params = chat
    read_ids = []
    vocabulary = run.data.vocabulary
    monkeypatch.setattr(
        "flan_jax.evaluation.generator.Generator.answers",
        lambda self, params, inputs, first=0: [read_ids.append(inputs[0].tolist()) or ("Yes.", 0)],
    )
    lines = iter(["Wet?", "", "Sure?", NEW, "Cold?", "word " * 200])
    converse(run, params, Decoding(), 5, [], "Be brief.", lambda text: None, lambda: next_of(lines))
    system = {"role": "system", "content": "Be brief."}
    first = [system, *QUESTION]
    then = [*first, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Sure?"}]
    last = [system, {"role": "user", "content": "Cold?"}]
    assert read_ids == [vocabulary.encode_messages(each) for each in (first, then, last)]
    assert "shorten it" in capsys.readouterr().err


def test_a_long_conversation_loses_its_first_turns_with_a_word_about_it(chat, monkeypatch, capsys):
    run, params = chat
    count = []
    monkeypatch.setattr(
        "flan_jax.evaluation.generator.Generator.answers",
        lambda self, params, inputs, first=0: [count.append(len(inputs[0])) or ("Yes. " * 9, 0)],
    )
    lines = iter([f"Is it true that it was wet? {i}" for i in range(5)])
    converse(run, params, Decoding(), 5, [], None, lambda text: None, lambda: next_of(lines))
    assert len(count) == 5 and max(count) <= 160
    assert "turns are not read any more" in capsys.readouterr().err


def next_of(lines):
    for line in lines:
        return line
    raise EOFError


def test_half_a_character_and_half_a_stop_are_held_back():
    vocabulary, said = ByteVocabulary(), []

    def decode(ids):
        return bytes(i - 3 for i in ids if i > 2).decode(errors="replace")

    stream = Stream(decode, ["END"], said.append)
    for token in vocabulary.encode("größ EN or ENDs"):
        stream.add(np.array([token]))
    assert "".join(said) == "größ EN or " and "\N{REPLACEMENT CHARACTER}" not in said
    assert all(piece != "E" for piece in said)


def test_json_lines_are_prompts_or_messages(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "Wet?"}, {"messages": QUESTION, "id": 3}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert read_prompts(str(path)) == ["Wet?", QUESTION]
    for line in ('{"prompt": 1}', '{"messages": []}', '{"messages": [{"role": "user"}]}', "{}"):
        path.write_text(line)
        with pytest.raises(UserError, match="line 1 of .*prompts.jsonl must have either"):
            read_prompts(str(path))
    path.write_text(json.dumps({"prompt": "Wet?", "system": "Be brief."}))
    assert read_prompts(str(path)) == [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wet?"}]
    ]
    for line, says in (
        ({"prompt": "Wet?", "tools": [{"type": "function"}]}, "has 'tools', which generation"),
        ({"prompt": "cut \ud83d"}, "has half of a character"),
        ({"prompt": "Wet?", "system": 1}, "has a 'system' that is not a text"),
    ):
        path.write_text(json.dumps(line))
        with pytest.raises(UserError, match=f"line 1 of .*prompts.jsonl {says}"):
            read_prompts(str(path))
    path.write_text("Wet?")
    with pytest.raises(UserError, match="line 1 of .*write an object with 'prompt' or 'messages'"):
        read_prompts(str(path))
    output, prompts = tmp_path / "answers.jsonl", ["Wet?", QUESTION]
    answer = lambda some, first: [("Yes.", False)] * len(some)  # noqa: E731
    for _ in range(2):
        generate.write_answers(output, prompts, answer, {"seed": 1}, 1)
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert records == [
            {"prompt": "Wet?", "answer": "Yes."},
            {"messages": QUESTION, "answer": "Yes."},
        ]
    with pytest.raises(UserError, match="line 2 of .* answers another prompt"):
        generate.write_answers(output, ["Wet?", "Wet?"], answer, {"seed": 1}, 1)


@pytest.mark.parametrize(
    "flag, message",
    [("--max_tokens=0", "--max_tokens"), ("--max_tokens=many", "invalid int value")],
)
def test_wrong_lengths_are_a_clear_error_message(flag, message, capsys):
    assert dispatch.main(["generate", "--gin_file=gin/flan.gin", "Wet?", flag]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
