"""Results as plain text for a terminal, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from flan_jax.evaluation.result_rows import UNTUNED
from flan_jax.messages import escaped
from flan_jax.report.before_after import BeforeAfter, Change
from flan_jax.report.comparisons import Comparison, means_are_alike
from flan_jax.report.sample_answers import Pair
from flan_jax.report.table import (
    difference_text,
    heading,
    name_of_mean,
    number_text,
    setting_differences,
)

WIDTH = 100
_TITLES = (
    "dataset",
    "metric",
    "rows",
    "templates",
    "before",
    "after",
    "after - before (95 %)",
    "majority",
)
_BETWEEN = "  "


def results_text(lines: Sequence[Comparison], changes: BeforeAfter) -> str:
    """Returns the tables of results, validation and answers, with what they say.

    Args:
      lines: see `comparisons.compare`.
      changes: what tuning changed.
    """
    parts = []
    for cluster in dict.fromkeys(line.cluster for line in lines):
        members = [line for line in lines if line.cluster == cluster]
        parts.append(_cluster_text(heading(cluster), members))
    parts += [textwrap.fill(sentence, WIDTH) for sentence in changes.verdicts]
    if changes.validation:
        parts.append(_validation(changes.validation))
    if changes.answers:
        parts.append(answers_text(changes.answers))
    return "\n\n".join(parts) + "\n"


def _cluster_text(title: str, lines: Sequence[Comparison]) -> str:
    """The table of a cluster; a metric that all lines have is in its heading."""
    alike = means_are_alike(lines)
    rows = [_TITLES, *(_cells(line, alike) for line in lines)]
    metrics = {line.any.metric for line in lines}
    if len(metrics) == 1:
        title = f"{title} ({metrics.pop()})"
        rows = [(name, *others) for name, _, *others in rows]
    return "\n".join([title, _aligned(rows), *_notes(lines)])


def _notes(lines: Sequence[Comparison]) -> list[str]:
    """What the numbers marked * were evaluated with before tuning, a line for each setting."""
    names: dict[str, list[str]] = {}
    for line in lines:
        if differences := setting_differences(line):
            names.setdefault(", ".join(differences), []).append(line.dataset or "mean")
    return [
        textwrap.fill(f"* before tuning with {setting}: {', '.join(dict.fromkeys(each))}", WIDTH)
        for setting, each in names.items()
    ]


def _cells(line: Comparison, alike: bool) -> tuple[str, ...]:
    summary = line.any
    name = line.dataset or name_of_mean(line, alike).strip("*")
    if line.label not in ("", "tuned", UNTUNED):
        name += f" ({line.label})"
    mark = "*" if setting_differences(line) else ""
    return (
        name,
        summary.metric,
        f"{summary.n:,}",
        str(len(summary.templates)),
        number_text(line.untuned and line.untuned.mean) + mark,
        number_text(line.tuned and line.tuned.mean),
        difference_text(line.difference),
        number_text(line.majority and line.majority.mean),
    )


def _validation(changes: Sequence[Change]) -> str:
    titles = ("Validation rows of the training datasets", "before", "after")
    return _aligned([titles, *(change.texts() for change in changes)])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns: the first to the left, cut where the line would be too long."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    others = sum(widths[1:]) + len(_BETWEEN) * (len(widths) - 1)
    widths[0] = max(min(widths[0], WIDTH - others), 12)
    lines = []
    for first, *cells in rows:
        name = first if len(first) <= widths[0] else first[: widths[0] - 3] + "..."
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:])]
        lines.append(_BETWEEN.join([name.ljust(widths[0]), *aligned]).rstrip())
    return "\n".join(lines)


def answers_text(pairs: Sequence[Pair]) -> str:
    """Returns the prompts, below each its answers before and after tuning in two columns."""
    width = (WIDTH - 3) // 2
    lines = [f"{'Before tuning':<{width}} | After tuning"]
    for pair in pairs:
        lines += ["", *_wrapped(f"> {pair.prompt}", WIDTH)]
        columns = [_wrapped(content or "", width) for content in (pair.before, pair.after)]
        height = max(map(len, columns))
        left, right = (column + [""] * (height - len(column)) for column in columns)
        lines += [f"{one:<{width}} | {other}".rstrip() for one, other in zip(left, right)]
    return "\n".join(lines)


def _wrapped(content: str, width: int) -> list[str]:
    """A text in lines of this width; its own line breaks stay, blank lines do not."""
    lines = [line for line in escaped(content).splitlines() if line.strip()]
    return [part for line in lines for part in textwrap.wrap(line, width)]
