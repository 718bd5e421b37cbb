"""Figure `shots` (9 in the paper): each dataset's score by the number of exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of
from flan_jax.report.figures.paper_scores import BY_SHOTS, FLAN_FEW_SHOT, FLAN_ZERO_SHOT, RECALLED
from flan_jax.report.figures.points import PAPER, Point
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.figures.settings_axis import models_along, points_of_datasets
from flan_jax.report.run_facts import RunFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def points(data: ReportData) -> list[Point]:
    """Returns the scores of the tuned models by the number of exemplars, and the paper's."""
    models = models_along(data, _place, ("SHOTS",))
    names = {
        model: ", ".join(text for text in (_exemplars(model.x), model.curve) if text)
        for model in sorted(models, key=lambda model: model.x)
    }
    found = points_of_datasets(list(names), names)
    papers = []
    for cluster in dict.fromkeys(point.cluster for point in found if not point.dataset):
        for series, value in zip((FLAN_ZERO_SHOT, FLAN_FEW_SHOT), BY_SHOTS.get(cluster, ())):
            papers.append(Point(cluster, "", series, PAPER, value, note=RECALLED))
    return found + papers


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    return caption_of(points, data.sources, "Tuned models; exemplars as many as fit.")


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws a row for each dataset, a lane for each number of exemplars."""
    from flan_jax.report.figures.score_lanes import draw_scores

    return draw_scores(points, caption)


def _place(line: Comparison, facts: RunFacts) -> int:
    return line.tuned.series.shots


def _exemplars(count: int) -> str:
    return {0: "zero-shot", 1: "1 exemplar"}.get(count, f"{count} exemplars")
