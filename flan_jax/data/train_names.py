"""The names of what trains: the settings resolved against the catalogue and SeqIO's registry."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.records import in_words
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.catalogue.splits import Split, held_out_split
from flan_jax.data.cache import TokenCache
from flan_jax.data.config import DataConfig
from flan_jax.data.seqio.recipes import mixture_recipes, task_recipes
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest, shown

if TYPE_CHECKING:
    from flan_jax.data.seqio.shards import SeqioShards


def resolve_train_names(
    config: DataConfig, split: Split, cache: TokenCache
) -> tuple[list[str], dict[str, SeqioShards]]:
    """Returns the names of what trains, available or not, and the SeqIO tasks among them.

    Args:
      config: the data of a run.
      split: the training side and the held-out side of the catalogue under these settings.
      cache: what SeqIO tasks are encoded with and kept in.

    Raises:
      UserError: if MIXTURE_OR_TASK_NAME is unknown, held out, not licensed for COMMERCIAL_ONLY, or
        a SeqIO task that other settings cannot apply to.
    """
    name = config.mixture_or_task_name
    if name is None:
        return split.train, {}
    names = _catalogue_names(name, config)
    seqio_tasks: dict[str, SeqioShards] = {}
    if names is None:
        _check_may_be_registered(name, config.mixture_or_task_module)
        from flan_jax.data.seqio import shards as seqio_shards  # imports TensorFlow

        seqio_tasks = seqio_shards.resolve(name, cache)
        names = list(seqio_tasks)
        _check_settings_apply(names[0], config)
    _check_licenses(names, config.commercial_only)
    split.check(CATALOGUE, in_catalogue(names))
    return names, seqio_tasks


def in_catalogue(names: Iterable[str]) -> list[str]:
    """Returns the datasets of the catalogue that train under these names, each once.

    SeqIO tasks that are not the catalogue's own have no dataset and are left out.
    """
    datasets = dict.fromkeys(map(dataset_of, names))
    return [name for name in datasets if name is not None]


def dataset_of(name: str) -> str | None:
    """Returns the dataset that trains under a name: its own, or that of a `flan_...` SeqIO task.

    None for a SeqIO task that is not the catalogue's.
    """
    if name in CATALOGUE:
        return name
    task = task_recipes().get(name)
    return task.dataset if task is not None else None


def _catalogue_names(name: str, config: DataConfig) -> list[str] | None:
    """The datasets that train under a name of the catalogue or its SeqIO tasks; else None."""
    if name in CATALOGUE:
        return [name]
    task, mixture = task_recipes().get(name), mixture_recipes().get(name)
    if task is not None and task.template is None:
        return [task.dataset]
    if mixture is not None and not mixture.evaluated:
        return held_out_split(
            CATALOGUE,
            mixture.held_out,
            related=config.related,
            commercial_only=config.commercial_only,
        ).train
    return None


def _check_may_be_registered(name: str, user_module: str | None) -> None:
    """Raises a UserError if nothing can have this name; imports neither SeqIO nor TensorFlow."""
    if name in CLUSTERS:
        raise UserError(
            f"MIXTURE_OR_TASK_NAME is one dataset, SeqIO task or mixture, and {name!r} is a "
            "cluster; `flan-jax tasks list` shows its datasets."
        )
    registered = [*task_recipes(), *mixture_recipes()]
    if name in registered or user_module is not None or "seqio" in sys.modules:
        return
    near = nearest(name, [*(dataset.name for dataset in CATALOGUE), *registered])
    hint = did_you_mean(
        near, "; a task of your own needs MIXTURE_OR_TASK_MODULE, the module that registers it."
    )
    raise UserError(
        f"MIXTURE_OR_TASK_NAME {shown(repr(name))} is not a dataset of the catalogue "
        f"(`flan-jax tasks list`), nor a registered SeqIO task or mixture{hint}"
    )


def _check_settings_apply(task: str, config: DataConfig) -> None:
    """Raises a UserError if a setting is given that cannot change the rows of a SeqIO task."""
    settings = {
        "DECONTAMINATE": config.decontaminate,
        "TEMPLATES": config.templates,
        "COMMERCIAL_ONLY": config.commercial_only,
    }
    for setting, value in settings.items():
        if value:
            raise UserError(
                f"{setting} has no effect on SeqIO task {task!r}, whose own code makes its "
                f"rows; leave {setting} out, or train on datasets of the catalogue."
            )


def _check_licenses(names: Iterable[str], commercial_only: bool) -> None:
    for dataset in (CATALOGUE[name] for name in names if name in CATALOGUE):
        if commercial_only and not dataset.commercial:
            raise UserError(
                f"COMMERCIAL_ONLY is True, and commercial use of {dataset.name} is "
                f"{in_words(dataset.commercial)!r} (license {dataset.license}); train on "
                f"another one."
            )
