"""The names of what trains: the settings resolved against the catalogue and SeqIO's registry."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.records import in_words
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.catalogue.render import MIXED
from flan_jax.catalogue.splits import Split, held_out_split
from flan_jax.config.checks import quoted
from flan_jax.data.cache import TokenCache
from flan_jax.data.config import DataConfig
from flan_jax.data.mixture_language import FLAN, Part, is_own, parse
from flan_jax.data.own_data import OwnData, open_own, own_paths
from flan_jax.data.seqio.recipes import mixture_recipes, task_recipes
from flan_jax.data.train_parts import Rates
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest, shown

if TYPE_CHECKING:
    from flan_jax.data.seqio.shards import SeqioShards


@dataclasses.dataclass(frozen=True)
class TrainNames:
    """What trains under the settings, available or not.

    Attributes:
      names: of all of it, each once.
      seqio_tasks: those of `names` whose rows SeqIO reads.
      own: those of `names` that are files of the user.
      rates: how often each is drawn.
    """

    names: list[str]
    seqio_tasks: dict[str, SeqioShards] = dataclasses.field(default_factory=dict)
    own: dict[str, OwnData] = dataclasses.field(default_factory=dict)
    rates: Rates = Rates()


def resolve_train_names(config: DataConfig, split: Split, cache: TokenCache) -> TrainNames:
    """Returns what trains.

    Args:
      config: the data of a run.
      split: the training side and the held-out side of the catalogue under these settings.
      cache: what SeqIO tasks are encoded with and kept in.

    Raises:
      UserError: if MIXTURE_OR_TASK_NAME cannot be read, or a part of it is unknown, held out, not
        licensed for COMMERCIAL_ONLY, or a SeqIO task that other settings cannot apply to.
    """
    if config.mixture_or_task_name is None:
        return TrainNames(split.train)
    parts = parse(config.mixture_or_task_name)
    own = _own(parts)
    singled_out = in_catalogue(name for part in parts for name in part.names)
    names_of, seqio_tasks = [], {}
    for part in parts:
        names_of.append([])
        for name in part.names:
            tasks = {}
            names = own.names[name] if name in own.names else _catalogue_names(name, config, split)
            if name == FLAN:  # the others of it: those have the cap or share of their own part
                names = [dataset for dataset in names if dataset not in singled_out]
            if names is None:
                tasks = _seqio_tasks(name, config, cache)
                names = list(tasks)
                _check_cap(name, part, tasks)
            names_of[-1] += names
            seqio_tasks |= tasks
    names = [name for names in names_of for name in names]
    _check_once(names)
    _check_settings_apply(names, seqio_tasks, config)
    _check_licenses(names, config.commercial_only)
    split.check(CATALOGUE, in_catalogue(names))
    return TrainNames(names, seqio_tasks, own.data, _rates(parts, names_of))


class _Own(NamedTuple):
    """The files of the user: by their name in the mixture, and those names by that of the part."""

    data: dict[str, OwnData]
    names: dict[str, list[str]]


def _own(parts: Iterable[Part]) -> _Own:
    """Opens the files that the parts name."""
    paths = {name: own_paths(name) for part in parts for name in part.names if is_own(name)}
    data = open_own([path for matches in paths.values() for path in matches])
    names = iter(data)
    return _Own(data, {name: [next(names) for _ in matches] for name, matches in paths.items()})


def _rates(parts: Iterable[Part], names_of: Iterable[list[str]]) -> Rates:
    caps, shares = {}, []
    for part, names in zip(parts, names_of):
        if part.cap is not None:
            caps |= dict.fromkeys(names, part.cap)
        if part.share is not None:
            shares.append((frozenset(names), part.share))
    return Rates(caps, tuple(shares))


def _seqio_tasks(name: str, config: DataConfig, cache: TokenCache) -> dict[str, SeqioShards]:
    _check_may_be_registered(name, config.mixture_or_task_module)
    is_ours = name in task_recipes() or name in mixture_recipes()
    if is_ours and MIXED in (config.shots, config.options_style):
        raise UserError(
            f"the SeqIO task {name!r} has one style for all rows; with SHOTS='mixed' or "
            "OPTIONS_STYLE='mixed', name its dataset instead."
        )
    from flan_jax.data.seqio import shards as seqio_shards  # imports TensorFlow

    return seqio_shards.resolve(name, cache)


def _check_cap(name: str, part: Part, tasks: Mapping[str, SeqioShards]) -> None:
    if part.cap is not None and any(task.rate is not None for task in tasks.values()):
        raise UserError(
            f"MIXTURE_OR_TASK_NAME: the SeqIO mixture {name!r} has rates of its own, which the cap "
            f":{part.cap} would replace; give it a share, such as {name}:50%, or leave it out."
        )


def _check_once(names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"MIXTURE_OR_TASK_NAME: {shown(twice)} is in two of its parts; leave it out of one."
        )


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


def _catalogue_names(name: str, config: DataConfig, split: Split) -> list[str] | None:
    """The datasets that train under a name of the catalogue or its SeqIO tasks; else None."""
    if name == FLAN:
        return split.train
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
    if os.path.exists(name):
        raise UserError(
            f"MIXTURE_OR_TASK_NAME {quoted(name)} is not a dataset or task, but a file or "
            f"directory; a path without a suffix such as .jsonl is written as ./{shown(name)}."
        )
    near = nearest(name, [FLAN, *(dataset.name for dataset in CATALOGUE), *registered])
    hint = did_you_mean(
        near, "; a task of your own needs MIXTURE_OR_TASK_MODULE, the module that registers it."
    )
    raise UserError(
        f"MIXTURE_OR_TASK_NAME {quoted(name)} is not a dataset of the catalogue "
        "(`flan-jax tasks list`), a file, a directory, nor a registered SeqIO task or "
        f"mixture{hint}"
    )


def _check_settings_apply(
    names: list[str], seqio_tasks: Mapping[str, SeqioShards], config: DataConfig
) -> None:
    """Raises a UserError if a setting is given that cannot change the rows of what trains."""
    settings = {
        "DECONTAMINATE": config.decontaminate,
        "TEMPLATES": config.templates,
        "COMMERCIAL_ONLY": config.commercial_only,
    }
    if any(name in CATALOGUE for name in names):
        settings = {"DECONTAMINATE": config.decontaminate}
    for setting, value in settings.items():
        if value and seqio_tasks:
            raise UserError(
                f"{setting} has no effect on SeqIO task {next(iter(seqio_tasks))!r}, whose own "
                f"code makes its rows; leave {setting} out, or train on datasets of the catalogue."
            )
    if config.templates and not any(name in CATALOGUE for name in names):
        raise UserError(
            "TEMPLATES has no effect on files, whose rows are written as they are; leave it out."
        )


def _check_licenses(names: Iterable[str], commercial_only: bool) -> None:
    for dataset in (CATALOGUE[name] for name in names if name in CATALOGUE):
        if commercial_only and not dataset.commercial:
            raise UserError(
                f"COMMERCIAL_ONLY is True, and commercial use of {dataset.name} is "
                f"{in_words(dataset.commercial)!r} (license {dataset.license}); train on "
                f"another one."
            )
