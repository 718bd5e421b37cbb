"""Figure `zero_shot` (4 and 5 in the paper): each dataset's score, tuned and untuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of
from flan_jax.report.figures.paper_scores import RECALLED, ZERO_SHOT
from flan_jax.report.figures.points import (
    MAJORITY,
    PAPER,
    TUNED,
    UNTUNED,
    Point,
    equal_rows,
    point_of,
    untuned_of,
)
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.summaries import INVERTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flan_jax.report.figures.lanes import Row

FLAN, GPT3 = "FLAN 137B", "GPT-3 175B"


def points(data: ReportData) -> list[Point]:
    """Returns the scores of tuned and untuned models, of the majority class and of the paper."""
    result: list[Point] = []
    for cluster, dataset in dict.fromkeys((line.cluster, line.dataset) for line in data.lines):
        lines = [line for line in data.lines if (line.cluster, line.dataset) == (cluster, dataset)]
        result += _of_dataset(lines)
    return result


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    papers = any(point.kind == PAPER for point in points)
    return caption_of(
        points,
        data.sources,
        "Points: means over templates.",
        "The paper's models were evaluated on all test rows in other templates." if papers else "",
    )


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws the points, a lane for each model and one for the paper's."""
    from flan_jax.report.figures import lanes, style

    names = list(dict.fromkeys(point.series for point in points if point.kind == TUNED))
    looks = {name: style.look(number) for number, name in enumerate(names)}

    def lane(point: Point) -> tuple[str, str] | None:
        if point.kind == MAJORITY:
            return None
        return ("", PAPER) if point.kind == PAPER else (point.series, point.kind)

    def draw_point(axes: Axes, point: Point, y: float, row: Row) -> None:
        if point.kind == MAJORITY:
            ends = [row.top + 0.02, row.bottom - 0.02]
            axes.plot([point.value] * 2, ends, **style.majority_line())
        elif point.kind == PAPER:
            # A little apart, since both may have the same score.
            y += 0.022 if point.series == FLAN else -0.022
            axes.plot([point.value], [y], **style.paper_mark(point))
        else:
            style.mark(axes, point.value, y, point, style.look_of(point, looks))

    return lanes.draw_lanes(
        points,
        lanes.Layout(lanes.dataset_label(points), lane),
        draw_point,
        f"{lanes.name_of_metric(points)} (%)",
        [*style.handles_of_models(points, looks), *style.handles_of_errors(points)],
        caption,
    )


def _of_dataset(lines: Sequence[Comparison]) -> list[Point]:
    """The points of a dataset, or of a cluster's mean."""
    is_equal = equal_rows(lines)
    result = [
        point_of(line.tuned, line.label, TUNED, is_equal=is_equal.get(line.label, True))
        for line in lines
        if line.tuned
    ]
    for untuned, name in untuned_of(lines):
        more = {"is_equal": is_equal.get(name, True)}
        result.append(point_of(untuned, name, UNTUNED, **more))
    return [*result, *_majorities(lines), *_of_paper(lines[0])]


def _majorities(lines: Sequence[Comparison]) -> list[Point]:
    found = [point_of(line.majority, "", MAJORITY) for line in lines if line.majority]
    return list({point.value: point for point in found}.values())


def _of_paper(line: Comparison) -> list[Point]:
    """The paper's scores of a dataset, if they are of the same metric."""
    inverted = INVERTED if line.cluster.endswith(INVERTED) else ""
    score = ZERO_SHOT.get(line.dataset + inverted)
    if score is None or score.metric != line.any.metric:
        return []
    base = Point(line.cluster, line.dataset, "", PAPER, 0.0, metric=score.metric)
    numbers = [
        (FLAN, score.flan, score.flan_verified),
        (GPT3, score.gpt3, score.gpt3_verified),
    ]
    return [
        base.replaced(series=name, value=value, note="" if verified else RECALLED)
        for name, value, verified in numbers
        if value is not None
    ]
