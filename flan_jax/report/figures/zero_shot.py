"""Figure `zero_shot` (4 and 5 in the paper): each dataset's score, tuned and untuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of
from flan_jax.report.figures.paper_scores import FLAN, GPT3, RECALLED, ZERO_SHOT
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
from flan_jax.report.figures.settings_axis import with_models_joined
from flan_jax.report.summaries import INVERTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def points(data: ReportData) -> list[Point]:
    """Returns the scores of tuned and untuned models, of the majority class and of the paper."""
    data, result = with_models_joined(data), []
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
    from flan_jax.report.figures.score_lanes import draw_scores

    return draw_scores(points, caption)


def _of_dataset(lines: Sequence[Comparison]) -> list[Point]:
    """The points of a dataset, or of a cluster's mean."""
    is_equal = equal_rows(lines)
    result = [
        point_of(line.tuned, line.label, TUNED, is_equal=is_equal.get(line.label, True))
        for line in lines
        if line.tuned
    ]
    for untuned, name, note in untuned_of(lines):
        more = {"is_equal": is_equal.get(name, True), "note": note}
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
        (GPT3, score.gpt3, score.gpt3_verified),
        (FLAN, score.flan, score.flan_verified),
    ]
    return [
        base.replaced(series=name, value=value, note="" if verified else RECALLED)
        for name, value, verified in numbers
        if value is not None
    ]
