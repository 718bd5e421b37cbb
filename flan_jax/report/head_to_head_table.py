"""A comparison of two models as a Markdown table and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from flan_jax.metrics.uncertainty import Difference
from flan_jax.report.cluster_means import count_of_datasets
from flan_jax.report.head_to_head import HeadToHead, Line
from flan_jax.report.summaries import Summary
from flan_jax.report.table import (
    heading,
    interval_text,
    markdown_line,
    number_text,
    signed_text,
)

_COLUMNS = (
    *("cluster", "dataset", "split", "metric", "shots", "instruction_mode", "templates", "n"),
    *("a", "b", "difference", "stderr", "low", "high", "p", "p_holm"),
    *("sign_p", "bootstrap_low", "bootstrap_high", "changed"),
    *("a_stderr", "b_stderr", "a_sd_seeds", "b_sd_seeds", "a_seeds", "b_seeds"),
    "b_shots",
)
_NOTES = """\
Percentage points, A less B, means over templates. Both were evaluated on the same rows in the same
templates, and the standard error, the 95 % interval and p (two-sided, Student's t) are those of
the difference of each row; rows of one question count as one. `p, Holm` is p adjusted for the
number of datasets in the table; means over clusters are not adjusted. `differ` is how many rows
(or questions) score differently in at least one template."""
_SMALL = """\
`p, sign flip` and `95 %, bootstrap` check a difference of fewer than 100 rows, for which Student's
t may be off: the share of random exchanges of A and B, row by row, with a difference as large, and
the interval over rows drawn again. Where they disagree with t, the latter cannot be trusted."""
_SEEDS = """\
A and B are means over runs that differ only by their seed, averaged for each row. Errors and p are
for other rows and these seeds: `std over seeds` says how far other seeds would move a number."""


def markdown(comparison: HeadToHead) -> str:
    """Returns the comparison as Markdown, with what its numbers are and what it leaves out."""
    lines = comparison.lines
    is_small = any(line.difference.sign_p is not None for line in lines)
    has_seeds = any(len(each.runs) > 1 for line in lines for each in (line.ours, line.theirs))
    settings = list(dict.fromkeys(line.setting for line in lines))
    text = [f"# {comparison.names[0]} and {comparison.names[1]}", ""]
    text += [_description(which, name, lines) for which, name in zip("AB", comparison.names)]
    for setting in settings:
        for cluster in dict.fromkeys(line.cluster for line in lines if line.setting == setting):
            members = [line for line in lines if (line.setting, line.cluster) == (setting, cluster)]
            more = f" ({setting})" if len(settings) > 1 else ""
            text += ["", f"## {heading(cluster)}{more}", "", *_head(is_small, has_seeds)]
            text += [markdown_line(_cells(line, is_small, has_seeds)) for line in members]
    text += ["", _NOTES]
    text += [_SMALL] if is_small else []
    text += [_SEEDS] if has_seeds else []
    for which, name, only in zip("AB", comparison.names, comparison.only):
        if only:
            text += ["", f"Only {which} ({name}) was evaluated on: {', '.join(only)}."]
    return "\n".join(text) + "\n"


def as_csv(comparison: HeadToHead) -> str:
    """Returns the comparison as CSV with all digits; the dataset of a cluster's mean is 'mean'.

    `shots` is of A, `b_shots` of B.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_record(line) for line in comparison.lines)
    return text.getvalue()


def _description(which: str, name: str, lines: Sequence[Line]) -> str:
    """Returns '- A: runs/a, t5_tiny, step 60, 0 shots'."""
    summaries = [line.ours if which == "A" else line.theirs for line in lines if line.dataset]
    series = [summary.series for summary in summaries]
    steps = ", ".join(map(str, sorted({each.step for each in series})))
    shots = ", ".join(map(str, sorted({each.shots for each in series})))
    runs = max(len(summary.runs) for summary in summaries)
    seeds = f", mean of {runs} seeds" if runs > 1 else ""
    size = f", {series[0].size}" if series[0].size else ""
    return f"- {which}: {name}{size}, step {steps}, {shots} shots{seeds}"


def _head(is_small: bool, has_seeds: bool) -> list[str]:
    seeds = ["std over seeds"] if has_seeds else []
    names = ["dataset", "metric", "rows", "templates", "A", *seeds, "B", *seeds, "A - B", "s.e."]
    names += ["95 %", "p", "p, Holm"]
    names += ["p, sign flip", "95 %, bootstrap"] if is_small else []
    names += ["differ"]
    return [markdown_line(names), markdown_line(["---"] * 2 + ["--:"] * (len(names) - 2))]


def _cells(line: Line, is_small: bool, has_seeds: bool) -> list[str]:
    difference, splits = line.difference, "" if line.ours.split == "test" else line.ours.split
    name = line.dataset or f"**mean of {count_of_datasets(line.over)}**"
    small = [p_text(difference.sign_p), interval_text(difference.bootstrap)] if is_small else []
    if not difference.changed:
        numbers = ["0.0, no row differs", "", "", "", ""]
    else:
        numbers = [
            signed_text(difference.value),
            number_text(difference.stderr),
            interval_text(difference.interval),
            p_text(difference.p),
            p_text(line.p_holm),
        ]
    return [
        f"{name} ({splits})" if splits else name,
        line.ours.metric,
        str(line.ours.n),
        str(len(line.ours.templates)),
        *_number_cells(line.ours, has_seeds),
        *_number_cells(line.theirs, has_seeds),
        *numbers,
        *small,
        str(difference.changed),
    ]


def _number_cells(summary: Summary, has_seeds: bool) -> list[str]:
    return [number_text(summary.mean), *([number_text(summary.sd_seeds)] if has_seeds else [])]


def p_text(p: float | None) -> str:
    """Returns a p-value with two significant digits, '<0.0001' for smaller ones; '' for None."""
    if p is None:
        return ""
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def _record(line: Line) -> dict[str, object]:
    return {
        "cluster": line.cluster,
        "dataset": line.dataset or "mean",
        "split": line.ours.split,
        "metric": line.ours.metric,
        **line.setting._asdict(),
        "templates": len(line.ours.templates),
        "n": line.ours.n,
        "a": line.ours.mean,
        "b": line.theirs.mean,
        **_difference_record(line.difference),
        "p_holm": line.p_holm,
        "a_stderr": line.ours.stderr,
        "b_stderr": line.theirs.stderr,
        "a_sd_seeds": line.ours.sd_seeds,
        "b_sd_seeds": line.theirs.sd_seeds,
        "a_seeds": len(line.ours.runs),
        "b_seeds": len(line.theirs.runs),
        "b_shots": line.theirs.series.shots,
    }


def _difference_record(difference: Difference) -> dict[str, object]:
    low, high = difference.interval or (None, None)
    bootstrap_low, bootstrap_high = difference.bootstrap or (None, None)
    return {
        "difference": difference.value,
        "stderr": difference.stderr,
        "low": low,
        "high": high,
        "p": difference.p,
        "sign_p": difference.sign_p,
        "bootstrap_low": bootstrap_low,
        "bootstrap_high": bootstrap_high,
        "changed": difference.changed,
    }
