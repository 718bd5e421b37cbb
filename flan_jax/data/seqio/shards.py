"""Any SeqIO task or mixture as training shards. Imports TensorFlow.

A task that somebody has registered with SeqIO in twenty lines is run through SeqIO once an epoch
and its tokens are kept in the cache.
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

tf.config.set_visible_devices([], "GPU")  # the memory there is for JAX


@dataclasses.dataclass
class SeqioShards:
    """The training shards of somebody's SeqIO task, one an epoch, and its `rate` (None: its rows,
    capped).
    """

    task: seqio.Task
    cache: TokenCache
    rate: float | None

    def key(self, epoch: int) -> str:
        """The key of the shard of an epoch: the task, its code, vocabulary and lengths."""
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

    def open(self, epoch: int) -> TrainShard | None:
        """The examples of an epoch, memory-mapped; None if they have to be made."""
        shard = self.cache.packs.find(self.key(epoch))
        return None if shard is None else open_train_shard(shard)

    def render(self, epoch: int) -> Shard:
        """Runs the task's pipeline over its train split; the shard of its tokens.

        Raises:
          UserError: if it gives more or fewer examples than in the first epoch.
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
                f"SeqIO task {self.task.name!r} gives {len(first.inputs)} examples in its first "
                f"epoch and {len(inputs)} in epoch {epoch}; a task that trains must give as many "
                "each time."
            )
        counts["rows read"] = counts["rows"] = len(inputs)
        return train_shard(self.key(epoch), inputs, targets, counts, {"dataset": self.task.name})


def resolve(name: str, cache: TokenCache) -> dict[str, SeqioShards]:
    """The leaf tasks of a registered SeqIO task or mixture, by name.

    A name of the catalogue's own is built with the settings of the cache, whatever `SeqioTasks`
    says.

    Raises:
      UserError: if nothing of that name is registered, or its vocabulary or source is not that of
        the cache.
    """
    if name in task_recipes() or name in mixture_recipes():
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
    try:
        found = seqio.get_mixture_or_task(name)
    except ValueError as error:
        known = [
            *(dataset.name for dataset in CATALOGUE),
            *seqio.TaskRegistry.names(),
            *seqio.MixtureRegistry.names(),
        ]
        hint = did_you_mean(nearest(name, known), "; does MIXTURE_OR_TASK_MODULE register it?")
        raise UserError(
            f"MIXTURE_OR_TASK_NAME {name!r} is not a dataset of the catalogue (`flan-jax tasks "
            f"list`), nor a registered SeqIO task or mixture{hint}"
        ) from error
    if set(found.output_features) != {"inputs", "targets"} or "train" not in found.splits:
        raise UserError(
            f"SeqIO task {name!r} has the features {', '.join(found.output_features)} and the "
            f"splits {', '.join(found.splits)}; training needs 'inputs', 'targets' and the split "
            "'train'."
        )
    ours = as_seqio(cache.vocabulary)
    for feature in found.output_features.values():
        if feature.vocabulary != ours:
            raise UserError(
                f"SeqIO task {name!r} uses the vocabulary {feature.vocabulary}, but VOCABULARY is "
                f"{ours}; make them equal."
            )
    for task in seqio.get_subtasks(found):
        settings = getattr(task.source, "settings", None)
        if isinstance(settings, SeqioTasks) and settings.source != cache.source.kind:
            wanted = cache.source.kind
            raise UserError(
                f"SeqIO task {task.name!r} reads {settings.source} rows, but DATA_SOURCE is "
                f"{wanted}; call flan_jax.data.seqio.registration.configure(source={wanted!r}, "
                "data_dir=...) before it is made."
            )
    if isinstance(found, seqio.Task):
        return {name: SeqioShards(found, cache, None)}
    return {task.name: SeqioShards(task, cache, found.get_rate(task)) for task in found.tasks}


def _code(task: seqio.Task) -> list[Any]:
    """What decides a task's examples, as far as it can be seen: code, arguments, and the files that
    it reads.
    """
    source = task.source
    files = [
        file
        for name in sorted(getattr(source, "splits", None) or ())
        if hasattr(source, "list_shards")
        for file in source.list_shards(name)
    ]
    states = [
        (f, p.stat().st_size, p.stat().st_mtime_ns)
        for f in files
        if (p := pathlib.Path(f)).is_file()
    ]
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
