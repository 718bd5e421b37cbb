"""Figure `difference`: tuned less untuned, paired by rows; filled where 0 is excluded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of, untuned_with
from flan_jax.report.figures.points import TUNED, Point, equal_rows, other_setting, point_of
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.figures.settings_axis import with_models_joined

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flan_jax.report.figures.lanes import Row

_SAME = "no row differs"


def points(data: ReportData) -> list[Point]:
    """Returns the differences of every model from its untuned one, where both can be paired."""
    data, result = with_models_joined(data), []
    for cluster, dataset in dict.fromkeys((line.cluster, line.dataset) for line in data.lines):
        lines = [line for line in data.lines if (line.cluster, line.dataset) == (cluster, dataset)]
        lines = [line for line in lines if line.tuned and line.difference]
        is_equal = equal_rows(lines)
        result += [_point(line, is_equal.get(line.label, True)) for line in lines]
    return result


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    return caption_of(
        points,
        data.sources,
        "Mean over templates, tuned less untuned on the same rows.",
        untuned_with({other_setting(line) for line in data.lines if line.difference}),
        _without_difference([point for point in points if point.dataset]),
    )


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws the points, a lane for each model."""
    from flan_jax.report.figures import lanes, style

    names = list(dict.fromkeys(point.series for point in points))
    looks = {name: style.look(number) for number, name in enumerate(names)}

    def draw_point(axes: Axes, point: Point, y: float, row: Row) -> None:
        look = looks[point.series]._replace(is_hollow=not _excludes_zero(point))
        style.add(axes, [0, 0], [row.top, row.bottom], color=style.INK, linewidth=0.8, zorder=2)
        style.mark(axes, point.value, y, point, look)

    handles = [] if len(names) < 2 else style.handles_of_models(points, looks)
    return lanes.draw_lanes(
        points,
        lanes.Layout(lanes.dataset_label(points), lambda point: point.series),
        draw_point,
        "tuned − untuned (percentage points)",
        [
            *handles,
            style.handle("0 is excluded", **style.dot(style.Look(style.INK, "o"))),
            style.handle("0 is not excluded", **style.dot(style.Look(style.INK, "o", True))),
            *style.handles_of_errors(points, "95 % interval, paired by row"),
        ],
        caption,
        limits=None,
    )


def _without_difference(points: Sequence[Point]) -> str:
    """Names where no row differs."""
    same = [point for point in points if point.note == _SAME]
    if not same:
        return ""
    if len(same) == len(points):
        return "No row differs anywhere."
    has_names = len({point.series for point in points}) > 1
    names = [f"{p.dataset} ({p.series})" if has_names else p.dataset for p in same]
    return f"No row differs: {', '.join(names)}."


def _point(line: Comparison, is_equal: bool) -> Point:
    low, high = line.difference.interval or (None, None)
    return point_of(
        line.tuned,
        line.label,
        TUNED,
        value=line.difference.value,
        low=low,
        high=high,
        std=None,
        is_equal=is_equal,
        note="" if line.difference.changed else _SAME,
    )


def _excludes_zero(point: Point) -> bool:
    return point.low is not None and (point.low > 0 or point.high < 0)
