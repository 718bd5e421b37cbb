"""The names of the catalogue in SeqIO, and the recipe of each.

- `flan_<dataset>`: trains; a template by hash of row, seed and epoch, the tokens of our own cache
- `flan_<dataset>.<template>`: the rows in one forward template; metrics of what a model writes
- `flan_<dataset>.<template>.rank`: the same ranked, where there are options: an example an option
- `flan_heldout_<form>`: the training mixture while a form of HELD_OUT is held out
- `flan_heldout_<form>_eval`: the held-out datasets in their forward templates, ranked if possible

A form is a cluster, 'superglue', 'intra_0' and so on, 'all' or 'none'; clusters joined by '+' have
no name. `import flan_jax.tasks` offers these names to SeqIO (see `registration`), whichever of the
two is imported first, without importing it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.catalogue.splits import INTRA_CLUSTER_SPLITS


class TaskRecipe(NamedTuple):
    """A task by name: `template` is None where it changes with the epoch."""

    dataset: str
    template: str | None = None
    ranked: bool = False


class MixtureRecipe(NamedTuple):
    """A mixture by name: what trains while `held_out` is held out, or the held-out side."""

    held_out: str
    evaluated: bool = False


def task_recipes() -> Mapping[str, TaskRecipe]:
    """Returns every task, by name; inverted templates train but have no task of their own."""
    return _task_recipes(len(CATALOGUE))


def mixture_recipes() -> Mapping[str, MixtureRecipe]:
    """Returns every mixture, by name."""
    return _mixture_recipes()


@functools.lru_cache(maxsize=1)
def _task_recipes(datasets: int) -> Mapping[str, TaskRecipe]:
    recipes = {}
    for dataset in CATALOGUE:
        if "train" in dataset.splits:
            recipes[f"flan_{dataset.name}"] = TaskRecipe(dataset.name)
        for template in dataset.forward():
            name = f"flan_{dataset.name}.{template.id}"
            recipes[name] = TaskRecipe(dataset.name, template.id)
            if dataset.options:
                recipes[f"{name}.rank"] = TaskRecipe(dataset.name, template.id, ranked=True)
    return recipes


@functools.cache
def _mixture_recipes() -> Mapping[str, MixtureRecipe]:
    forms = (
        *CLUSTERS,
        "superglue",
        *(f"intra_{number}" for number in range(INTRA_CLUSTER_SPLITS)),
        "all",
    )
    trained = {f"flan_heldout_{form}": MixtureRecipe(form) for form in (*forms, "none")}
    return trained | {
        f"flan_heldout_{form}_eval": MixtureRecipe(form, evaluated=True) for form in forms
    }
