"""Any SeqIO task or mixture as training shards. Imports TensorFlow.

A task registered with SeqIO is run through SeqIO once an epoch; its tokens are kept in the cache.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from flan_jax.catalogue.fingerprint import code_of
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.data.cache import TokenCache
from flan_jax.data.packs import Shard
from flan_jax.data.seqio.build import from_epoch
from flan_jax.data.seqio.recipes import mixture_recipes, task_recipes
from flan_jax.data.seqio.registration import configure
from flan_jax.data.seqio.settings import SeqioTasks
from flan_jax.data.seqio.vocabulary import as_seqio
from flan_jax.data.shards import TrainShard, open_train_shard, train_shard
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.storage.hashing import digest

tf.config.set_visible_devices([], "GPU")  # JAX uses the memory of the GPU


@dataclasses.dataclass
class SeqioShards:
    """The training shards of a SeqIO task, one an epoch.

    Attributes:
      task: the task.
      cache: where its tokens are kept.
      rate: its mixing rate; None for its number of rows, capped.
    """

    task: seqio.Task
    cache: TokenCache
    rate: float | None

    def key(self, epoch: int, split: str = "train") -> str:
        """Returns the key of the shard of an epoch: the task, its code, vocabulary and lengths.

        There is but one split, 'train'.
        """
        rendering = self.cache.rendering
        key = digest(
            [
                self.task.name,
                _code(self.task),
                self.cache.vocabulary.fingerprint,
                rendering.input_length,
                rendering.target_length,
                rendering.seed,
                epoch,
            ]
        )
        return f"seqio.{self.task.name}/train-epoch={epoch}-{key[:16]}"

    def open(self, epoch: int, split: str = "train") -> TrainShard | None:
        """Returns the examples of an epoch, memory-mapped; None if they are not in the cache."""
        shard = self.cache.packs.find(self.key(epoch))
        return None if shard is None else open_train_shard(shard)

    def render(self, epoch: int, split: str = "train") -> Shard:
        """Runs the pipeline of the task over its train split; returns the shard of its tokens.

        Args:
          epoch: number of the epoch, from 0.
          split: 'train'.

        Raises:
          UserError: if the number of examples is not that of the first epoch.
        """
        rendering = self.cache.rendering
        lengths = {"inputs": rendering.input_length, "targets": rendering.target_length}
        task = from_epoch(self.task, epoch)
        data = task.get_dataset(
            lengths, split="train", shuffle=False, seed=rendering.seed + epoch, num_epochs=1
        )
        inputs, targets = [], []
        counts: collections.Counter[str] = collections.Counter()
        for example in data.as_numpy_iterator():
            for name, tokens in (("inputs", inputs), ("targets", targets)):
                tokens.append(np.asarray(example[name], np.int32))
                if (
                    len(tokens[-1]) == lengths[name]
                    and tokens[-1][-1] != self.cache.vocabulary.eos_id
                ):
                    counts[f"{name} truncated"] += 1  # by SeqIO, with their EOS
        first = self.open(0) if epoch else None
        if first is not None and len(first.inputs) != len(inputs):
            raise UserError(
                f"SeqIO task {self.task.name!r} has {len(first.inputs)} examples in its first "
                f"epoch and {len(inputs)} in epoch {epoch}; a task that trains must have the same "
                "number in each epoch."
            )
        counts["rows read"] = counts["rows"] = len(inputs)
        return train_shard(self.key(epoch), inputs, targets, counts, {"dataset": self.task.name})


def resolve(name: str, cache: TokenCache) -> dict[str, SeqioShards]:
    """Returns the leaf tasks of a registered SeqIO task or mixture, by name.

    A name of the catalogue is built with the settings of the cache, not with those of gin.

    Args:
      name: a name in SeqIO's registries.
      cache: where tokens are kept.

    Raises:
      UserError: if nothing of that name is registered, or its vocabulary or source is not that of
        the cache.
    """
    if name in task_recipes() or name in mixture_recipes():
        _configure_as(cache)
    provider = _look_up(name)
    _check_features(name, provider, cache)
    for task in seqio.get_subtasks(provider):
        _check_source(task, cache)
    if isinstance(provider, seqio.Task):
        return {name: SeqioShards(provider, cache, None)}
    return {task.name: SeqioShards(task, cache, provider.get_rate(task)) for task in provider.tasks}


def _configure_as(cache: TokenCache) -> None:
    """Sets the settings of our SeqIO tasks to those of the cache."""
    rendering = cache.rendering
    configure(
        source=cache.source.kind,
        data_dir=cache.source.data_dir,
        vocabulary=getattr(cache.vocabulary, "path", "bytes"),
        options_style=rendering.options_style,
        instructions=rendering.instructions,
        seed=rendering.seed,
        shots=rendering.shots,
        architecture=getattr(cache.vocabulary, "architecture", None),
    )


def _look_up(name: str) -> seqio.Task | seqio.Mixture:
    try:
        return seqio.get_mixture_or_task(name)
    except ValueError as error:
        names = [
            *(dataset.name for dataset in CATALOGUE),
            *seqio.TaskRegistry.names(),
            *seqio.MixtureRegistry.names(),
        ]
        hint = did_you_mean(nearest(name, names), "; does MIXTURE_OR_TASK_MODULE register it?")
        raise UserError(
            f"MIXTURE_OR_TASK_NAME {name!r} is not a dataset of the catalogue (`flan-jax tasks "
            f"list`), nor a registered SeqIO task or mixture{hint}"
        ) from error


def _check_features(name: str, provider: seqio.Task | seqio.Mixture, cache: TokenCache) -> None:
    features, splits = provider.output_features, provider.splits
    if set(features) != {"inputs", "targets"} or "train" not in splits:
        raise UserError(
            f"SeqIO task {name!r} has the features {', '.join(features)} and the splits "
            f"{', '.join(splits)}; training needs 'inputs', 'targets' and the split 'train'."
        )
    vocabulary = as_seqio(cache.vocabulary)
    for feature in features.values():
        if feature.vocabulary != vocabulary:
            raise UserError(
                f"SeqIO task {name!r} uses the vocabulary {feature.vocabulary}, but VOCABULARY is "
                f"{vocabulary}; make them equal."
            )


def _check_source(task: seqio.Task, cache: TokenCache) -> None:
    settings, kind = getattr(task.source, "settings", None), cache.source.kind
    if isinstance(settings, SeqioTasks) and settings.source != kind:
        raise UserError(
            f"SeqIO task {task.name!r} reads {settings.source} rows, but DATA_SOURCE is {kind}; "
            f"call flan_jax.data.seqio.registration.configure(source={kind!r}, data_dir=...) "
            "before it is made."
        )


def _code(task: seqio.Task) -> list[Any]:
    """What decides the examples of a task, as far as visible: code, arguments, files it reads."""
    source = task.source
    files = [
        file
        for name in sorted(getattr(source, "splits", None) or ())
        if hasattr(source, "list_shards")
        for file in source.list_shards(name)
    ]
    local = [path for path in map(pathlib.Path, files) if path.is_file()]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in local]
    reads = getattr(source, "_dataset_fn", None)
    code = code_of(
        [*task.preprocessors, reads or type(source).__name__], f"SeqIO task {task.name!r}"
    )
    return [
        code,
        files,
        states,
        repr(getattr(source, "tfds_dataset", "")),
        getattr(source, "fingerprint", ""),
    ]
