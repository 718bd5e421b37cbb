"""What tuning changed in a run: the held-out clusters, the validation rows, the sample answers."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from flan_jax.report.comparisons import Comparison
from flan_jax.report.page.escaping import html_table
from flan_jax.report.page.escaping import text as html_text
from flan_jax.report.sample_answers import (
    Pair,
    answers_markdown,
    read_answers,
    side_by_side,
)
from flan_jax.report.table import (
    heading,
    interval_text,
    markdown_line,
    number_text,
    setting_text,
    signed_text,
)
from flan_jax.storage.files import parse_json

_METRICS = "metrics.jsonl"  # as `training.metrics_log` writes it, which needs JAX


class Change(NamedTuple):
    """A number of the validation rows before and after tuning.

    Attributes:
      name: of the number, with its unit.
      before: at step 0; None for a run that began with random parameters.
      after: of the last validation.
      decimals: to show.
    """

    name: str
    before: float | None
    after: float
    decimals: int

    def texts(self) -> tuple[str, str, str]:
        """Returns name, before and after."""
        before = "" if self.before is None else f"{self.before:.{self.decimals}f}"
        return self.name, before, f"{self.after:.{self.decimals}f}"


class BeforeAfter(NamedTuple):
    """What tuning changed in one run.

    Attributes:
      verdicts: a sentence for each cluster and model that was evaluated before and after.
      validation: numbers of the validation rows; empty without them.
      answers: to the sample prompts.
    """

    verdicts: Sequence[str] = ()
    validation: Sequence[Change] = ()
    answers: Sequence[Pair] = ()


def read_before_after(
    lines: Sequence[Comparison], tuned_on: Collection[str], homes: Mapping[str, pathlib.Path]
) -> BeforeAfter:
    """Returns what tuning changed; of a report on several runs, nothing.

    Args:
      lines: see `comparisons.compare`.
      tuned_on: datasets that the run trained on.
      homes: the directories of the runs by name.

    Raises:
      UserError: if a file of the run is damaged.
    """
    if len(homes) != 1:
        return BeforeAfter()
    (home,) = homes.values()
    return BeforeAfter(verdicts(lines, tuned_on), *before_after_of(home)[1:])


def before_after_of(home: pathlib.Path) -> BeforeAfter:
    """Returns what a run has of itself: validation and answers.

    Raises:
      UserError: if a file of the run is damaged.
    """
    return BeforeAfter((), _validation(home), side_by_side(read_answers(home)))


def verdicts(lines: Sequence[Comparison], tuned_on: Collection[str]) -> list[str]:
    """Returns a sentence for each cluster and model, or for its only dataset: did tuning help?

    Args:
      lines: see `comparisons.compare`.
      tuned_on: datasets that a run trained on.
    """
    has_labels = len({line.label for line in lines if line.difference}) > 1
    sentences = []
    for cluster, label in dict.fromkeys((line.cluster, line.label) for line in lines):
        members = [line for line in lines if (line.cluster, line.label) == (cluster, label)]
        means = [line for line in members if not line.dataset] or members
        seen = {line.dataset for line in members} & set(tuned_on)
        name = heading(cluster) + ("" if seen else ", held out")
        name += f" ({label})" if has_labels else ""
        sentences += [f"{name}: {_verdict(line)}" for line in means if line.difference]
    return sentences


# docs/results.md has a run whose interval excludes 0, and one with another seed that differs by 0.
_ONE_SEED = "on these rows, with this seed; another seed may change more than the interval"


def _verdict(line: Comparison) -> str:
    """The numbers before and after, the interval of the difference, and what it says."""
    difference = line.difference
    before = number_text(line.untuned.mean) + setting_text(line)
    numbers = f"{before} before tuning, {number_text(line.tuned.mean)} after"
    if not difference.interval:
        return f"{numbers}; difference {signed_text(difference.value)}."
    low, high = difference.interval
    says = "these rows show no difference, as 0 is in the interval"
    if low > 0:
        says = f"better {_ONE_SEED}"
    elif high < 0:
        says = f"worse {_ONE_SEED}"
    return (
        f"{numbers}; difference {signed_text(difference.value)} "
        f"(95 %: {interval_text(difference.interval)}): {says}."
    )


def _validation(home: pathlib.Path) -> list[Change]:
    """The numbers of `metrics.jsonl` at step 0, where it has them, and at the last validation."""
    path = home / _METRICS
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    steps = [parse_json(line, path, advice="take the damaged line out") for line in lines]
    validated = [step for step in steps if "validation_loss" in step]
    if not validated:
        return []
    first, last = validated[0], validated[-1]
    before = first if first["step"] == 0 and last is not first else {}
    accuracy = before.get("validation_accuracy")
    return [
        Change(
            "loss (nats a target token)", before.get("validation_loss"), last["validation_loss"], 3
        ),
        Change(
            "accuracy of the next token (%)",
            None if accuracy is None else 100 * accuracy,
            100 * last["validation_accuracy"],
            1,
        ),
    ]


def as_markdown(changes: BeforeAfter) -> str:
    """Returns sections for report.md; '' where there is nothing to show."""
    text = ["", "## What tuning changed", ""] if changes.verdicts or changes.validation else []
    text += [line for sentence in changes.verdicts for line in (sentence, "")]
    if changes.validation:
        text += [markdown_line(["validation rows of the training datasets", "before", "after"])]
        text += [markdown_line(["---", "--:", "--:"])]
        text += [markdown_line(change.texts()) for change in changes.validation]
        text += [""]
    return "\n".join(text) + answers_markdown(changes.answers)


def verdicts_html(changes: BeforeAfter) -> str:
    """Returns the verdicts for the page; '' for none."""
    return "".join(f'<p class="verdict">{html_text(line)}</p>' for line in changes.verdicts)


def as_html(changes: BeforeAfter) -> str:
    """Returns validation and answers for the page; '' where there is nothing to show."""
    parts = []
    if changes.validation:
        titles = ("validation rows of the training datasets", "before", "after")
        rows = [change.texts() for change in changes.validation]
        parts.append(html_table("validation", titles, rows))
    if changes.answers:
        titles = ("prompt", "before tuning", "after tuning")
        parts.append(html_table("answers", titles, [list(pair) for pair in changes.answers]))
    return "".join(parts)
