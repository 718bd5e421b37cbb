"""The catalogue under SeqIO's names, for other engines (stock T5X, a notebook) and our own: tasks
are built on look-up.

  flan_<dataset>                  trains: a template by hash of row, seed and epoch; the tokens of
  our own cache flan_<dataset>.<template>       the rows in one forward template; metrics compare
  what a model writes flan_<dataset>.<template>.rank  the same where there are options: an example
  an option, and the likeliest one counts flan_heldout_<form>             the mixture that trains
  while a form of HELD_OUT is held out: a cluster, 'superglue',
                                  'intra_0' and so on, 'all', 'none'; clusters joined by '+' have no
                                  name
  flan_heldout_<form>_eval        the held-out datasets in their forward templates; ranked where
  there are options

`import flan_jax.tasks` offers these names to SeqIO, whichever of the two is imported first, without
importing it.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import gin

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.records import CATALOGUE
from flan_jax.catalogue.relations import RULES
from flan_jax.catalogue.render import INSTRUCTIONS, STYLES
from flan_jax.catalogue.splits import INTRA_CLUSTER_SPLITS
from flan_jax.config.checks import check_choice, check_fields
from flan_jax.data.seqio.registry import LazyRegistry, when_imported
from flan_jax.data.sources.base import KINDS, Source, open_source
from flan_jax.data.vocabulary import Vocabulary, load_vocabulary
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.storage.paths import local_path

# Where SeqIO keeps its registries.
_PROVIDERS = "seqio.dataset_providers"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SeqioTasks:
    """What the tasks are made of; bind it in gin, or call `configure`.

    Attributes:
      source, data_dir: 'tfds', 'hf', 'jsonl' or 'bundled', and where it reads.
      vocabulary, architecture: 'bytes', a SentencePiece file, or a tokenizer.json, and the model
        that reads it: 't5', 'decoder' or None; see `vocabulary.load_vocabulary`.
      options_style, instructions: see `render.render`.
      seed: decides template choice, shuffled options and exemplars.
      shots: exemplars before each row, as many as fit in the input.
      related, commercial_only: what trains in the mixtures `flan_heldout_...`; see
        `mixture.held_out_split`.
    """

    source: str = "bundled"
    data_dir: str | None = None
    vocabulary: str = "bytes"
    options_style: str = "fixed"
    instructions: str = "template"
    seed: int = 0
    shots: int = 0
    architecture: str | None = None
    related: str = "text"
    commercial_only: bool = False

    def __post_init__(self):
        check_fields(self, "SeqioTasks", {"seed": (0, 2**32), "shots": (0, 1025)})
        for name, known in (
            ("options_style", STYLES),
            ("instructions", INSTRUCTIONS),
            ("source", KINDS),
            ("related", RULES),
        ):
            check_choice(f"SeqioTasks.{name}", getattr(self, name), known)
        for name in ("data_dir", "vocabulary"):
            if getattr(self, name) is not None:
                local_path(getattr(self, name), f"SeqioTasks.{name}")

    @functools.cached_property
    def opened_source(self) -> Source:
        """Where rows are read."""
        return open_source(self.source, self.data_dir)

    @functools.cached_property
    def loaded_vocabulary(self) -> Vocabulary:
        """What makes tokens of them."""
        return load_vocabulary(self.vocabulary, self.architecture)


class TaskRecipe(NamedTuple):
    """A task by name: `template` is None where it changes with the epoch."""

    dataset: str
    template: str | None = None
    ranked: bool = False


class MixtureRecipe(NamedTuple):
    """A mixture by name: what trains while `held_out` is held out, or the held-out side."""

    held_out: str
    evaluated: bool = False


_settings: SeqioTasks | None = None


def settings() -> SeqioTasks:
    """The settings in force: read from gin at the first look-up and kept until `configure`."""
    global _settings
    _settings = _settings or SeqioTasks()
    return _settings


def seqio_vocabulary():
    """The tasks' vocabulary as SeqIO's own: what a model of stock T5X reads and writes. Imports
    TensorFlow.
    """
    return settings().loaded_vocabulary.seqio()


def configure(**values: Any) -> None:
    """Settles the attributes of `SeqioTasks`; what is not given comes from gin. Tasks looked up
    before are forgotten.

    Raises:
      UserError: for an unknown name or value.
    """
    global _settings
    known = [field.name for field in dataclasses.fields(SeqioTasks)]
    for name in values:
        if name not in known:
            hint = did_you_mean(nearest(name, known), ";")
            raise UserError(
                f"the SeqIO tasks have no setting {name!r}{hint} They are {', '.join(known)}."
            )
    _settings = SeqioTasks(**values)
    if _PROVIDERS in sys.modules:
        _install(sys.modules[_PROVIDERS])  # a SeqIO that has been reset gets the names back
        for registry in _registries(sys.modules[_PROVIDERS]):
            registry._REGISTRY.forget()


def register() -> None:
    """Offers the names to SeqIO: now, if it is imported, else as soon as it is."""
    when_imported(_PROVIDERS, _install)


def task_recipes() -> Mapping[str, TaskRecipe]:
    """Every task that the catalogue offers, by name; inverted templates train but are nothing to
    evaluate with.
    """
    return _task_recipes(len(CATALOGUE))


def mixture_recipes() -> Mapping[str, MixtureRecipe]:
    """Every mixture, by name."""
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


def _registries(providers) -> tuple[Any, Any]:
    return providers.TaskRegistry, providers.MixtureRegistry


def _install(providers) -> None:
    recipes, builders = (task_recipes, mixture_recipes), (_build_task, _build_mixture)
    for registry, names, build in zip(_registries(providers), recipes, builders):
        if not isinstance(registry._REGISTRY, LazyRegistry):
            registry._REGISTRY = LazyRegistry(registry._REGISTRY, names, build)


def _build_task(name: str, recipe: TaskRecipe):
    from flan_jax.data.seqio import build as seqio_build

    return seqio_build.build_task(name, recipe, settings())


def _build_mixture(name: str, recipe: MixtureRecipe):
    from flan_jax.data.seqio import build as seqio_build

    return seqio_build.build_mixture(name, recipe, settings())
