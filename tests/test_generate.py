"""`flan-jax generate`.

Flags that do not fit are refused, and a file of answers goes on where a kill left it.
"""

import json
import logging

import numpy as np
import pytest

from flan_jax import generate
from flan_jax.cli import dispatch
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation.generator import Generator
from flan_jax.models.t5 import T5, T5Config
from flan_jax.runs import answers, prompts

PROMPTS = [f"number {i}, größer" for i in range(11)]
IDENTITY = {"method": "sample", "seed": 1, "parameters": "abc"}


class Model:
    """Answers with the prompt and its place, and counts.

    Stops like a killed process after `most` answers.
    """

    def __init__(self, most=1000):
        self.answered, self.most = 0, most

    def __call__(self, prompts, first):
        self.answered += len(prompts)
        if self.answered > self.most:
            raise KeyboardInterrupt
        return [
            (f"{first + i}:\n{prompt.upper()}", first + i == 4) for i, prompt in enumerate(prompts)
        ]


def write(output, model, prompts=PROMPTS, chunk=3, **changes):
    generate.write_answers(output, prompts, model, {**IDENTITY, **changes}, chunk)
    return output.read_text(encoding="utf-8")


def test_answers_are_lines_in_the_order_of_the_prompts(tmp_path):
    text = write(tmp_path / "answers.jsonl", Model())
    assert [json.loads(line) for line in text.splitlines()] == [
        {"prompt": prompt, "answer": f"{i}:\n{prompt.upper()}", **({"cut": True} if i == 4 else {})}
        for i, prompt in enumerate(PROMPTS)
    ]
    assert write(tmp_path / "other.jsonl", Model(), chunk=100) == text


@pytest.mark.parametrize("most", [2, 3, 7, 9])
def test_a_killed_command_keeps_its_answers_and_resumes(tmp_path, most):
    whole, output = write(tmp_path / "whole.jsonl", Model()), tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(output, Model(most))
    assert len(output.read_text().splitlines()) == most // 3 * 3
    rest = Model()
    assert write(output, rest) == whole
    assert rest.answered == len(PROMPTS) - most // 3 * 3


def test_cut_anywhere_it_ends_up_the_same_and_answers_only_the_chunks_that_are_missing(tmp_path):
    output = tmp_path / "answers.jsonl"
    whole = write(output, Model()).encode()
    for length in range(0, len(whole) + 1, 7):
        output.write_bytes(whole[:length])
        rest = Model()
        assert write(output, rest).encode() == whole
        lines = whole[:length].count(b"\n")
        assert rest.answered == (0 if lines == len(PROMPTS) else len(PROMPTS) - lines // 3 * 3)


@pytest.mark.parametrize("damage", [b"", b"[]", b"null", b"\xff", b"{", b"[" * 10_000])
def test_a_damaged_record_beside_the_answers_is_named(tmp_path, damage):
    write(tmp_path / "answers.jsonl", Model())
    (tmp_path / "answers.jsonl.settings.json").write_bytes(damage)
    with pytest.raises(UserError, match="answers.jsonl.settings.json .*delete it together with"):
        write(tmp_path / "answers.jsonl", Model())


@pytest.mark.parametrize(
    "line", [b"[1]", b"null", json.dumps({"prompt": PROMPTS[0]}).encode(), b"\xff", b"[" * 9_999]
)
def test_a_line_that_is_no_answer_is_named(tmp_path, line):
    write(tmp_path / "answers.jsonl", Model())
    (tmp_path / "answers.jsonl").write_bytes(line + b"\n")
    with pytest.raises(UserError, match="line 1 of .*answers.jsonl"):
        write(tmp_path / "answers.jsonl", Model())


def test_control_characters_of_an_answer_do_not_reach_a_terminal(monkeypatch):
    answer = "red\x1b[31m\nline"
    assert generate._on_one_line(answer) == "red\\x1b[31m\\nline"
    assert generate._as_printed(answer) == answer  # a file or a pipe gets what the model wrote
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert generate._as_printed(answer) == "red\\x1b[31m\nline"


@pytest.mark.parametrize(
    "flag", ["--output=az://bucket/a", "--file=az://bucket/a", "--checkpoint=hf://org/model"]
)
def test_a_url_is_refused_before_anything_is_opened(flag, capsys):
    prompts = [] if flag.startswith("--file") else ["hello"]
    assert dispatch.main(["generate", "--gin_file=gin/flan.gin", flag, *prompts]) == 2
    name, _, url = flag.partition("=")
    assert f"{name} {url} is a URL, and" in capsys.readouterr().err


def test_nothing_is_answered_twice(tmp_path, caplog):
    caplog.set_level(logging.INFO, "flan_jax")
    write(tmp_path / "answers.jsonl", Model())
    again = Model()
    write(tmp_path / "answers.jsonl", again)
    assert again.answered == 0 and "11 of 11 answers are in" in caplog.text


def test_answers_to_other_prompts_or_by_others_are_never_continued(tmp_path):
    output = tmp_path / "answers.jsonl"
    before = write(output, Model(), PROMPTS[:6])
    with pytest.raises(UserError, match="line 3 of .* answers another prompt"):
        write(output, Model(), [*PROMPTS[:2], "else", *PROMPTS[3:]])
    with pytest.raises(UserError, match="line 6 of .* answers another prompt"):
        write(output, Model(), PROMPTS[:5])
    with pytest.raises(UserError, match="another seed and parameters; remove it"):
        write(output, Model(), seed=2, parameters="abd")
    assert output.read_text(encoding="utf-8") == before
    output.write_text("not ours\n" + before, encoding="utf-8")
    with pytest.raises(UserError, match="line 1 of "):
        write(output, Model())
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "nowhere/answers.jsonl", Model())


