"""Figure `prompt_tuning` (10 in the paper): each dataset's score by what trains, and from where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.captions import caption_of
from flan_jax.report.figures.paper_scores import (
    FLAN,
    LAMDA,
    PROMPT_TUNED,
    PROMPT_TUNED_VERIFIED,
    RECALLED,
)
from flan_jax.report.figures.points import PAPER, Point
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.figures.settings_axis import Model, models_along, points_of_datasets, shown
from flan_jax.report.run_facts import RunFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ALL = "all parameters"
_START = "INITIAL_CHECKPOINT_PATH"
# Settings that come with a method.
_AXIS = (
    "PEFT",
    _START,
    "LORA_RANK",
    "LORA_ALPHA",
    "LORA_SCALE",
    "LORA_TARGETS",
    "ALSO_TRAIN",
    "PROMPT_LENGTH",
    "PROMPT_INIT",
    "OPTIMIZER",
    "LEARNING_RATE",
    "WEIGHT_DECAY",
)


def points(data: ReportData) -> list[Point]:
    """Returns the scores of the tuned models by method and start, and the paper's."""
    models = models_along(data, _place, _AXIS)
    if all(model.x[0] == _ALL for model in models):
        return []
    found = points_of_datasets(models, _names(models))
    if not any(model.x[0] == "prompt" for model in models):
        return found
    return found + [
        Point(cluster, dataset, series, PAPER, value, note="" if is_verified else RECALLED)
        for cluster, dataset in dict.fromkeys((p.cluster, p.dataset) for p in found)
        for series, value, is_verified in _of_paper(dataset)
    ]


def caption(points: Sequence[Point], data: ReportData) -> str:
    """Returns what the figure shows."""
    has_paper = any(point.kind == PAPER for point in points)
    return caption_of(
        points,
        data.sources,
        "The paper's models: prompts tuned on all training rows of the dataset."
        if has_paper
        else "",
    )


def draw(points: Sequence[Point], caption: str) -> Figure:
    """Draws a row for each dataset, a lane for each method and start."""
    from flan_jax.report.figures.score_lanes import draw_scores

    return draw_scores(points, caption)


def _place(line: Comparison, facts: RunFacts) -> tuple[str, str] | None:
    if "PEFT" not in facts.settings:
        return None
    method = facts.settings["PEFT"]
    return shown(method) if method else _ALL, shown(facts.settings.get(_START))


def _names(models: Sequence[Model]) -> dict[Model, str]:
    """The name of each model: its method, its start if they have several, and what else differs."""
    starts = {model.x[1] for model in models}
    names = {}
    for model in models:
        method, start = model.x
        parts = [method, f"from {start}" if len(starts) > 1 else "", model.curve]
        names[model] = ", ".join(part for part in parts if part)
    return names


def _of_paper(dataset: str) -> list[tuple[str, float, bool]]:
    if dataset not in PROMPT_TUNED:
        return []
    lamda, flan = PROMPT_TUNED[dataset]
    return [(LAMDA, lamda, False), (FLAN, flan, dataset in PROMPT_TUNED_VERIFIED)]
