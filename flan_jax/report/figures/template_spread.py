"""Figure `template_spread`: the score in each template, a tick each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.figures.captions import caption_of
from flan_jax.report.figures.points import TUNED, UNTUNED, Point, point_of, untuned_of
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.figures.settings_axis import with_models_joined
from flan_jax.report.summaries import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flan_jax.report.figures.lanes import Row

_MEAN = "mean"


def points(data: ReportData) -> list[Point]:
    """Returns the score of each dataset in each template, and their means."""
    data, result = with_models_joined(data), []
    for cluster, dataset in dict.fromkeys((line.cluster, line.dataset) for line in data.lines):
        lines = [line for line in data.lines if (line.cluster, line.dataset) == (cluster, dataset)]
        if dataset:
            for line in lines:
                result += _of_templates(line.tuned, line.label, TUNED) if line.tuned else []
            for untuned, name, _ in untuned_of(lines):
                result += _of_templates(untuned, name, UNTUNED)
    return result


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    return caption_of(points, data.sources, "A tick for each template; points: their means.")


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws the points, a lane for each model."""
    from flan_jax.report.figures import lanes, style

    looks = style.looks_of_models(points)
    values = _values(points)

    def lane(point: Point) -> tuple[str, str]:
        return point.series, point.kind

    def draw_point(axes: Axes, point: Point, y: float, row: Row) -> None:
        if point.x != _MEAN:
            return  # drawn with the mean of its lane
        look = style.look_of(point, looks)
        scores = values[point.cluster, point.dataset, *lane(point)]
        style.line(axes, 0, y, min(scores), max(scores), False, **style.thin_line(look.color))
        style.add(axes, scores, [y] * len(scores), **style.tick(look))
        style.add(axes, [point.value], [y], **style.dot(look, 3.6))

    return lanes.draw_lanes(
        points,
        lanes.Layout(lanes.dataset_label(points), lane),
        draw_point,
        f"{lanes.name_of_metric(points)} (%) in each template",
        [*style.handles_of_models(points, looks), style.handle("a template", **style.tick())],
        caption,
    )


def _of_templates(summary: Summary, series: str, kind: str) -> list[Point]:
    """The mean over templates, and each of them."""
    mean = point_of(summary, series, kind, x=_MEAN, low=None, high=None, std=None)
    each = [
        mean.replaced(x=template, value=value, templates=1)
        for template, value in zip(summary.templates, summary.values)
    ]
    return [mean, *each]


def _values(points: Sequence[Point]) -> dict[tuple, list[float]]:
    """The scores of each lane in its templates."""
    lanes: dict[tuple, list[float]] = {}
    for point in points:
        if point.x != _MEAN:
            key = point.cluster, point.dataset, point.series, point.kind
            lanes.setdefault(key, []).append(point.value)
    return lanes