def test_hosts_that_do_not_write_answer_the_same_prompts(tmp_path):
    model = Model()
    generate.write_answers(tmp_path / "answers.jsonl", PROMPTS, model, IDENTITY, 4, writes=False)
    assert model.answered == len(PROMPTS) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--temperature=0.7"],
            "--temperature has no effect with --method=greedy; add --method=sample",
        ),
        (
            ["--method=sample", "--beams=2"],
            "--beams has no effect with --method=sample; add --method=beam",
        ),
        (
            ["--method=beam", "--seed=2"],
            "--seed has no effect with --method=beam; add --method=sample",
        ),
        (["--method=sampel"], "must be one of greedy, sample, beam"),
        (["--method=sample", "--temperature=0"], "temperature is 0.0, but must be at least 1e-6"),
        (["--method=sample", "--top_p=90"], "top_p is 90.0"),
        (["--method=beam", "--beams=0"], "beams is 0"),
        (["--method=beam", "--beam_size=3"], "unrecognized arguments"),
        (["--method=sample", "--top_k=half"], "invalid int value: 'half'"),
    ],
)
def test_wrong_flags_are_a_clear_error_message_before_a_model_is_loaded(flags, message, capsys):
    assert dispatch.main(["generate", "--gin_file=gin/flan.gin", "Is water wet?", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_prompts_are_encoded_as_the_model_reads_them():
    vocabulary = ByteVocabulary()
    one, two = answers.encoded(["ab", "c"], vocabulary, 2 + len(vocabulary.input_end))
    assert one.dtype == np.int32 and one.tolist() == [
        *vocabulary.encode("ab"),
        *vocabulary.input_end,
    ]
    assert len(two) == len(one) - 1
    with pytest.raises(
        UserError, match="has 4 tokens with its end, but TASK_FEATURE_LENGTHS allows 3"
    ):
        answers.encoded(["ab", "abc"], vocabulary, 2 + len(vocabulary.input_end))


def test_a_file_that_generate_did_not_write_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(UserError, match="was not written by"):
        generate.write_answers(
            tmp_path / "notes.txt", ["a"], lambda some, first: [("b", False)], {}, 4
        )
    assert (tmp_path / "notes.txt").read_text() == "notes"


def test_prompts_are_utf_8_with_or_without_a_mark_of_it(tmp_path, capsys):
    (tmp_path / "prompts").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="not UTF-8"):
        generate.main(["--gin_file=gin/flan.gin", "caf\udce9"])
    with pytest.raises(UserError, match="not UTF-8"):
        prompts.read_prompts(str(tmp_path / "prompts"))
    (tmp_path / "prompts").write_bytes(b"\xef\xbb\xbfa\r\n\r\nb")
    assert prompts.read_prompts(str(tmp_path / "prompts")) == ["a", "b"]
    assert "1 of 3 lines are empty" in capsys.readouterr().err


def test_an_answer_without_an_end_is_cut():
    generator = Generator(T5(T5Config(384, 16, 2, 8, 32, 1, 1)), ByteVocabulary(), max_length=3)
    generator.tokens = lambda *_: [
        np.array(ids) for ids in ([100, 101, 102], [100, 101, 1], [1, 0, 0])
    ]
    assert generator.answers(None, [], 0) == [("abc", True), ("ab", False), ("", False)]


def test_an_answer_of_several_lines_is_printed_on_one_line():
    assert generate._on_one_line("a\nb\\n\r") == r"a\nb\\n\r"
    assert "\n" not in generate._on_one_line("a\n\nb")
