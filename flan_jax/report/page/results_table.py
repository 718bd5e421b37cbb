"""The comparisons as an HTML table: a line for each dataset and model, a tick for each template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flan_jax.metrics.uncertainty import Difference
from flan_jax.report.comparisons import Comparison, means_are_alike
from flan_jax.report.page.escaping import text
from flan_jax.report.table import (
    difference_text,
    name_of_mean,
    number_text,
    setting_text,
)

# Width and height of the ticks in CSS pixels, and the margin beside 0 and 100.
_WIDTH, _HEIGHT, _MARGIN = 116, 22, 2


class _Column(NamedTuple):
    """A column of the table.

    Attributes:
      key: its name in filters and in the address of the page.
      title: its heading.
      is_number: whether it sorts as numbers.
    """

    key: str
    title: str
    is_number: bool = True


_COLUMNS = (
    _Column("model", "model", is_number=False),
    _Column("cluster", "cluster", is_number=False),
    _Column("dataset", "dataset", is_number=False),
    _Column("metric", "metric", is_number=False),
    _Column("rows", "rows"),
    _Column("templates", "templates"),
    _Column("tuned", "tuned"),
    _Column("se", "s.e. from rows"),
    _Column("std", "std over templates"),
    _Column("seeds", "std over seeds"),
    _Column("each", "each template", is_number=False),
    _Column("untuned", "untuned"),
    _Column("difference", "tuned \N{MINUS SIGN} untuned (95 % interval)"),
    _Column("majority", "majority"),
)


def results_table(lines: Sequence[Comparison]) -> str:
    """Returns the comparisons as an HTML table.

    Args:
      lines: see `comparisons.compare`.
    """
    has_models = len({line.label for line in lines if line.tuned or line.untuned}) > 1
    has_seeds = any(line.tuned and line.tuned.sd_seeds is not None for line in lines)
    left_out = {key for key, has in (("model", has_models), ("seeds", has_seeds)) if not has}
    columns = [column for column in _COLUMNS if column.key not in left_out]
    head = "".join(_head_cell(column) for column in columns)
    body = []
    for line in lines:
        alike = means_are_alike([other for other in lines if other.cluster == line.cluster])
        cells = _cells(line, alike)
        mark = "" if line.dataset else ' class="mean"'
        inner = "".join(_body_cell(column, *cells[column.key]) for column in columns)
        body.append(f"<tr{mark}>{inner}</tr>")
    return (
        f'<table id="results-table"><thead><tr>{head}</tr></thead><tbody>'
        + "\n".join(body)
        + "</tbody></table>"
    )


def _head_cell(column: _Column) -> str:
    kind = "number" if column.is_number else "text"
    unsorted = ' data-unsorted=""' if column.key == "each" else ""
    return f'<th scope="col" data-key="{column.key}" class="{kind}"{unsorted}>{column.title}</th>'


def _body_cell(column: _Column, content: str, value: float | None = None) -> str:
    """A cell of this HTML; `value` is what a number sorts by."""
    sorts = "" if value is None else f' data-value="{value:.6g}"'
    return f'<td class="{column.key}"{sorts}>{content}</td>'


def _cells(line: Comparison, alike: bool) -> dict[str, tuple]:
    """The HTML of each column, with the number that it sorts by where it is one."""
    summary, tuned = line.any, line.tuned
    splits = sorted({each.any.split for each in line.over} or {summary.split})
    split = "" if splits == ["test"] else f" ({', '.join(splits)})"
    name = line.dataset or name_of_mean(line, alike).strip("*")
    bound = "\N{LESS-THAN OR EQUAL TO} " if tuned and tuned.stderr_is_bound else ""
    return {
        "model": (_breakable(line.label),),
        "cluster": (text(line.cluster),),
        "dataset": (_breakable(name + split),),
        "metric": (text(summary.metric),),
        "rows": (f"{summary.n:,}", summary.n),
        "templates": (str(len(summary.templates)), len(summary.templates)),
        "tuned": _number(tuned and tuned.mean),
        "se": _number(tuned and tuned.stderr, bound),
        "std": _number(tuned and tuned.std),
        "seeds": _number(tuned and tuned.sd_seeds),
        "each": (_ticks(line) if line.dataset else "",),
        "untuned": _untuned(line),
        "difference": _difference(line.difference),
        "majority": _number(line.majority and line.majority.mean),
    }


def _breakable(name: str) -> str:
    """A name that may break after its separators."""
    return re.sub("([-_])(?=.)", r"\1<wbr>", text(name))


def _number(value: float | None, mark: str = "") -> tuple:
    return ("",) if value is None else (mark + _minus(number_text(value)), value)


def _untuned(line: Comparison) -> tuple:
    """The untuned model's number, with its setting where that differs from the tuned model's."""
    content, *value = _number(line.untuned and line.untuned.mean)
    setting = setting_text(line).strip()
    return (f"{content} <small>{text(setting)}</small>" if setting else content), *value


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def _difference(difference: Difference | None) -> tuple:
    """The difference, marked where its 95 % interval excludes 0."""
    if difference is None:
        return ("",)
    value, *interval = _minus(text(difference_text(difference))).split(" ", 1)
    shown = " ".join([f"<span>{value}</span>", *(f"<span>{part}</span>" for part in interval)])
    if not difference.interval or difference.interval[0] <= 0 <= difference.interval[1]:
        return shown, difference.value
    kind, arrow = ("better", "▲") if difference.value > 0 else ("worse", "▼")
    return f'<strong class="{kind}">{arrow}\N{NO-BREAK SPACE}{shown}</strong>', difference.value


def _ticks(line: Comparison) -> str:
    """A tick for each template on an axis from 0 to 100: tuned above, untuned below."""
    series = [("tuned", line.tuned), ("untuned", line.untuned)]
    points = {
        name: dict(zip(summary.templates, summary.values)) for name, summary in series if summary
    }
    low = min((0.0, *(value for named in points.values() for value in named.values())))
    parts = [f'<line class="axis" x1="0" x2="{_WIDTH}" y1="11" y2="11"/>']
    if line.majority:
        place = _place(line.majority.mean, low)
        parts.append(f'<path class="majority" d="M{place:.1f} 0V{_HEIGHT}"/>')
    for name, top, bottom in (("tuned", 1, 10), ("untuned", 12, 21)):
        marks = [
            f"M{_place(value, low):.1f} {top}V{bottom}" for value in points.get(name, {}).values()
        ]
        if marks:
            parts.append(f'<path class="{name}" d="{"".join(marks)}"/>')
    title = "; ".join(_listed(name, named) for name, named in points.items())
    return (
        f'<svg class="ticks" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" preserveAspectRatio="none"><title>{text(title)}</title>'
        f"{''.join(parts)}</svg>"
    )


def _place(value: float, low: float) -> float:
    """Where a value lies on the axis from `low` to 100, in CSS pixels."""
    return _MARGIN + (_WIDTH - 2 * _MARGIN) * (value - low) / (100 - low)


def _listed(name: str, points: Mapping[str, float]) -> str:
    return f"{name}: " + ", ".join(f"{template} {value:.1f}" for template, value in points.items())
