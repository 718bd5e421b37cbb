"""Figure `templates` (11 in the paper): the score over the number of templates that train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of
from flan_jax.report.figures.points import Point
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.figures.settings_axis import means_of_clusters, models_along
from flan_jax.report.run_facts import RunFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A dataset has ten templates; TEMPLATES=None trains with all.
_ALL = 10


def points(data: ReportData) -> list[Point]:
    """Returns the means of the clusters at each number of templates."""
    return means_of_clusters(models_along(data, _place, ("TEMPLATES",)), has_mean=True)


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    return caption_of(
        points,
        data.sources,
        "Means over the datasets of each held-out cluster, evaluated in all templates.",
        unit="cluster",
    )


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws a panel for each held-out cluster and one for their mean."""
    from flan_jax.report.figures.panels import draw_panels

    return draw_panels(points, "templates per dataset", str, caption)


def _place(line: Comparison, facts: RunFacts) -> int | None:
    count = facts.settings.get("TEMPLATES", "not recorded")
    return _ALL if count is None else count if isinstance(count, int) else None
