"""Figure `instructions` (8 in the paper): how rows are written in training and in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of
from flan_jax.report.figures.paper_scores import (
    BY_INSTRUCTIONS,
    FLAN,
    MEAN_BY_INSTRUCTIONS,
    RECALLED,
)
from flan_jax.report.figures.points import MEAN, PAPER, UNTUNED, Point
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.figures.settings_axis import Model, means_of_clusters, models_along
from flan_jax.report.run_facts import RunFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ARROW = " → "
_WORDS = {"none": "no template", "dataset_name": "dataset name", "template": "instructions"}


def points(data: ReportData) -> list[Point]:
    """Returns the means of the clusters for each way to train and evaluate, and the paper's."""
    models = models_along(data, _place, ("INSTRUCTIONS",))
    found = means_of_clusters(sorted(models, key=_order), has_mean=True)
    # An untuned model that was evaluated in another way belongs to another row.
    found = [point for point in found if point.kind != UNTUNED or not point.note]
    places = {(point.cluster, point.x) for point in found}
    papers = [point for point in _of_paper(found) if (point.cluster, point.x) in places]
    return found + papers


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    return caption_of(
        points,
        data.sources,
        "How rows are written in training → in evaluation; means over the datasets of a cluster.",
        unit="cluster",
    )


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws a row for each way to train and evaluate, below the heading of a cluster."""
    from flan_jax.report.figures.score_lanes import draw_scores

    return draw_scores(points, caption, row=lambda point: str(point.x))


def _place(line: Comparison, facts: RunFacts) -> str | None:
    trained = facts.settings.get("INSTRUCTIONS")
    evaluated = line.tuned.series.instruction_mode.split(",")[0]
    return _words(trained, evaluated) if trained else None


def _order(model: Model) -> tuple[int, int]:
    """From the least to the most instruction, as in the paper."""
    known = [*_WORDS.values()]
    trained, evaluated = model.x.split(_ARROW)
    return tuple(known.index(each) if each in known else -1 for each in (trained, evaluated))


def _words(trained: str, evaluated: str) -> str:
    return f"{_WORDS.get(trained, trained)}{_ARROW}{_WORDS.get(evaluated, evaluated)}"


def _of_paper(measured: Sequence[Point]) -> list[Point]:
    """The paper's means, and, over the same clusters, its mean of them."""
    clusters = {point.cluster for point in measured} - {MEAN}
    points = []
    for modes, by_cluster in BY_INSTRUCTIONS.items():
        base = Point("", "", FLAN, PAPER, 0.0, x=_words(*modes))
        for cluster, value in by_cluster.items():
            points.append(base.replaced(cluster=cluster, value=value, note=RECALLED))
        if clusters == set(by_cluster):
            points.append(base.replaced(cluster=MEAN, value=MEAN_BY_INSTRUCTIONS[modes]))
    return points
