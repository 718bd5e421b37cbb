"""Scores in lanes: tuned and untuned models, the majority class, and what the paper has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flan_jax.report.figures import lanes, style
from flan_jax.report.figures.points import MAJORITY, PAPER, Point

# Inches: two marks of the paper are a little apart, since both may have the same score.
_APART = 0.044


def draw_scores(
    points: Sequence[Point], caption: str, row: Callable[[Point], str] | None = None
) -> Figure:
    """Returns a figure of scores, a lane for each model and one for the paper's.

    Args:
      points: in the order of rows and lanes.
      caption: of the figure.
      row: the name of a point's row; None for that of its dataset.
    """
    looks = style.looks_of_models(points)
    papers = list(dict.fromkeys(point.series for point in points if point.kind == PAPER))

    def draw_point(axes: Axes, point: Point, y: float, row: lanes.Row) -> None:
        if point.kind == MAJORITY:
            ends = [row.top + 0.02, row.bottom - 0.02]
            style.add(axes, [point.value] * 2, ends, **style.majority_line())
        elif point.kind == PAPER:
            y += (papers.index(point.series) - (len(papers) - 1) / 2) * _APART
            style.add(axes, [point.value], [y], **style.paper_mark(point))
        else:
            style.mark(axes, point.value, y, point, style.look_of(point, looks))

    if row is None:
        layout = lanes.Layout(lanes.dataset_label(points), _lane)
    else:
        layout = lanes.Layout(row, _lane, is_mean=lambda point: False)
    return lanes.draw_lanes(
        points,
        layout,
        draw_point,
        f"{lanes.name_of_metric(points)} (%)",
        [*style.handles_of_models(points, looks), *style.handles_of_errors(points)],
        caption,
    )


def _lane(point: Point) -> tuple[str, str] | None:
    """A lane for each model, one for the paper's; the majority class spans the row."""
    if point.kind == MAJORITY:
        return None
    return ("", PAPER) if point.kind == PAPER else (point.series, point.kind)
