"""Figure `clusters` (6 in the paper): the score over the number of clusters that train."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of, range_text
from flan_jax.report.figures.paper_scores import CLUSTERS_HELD_OUT, FLAN, MEAN_BY_CLUSTERS
from flan_jax.report.figures.points import MEAN, PAPER, Point
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.figures.settings_axis import means_of_clusters, models_along
from flan_jax.report.run_facts import RunFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXIS = ("TRAIN_CLUSTERS",)


def points(data: ReportData) -> list[Point]:
    """Returns the means of the clusters at each number of training clusters, and the paper's."""
    models = models_along(data, _place, _AXIS)
    found = means_of_clusters(models, has_mean=True)
    # The mean of the same three clusters is what the paper has.
    if {point.cluster for point in found} - {MEAN} != CLUSTERS_HELD_OUT:
        return found
    base = Point(MEAN, "", FLAN, PAPER, 0.0)
    return found + [base.replaced(x=x, value=value) for x, value in MEAN_BY_CLUSTERS.items()]


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    # A curve joins runs that hold out other clusters, and so train on other datasets.
    datasets = collections.defaultdict(set)
    for facts in data.facts.values():
        clusters = _count_of_clusters(facts)
        if clusters is not None and facts.datasets:
            datasets[clusters].add(facts.datasets)
    counts = ", ".join(f"{x}: {range_text(each)}" for x, each in sorted(datasets.items()))
    return caption_of(
        points,
        data.sources,
        "Means over the datasets of each held-out cluster.",
        f"Datasets that train, by number of clusters: {counts}." if counts else "",
        unit="cluster",
    )


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws a panel for each held-out cluster and one for their mean."""
    from flan_jax.report.figures.panels import draw_panels

    return draw_panels(points, "training clusters", str, caption)


def _place(line: Comparison, facts: RunFacts) -> int | None:
    return _count_of_clusters(facts)


def _count_of_clusters(facts: RunFacts) -> int | None:
    count = facts.settings.get("TRAIN_CLUSTERS")
    return count if isinstance(count, int) else None
