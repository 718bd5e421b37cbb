"""Points: every number that a figure draws, as a plain row, and the CSV file of them."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

from flan_jax.report.comparisons import Comparison
from flan_jax.report.summaries import Summary

# Values of `Point.kind`.
TUNED, UNTUNED, MAJORITY, PAPER = "tuned", "untuned", "majority", "paper"
# The value of `Point.cluster` of a mean over clusters.
MEAN = "Mean of the clusters"


@dataclasses.dataclass(frozen=True)
class Point:
    """A number that a figure draws, in percent (a difference: in percentage points).

    Attributes:
      cluster, dataset: of the evaluation; the dataset of a mean over datasets is ''.
      series: the model, as the legend names it.
      kind: 'tuned', 'untuned', 'majority' or 'paper'.
      x: the place on the figure's axis (number of clusters, name of a template, ...); None where
        the figure has none.
      value: the number.
      low, high: its 95 % interval from rows; None if it is not known.
      std: standard deviation over templates; None for a single one.
      seeds, std_seeds: number of runs that differ only in their seed and are averaged, and the
        standard deviation over them.
      n: rows evaluated in each template.
      templates: number of templates.
      split, metric, size, step: what was evaluated, on what, and which model.
      is_equal: False for a mean over other datasets, splits or rows than those beside it.
      note: what a reader has to know, such as 'recalled, unverified'.
    """

    cluster: str
    dataset: str
    series: str
    kind: str
    value: float
    x: float | str | None = None
    low: float | None = None
    high: float | None = None
    std: float | None = None
    seeds: int = 1
    std_seeds: float | None = None
    n: int | None = None
    templates: int | None = None
    split: str = ""
    metric: str = ""
    size: str = ""
    step: int | None = None
    is_equal: bool = True
    note: str = ""

    def replaced(self, **values: Any) -> Point:
        """Returns the point with other values."""
        return dataclasses.replace(self, **values)


COLUMNS = tuple(field.name for field in dataclasses.fields(Point))


def csv_text(points: Iterable[Point]) -> str:
    """Returns points as CSV, numbers with all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(vars(point).values() for point in points)
    return text.getvalue()


def point_of(summary: Summary, series: str, kind: str, **more: Any) -> Point:
    """Returns the point of a summary.

    Args:
      summary: a dataset's numbers, or the mean over datasets.
      series: see `Point`.
      kind: see `Point`.
      **more: further attributes of the point.
    """
    low, high = summary.interval or (None, None)
    point = Point(
        cluster=summary.cluster,
        dataset=summary.dataset,
        series=series,
        kind=kind,
        value=summary.mean,
        low=low,
        high=high,
        std=summary.std,
        seeds=max(len(summary.runs), 1),
        std_seeds=summary.sd_seeds,
        n=summary.n,
        templates=len(summary.templates),
        split=summary.split,
        metric=summary.metric,
        size=summary.series.size,
        step=summary.series.step,
    )
    return point.replaced(**more)


def rows_of(summary: Summary) -> tuple:
    """Returns what identifies the rows of a dataset's numbers: (dataset, split, rows).

    Rows are their ids where those are known, else their number.
    """
    rows = summary.measures[0].units if summary.measures else summary.n
    return summary.dataset, summary.split, rows


def rows_of_mean(members: Sequence[Summary]) -> frozenset:
    """Returns what identifies the rows of a mean over the datasets of `members`."""
    return frozenset(map(rows_of, members))


def unequal(contents: Sequence[frozenset]) -> list[bool]:
    """Returns which of several means are over other rows than most of them.

    Of equally frequent ones the first counts.
    """
    if not contents:
        return []
    (most, _), *_ = collections.Counter(contents).most_common(1)
    return [content != most for content in contents]


def untuned_of(lines: Iterable[Comparison]) -> list[tuple[Summary, str, str]]:
    """Returns the untuned models of a dataset's lines, each once, with two texts.

    The first is the name of the tuned model, empty where several have the same untuned one: they
    began with the same parameters. The second is `other_setting`, if that is so beside all of them.
    """
    users: dict[Summary, list[Comparison]] = {}
    for line in lines:
        if line.untuned:
            series = line.untuned.series._replace(run="")
            same = dataclasses.replace(line.untuned, series=series, runs=())
            users.setdefault(same, []).append(line)
    result = []
    for summary, beside in users.items():
        notes = [other_setting(line) for line in beside]
        name = beside[0].label if len(beside) == 1 else ""
        result.append((summary, name, notes[0] if all(notes) else ""))
    return result


def other_setting(line: Comparison) -> str:
    """Returns how the untuned model was evaluated, if that is not how the tuned one was.

    A mean has what one of its datasets has.
    """
    if line.over:
        return ", ".join(dict.fromkeys(filter(None, map(other_setting, line.over))))
    if not (line.untuned and line.tuned):
        return ""
    theirs, ours = line.untuned.series, line.tuned.series
    parts = [
        f"instructions: {theirs.instruction_mode}"
        if theirs.instruction_mode != ours.instruction_mode
        else "",
        f"{theirs.shots} shots" if theirs.shots != ours.shots else "",
    ]
    return ", ".join(part for part in parts if part)


def equal_rows(lines: Iterable[Comparison]) -> dict[str, bool]:
    """Returns by the name of a model whether its mean is over the rows of most others."""
    means = [line for line in lines if line.over]
    contents = [rows_of_mean([each.any for each in line.over]) for line in means]
    return {line.label: not is_odd for line, is_odd in zip(means, unequal(contents))}
