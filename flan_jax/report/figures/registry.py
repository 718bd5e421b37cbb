"""The figures by name, in the order of a report."""

from __future__ import annotations

from types import ModuleType

from flan_jax.report.figures import (
    difference,
    few_shot,
    instructions,
    model_size,
    number_of_clusters,
    prompt_tuning,
    template_count,
    template_spread,
    zero_shot,
)

# Each is a module with `points`, `caption` and `draw`; a figure without points is not drawn.
FIGURES: dict[str, ModuleType] = {
    "zero_shot": zero_shot,
    "difference": difference,
    "template_spread": template_spread,
    "clusters": number_of_clusters,
    "size": model_size,
    "instructions": instructions,
    "shots": few_shot,
    "prompt_tuning": prompt_tuning,
    "templates": template_count,
}
