"""Offers the names of `recipes` to SeqIO; a task is built when its name is looked up.

Imports neither SeqIO nor TensorFlow: `offer` is called with SeqIO's module once that is imported.
"""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flan_jax.data.seqio.lazy_registry import LazyRegistry
from flan_jax.data.seqio.recipes import MixtureRecipe, TaskRecipe, mixture_recipes, task_recipes
from flan_jax.data.seqio.settings import SeqioTasks, settings, use_settings
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

if TYPE_CHECKING:
    import seqio

# Where SeqIO keeps its registries.
PROVIDERS = "seqio.dataset_providers"


def offer(providers: ModuleType) -> None:
    """Adds the names to SeqIO's registries, unless they are there.

    Args:
      providers: the module `PROVIDERS`.
    """
    recipes, builders = (task_recipes, mixture_recipes), (_build_task, _build_mixture)
    for registry, names, build in zip(_registries(providers), recipes, builders):
        if not isinstance(registry._REGISTRY, LazyRegistry):
            registry._REGISTRY = LazyRegistry(registry._REGISTRY, names, build)


def _registries(providers: ModuleType) -> tuple[Any, Any]:
    return providers.TaskRegistry, providers.MixtureRegistry


def _build_task(name: str, recipe: TaskRecipe) -> seqio.Task:
    from flan_jax.data.seqio import build

    return build.build_task(name, recipe, settings())


def _build_mixture(name: str, recipe: MixtureRecipe) -> seqio.Mixture:
    from flan_jax.data.seqio import build

    return build.build_mixture(name, recipe, settings())


def configure(**values: Any) -> None:
    """Sets the attributes of `SeqioTasks`; those not given come from gin.

    Tasks and mixtures that were looked up before are built anew.

    Args:
      **values: attributes of `SeqioTasks`.

    Raises:
      UserError: for an unknown name or value.
    """
    known = [field.name for field in dataclasses.fields(SeqioTasks)]
    for name in values:
        if name not in known:
            hint = did_you_mean(nearest(name, known), ";")
            raise UserError(
                f"the SeqIO tasks have no setting {name!r}{hint} They are {', '.join(known)}."
            )
    use_settings(SeqioTasks(**values))
    if PROVIDERS in sys.modules:
        offer(sys.modules[PROVIDERS])  # a SeqIO that has been reset gets the names back
        for registry in _registries(sys.modules[PROVIDERS]):
            registry._REGISTRY.forget()
