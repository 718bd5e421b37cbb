"""Figure `size` (7 in the paper): the score over the number of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of
from flan_jax.report.figures.points import Point
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.figures.settings_axis import Model, means_of_clusters, models_along
from flan_jax.report.run_facts import RunFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Settings that come with a size, or that a size may need.
_AXIS = (
    "MODEL",
    "ARCHITECTURE",
    "INITIAL_CHECKPOINT_PATH",
    "VOCABULARY",
    "Train.embedding_rows",
    "BATCH_SIZE",
    "MICROBATCHES",
)


def points(data: ReportData) -> list[Point]:
    """Returns the means of the clusters at each number of parameters."""
    return means_of_clusters(_models(data), has_mean=False)


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    return caption_of(
        points,
        data.sources,
        "Means over the datasets of each held-out cluster.",
        _sizes(data),
        unit="cluster",
    )


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws a panel for each held-out cluster, parameters on a logarithmic axis."""
    from flan_jax.report.figures.panels import draw_panels

    return draw_panels(points, "parameters", short, caption, is_log=True)


def short(parameters: float) -> str:
    """Returns '1.7M' or '137B'."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= 0.95 * unit:
            number = parameters / unit
            return f"{number:.1f}{name}" if number < 9.95 else f"{number:.0f}{name}"
    return f"{parameters:.0f}"


def _models(data: ReportData) -> list[Model]:
    """The models, if they have several sizes; adapters beside one model are no sizes."""
    models = models_along(data, _place, _AXIS, size_word=_family)
    sizes = {model.lines[0].tuned.series.size for model in models}
    return models if len(sizes) > 1 else []


def _family(size: str) -> str:
    """Returns 't5' of 't5_tiny': the sizes of a family are one curve."""
    return size.partition("_")[0]


def _place(line: Comparison, facts: RunFacts) -> int | None:
    return facts.parameters


def _sizes(data: ReportData) -> str:
    sizes = {model.lines[0].tuned.series.size: model.x for model in _models(data)}
    return f"{', '.join(f'{name}: {short(x)}' for name, x in sizes.items())} parameters."
