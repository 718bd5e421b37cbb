"""Captions: what a figure's numbers are of, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from flan_jax.report.figures.paper_scores import RECALLED
from flan_jax.report.figures.points import MEAN, PAPER, TUNED, UNTUNED, Point
from flan_jax.report.table import heading

_MOST_LISTED = 3


def caption_of(
    points: Sequence[Point], sources: Collection[str], *sentences: str, unit: str = "dataset"
) -> str:
    """Returns the caption of a figure.

    It has sizes, steps and number of rows of the models, where the rows come from, the sentences,
    and which means are hatched.

    Args:
      points: of the figure.
      sources: where the evaluated rows come from.
      *sentences: what the figure shows; empty ones are left out.
      unit: of the number of rows: 'dataset', or 'cluster' where points are means of those.
    """
    measured = [point for point in points if point.kind != PAPER]
    is_shown = (lambda point: point.dataset) if unit == "dataset" else (lambda p: p.cluster != MEAN)
    counts = [point.n for point in measured if is_shown(point) and point.n is not None]
    sizes = listed(sorted({point.size for point in measured if point.size}), "sizes")
    steps = _steps({point.step for point in measured if point.kind == TUNED})
    parts = [
        ", ".join(part for part in (sizes, steps) if part),
        _seeds({point.seeds for point in measured if point.kind == TUNED}),
        f"rows: {', '.join(sorted(sources))}" if sources else "",
        f"n = {range_text(counts)} per {unit}" if counts else "",
    ]
    subject = "; ".join(part for part in parts if part)
    notes = [f"{subject}." if subject else "", *sentences]
    untuned = {point.note for point in measured if point.kind == UNTUNED}
    notes += [_recalled(points), untuned_with(untuned), _hatched(measured)]
    return " ".join(note for note in notes if note)


def listed(names: Sequence[str], plural: str) -> str:
    """Returns up to three names, or '5 sizes'."""
    if len(names) > _MOST_LISTED:
        return f"{len(names)} {plural}"
    return ", ".join(names)


def untuned_with(settings: Collection[str]) -> str:
    """Returns a sentence on how untuned models were evaluated where the tuned ones were not.

    Args:
      settings: see `points.other_setting`.
    """
    settings = sorted(filter(None, settings))
    return f"Untuned in part with {'; '.join(settings)}." if settings else ""


def _steps(steps: Iterable[int | None]) -> str:
    known = sorted(step for step in steps if step is not None)
    if not known:
        return ""
    return f"step {known[0]}" if len(known) == 1 else f"steps {range_text(known)}"


def _seeds(counts: Iterable[int]) -> str:
    most = max(counts, default=1)
    return f"means of up to {most} seeds" if most > 1 else ""


def range_text(numbers: Collection[int]) -> str:
    """Returns '1,000 to 2,000', or a single number."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _recalled(points: Sequence[Point]) -> str:
    if not any(point.note == RECALLED for point in points):
        return ""
    return f"Hollow marks of the paper: {RECALLED}."


def _hatched(points: Sequence[Point]) -> str:
    """Names the means that are over other rows than those beside them."""
    names = [
        ", ".join(part for part in (heading(point.cluster), point.series, _place(point)) if part)
        for point in points
        if not point.is_equal
    ]
    if not names:
        return ""
    names = list(dict.fromkeys(names))
    return f"Hatched, over other datasets, splits or rows than the rest: {'; '.join(names)}."


def _place(point: Point) -> str:
    return "" if point.x is None else f"at {point.x}"
