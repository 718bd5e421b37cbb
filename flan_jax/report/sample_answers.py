"""Answers of a run to its SAMPLE_PROMPTS, before and after tuning: `answers.jsonl`."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from flan_jax.evaluation.result_rows import UNTUNED
from flan_jax.messages import escaped
from flan_jax.report.table import markdown_line
from flan_jax.storage.files import parse_json, readable, write_file

FILE = "answers.jsonl"
_ADVICE = "remove it; the same command answers the prompts again"


class SampleAnswer(NamedTuple):
    """An answer of a model.

    Attributes:
      model: 'untuned' or 'tuned'.
      step: of its parameters.
      origin: a digest of what the answer depends on, but for the prompt.
      prompt: a text, or messages.
      answer: its text.
      cut: whether it was truncated at the most tokens of an answer.
    """

    model: str
    step: int
    origin: str
    prompt: Any
    answer: str
    cut: bool = False


class Pair(NamedTuple):
    """The answers to a prompt, each with '...' behind it where it was truncated; None: no answer.

    Attributes:
      prompt: its text; of messages, that of the last one.
      before: of the untuned model.
      after: of the last step of the tuned one.
    """

    prompt: str
    before: str | None
    after: str | None


def read_answers(directory: pathlib.Path) -> list[SampleAnswer]:
    """Returns the answers in the directory of a run; none without a file.

    Raises:
      UserError: if the file is damaged.
    """
    path = directory / FILE
    if not path.is_file():
        return []
    with readable(path, _ADVICE):
        lines = path.read_bytes().splitlines()
        return [SampleAnswer(**parse_json(line, path, advice=_ADVICE)) for line in lines]


def keep_answers(directory: pathlib.Path, answers: Sequence[SampleAnswer]) -> None:
    """Writes the file anew with these answers."""
    lines = [json.dumps(answer._asdict(), ensure_ascii=False) + "\n" for answer in answers]
    write_file(directory / FILE, "".join(lines))


def side_by_side(answers: Sequence[SampleAnswer]) -> list[Pair]:
    """Returns the prompts in their order, each with its answers before and after tuning."""
    steps = [answer.step for answer in answers if answer.model != UNTUNED]
    last = max(steps, default=None)
    texts: dict[str, dict[bool, str]] = {}
    for answer in answers:
        is_untuned = answer.model == UNTUNED
        if is_untuned or answer.step == last:
            shown = answer.answer + (" ..." if answer.cut else "")
            # The whole prompt: conversations may end in the same message.
            texts.setdefault(json.dumps(answer.prompt), {})[is_untuned] = shown
    return [
        Pair(prompt_text(json.loads(prompt)), each.get(True), each.get(False))
        for prompt, each in texts.items()
    ]


def prompt_text(prompt: Any) -> str:
    """Returns a prompt for readers: of messages, the last one."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def answers_markdown(pairs: Sequence[Pair]) -> str:
    """Returns a section with a table of the answers; '' for none."""
    if not pairs:
        return ""
    head = [markdown_line(["prompt", "before tuning", "after tuning"])]
    head += [markdown_line(["---"] * 3)]
    lines = [markdown_line([_cell(each) for each in pair]) for pair in pairs]
    return "\n".join(["", "## Answers before and after tuning", "", *head, *lines, ""])


def _cell(content: str | None) -> str:
    """A text as a cell of a Markdown table: one line, without marks of tables and HTML."""
    line = " ".join(escaped(content or "").split())
    for mark, shown in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("`", "\\`")):
        line = line.replace(mark, shown)
    return line
