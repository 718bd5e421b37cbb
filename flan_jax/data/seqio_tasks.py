"""The catalogue as SeqIO tasks and mixtures, and any SeqIO task or mixture as training shards. Imports TensorFlow.

`register` gives other engines (stock T5X, a notebook) the same examples that the token cache holds, as long as they
fit its lengths: rows are rendered by the same function, encoded by SeqIO's own preprocessors.

`resolve` goes the other way: a task that somebody has registered with SeqIO in twenty lines is run through SeqIO once
an epoch and its tokens are kept in the cache.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import itertools
import pathlib
import sys
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from flan_jax.data.cache import TokenCache, open_train_shard, write_train_shard
from flan_jax.data.catalogue import CATALOGUE, RATE_CAP, Dataset, Drop, Template
from flan_jax.data.clusters import CLUSTERS
from flan_jax.data.encode import Encoded
from flan_jax.data.hashing import digest
from flan_jax.data.mixture import held_out_split
from flan_jax.data.render import choose_template, read_row, render
from flan_jax.data.sources import Source, row_id
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError

tf.config.set_visible_devices([], "GPU")  # the memory there is for JAX


def register(source: Source, vocabulary: Vocabulary, seed: int = 0) -> list[str]:
    """Registers with SeqIO what the source has: returns the new names.

    `flan_<dataset>` trains, with a template by hash for each row and epoch; `flan_<dataset>.<template>` holds the
    splits of one template; `flan_heldout_<cluster>` mixes what trains while the cluster is held out.
    """
    import flan_jax.tasks  # noqa: F401  (fills the catalogue)

    feature = seqio.Feature(vocabulary.seqio(), add_eos=True)
    names = []
    for dataset in CATALOGUE:
        splits = [s for s in ("train", "validation", "test") if source.available(dataset, s) is None]
        if not splits:
            continue
        for template in (None, *dataset.forward()):
            name = f"flan_{dataset.name}" + (f".{template.id}" if template else "")
            seqio.TaskRegistry.add(
                name, source=_rows_source(dataset, template, source, splits, seed),
                preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
                output_features={"inputs": feature, "targets": feature}, metric_fns=[])
            names.append(name)
    for cluster in CLUSTERS:
        train = [n for n in held_out_split(CATALOGUE, cluster).train if f"flan_{n}" in names
                 and source.available(CATALOGUE[n], "train") is None and not CATALOGUE[n].shares_training_with]
        if train:
            rates = [(f"flan_{n}", functools.partial(_rate, dataset=CATALOGUE[n], source=source)) for n in train]
            seqio.MixtureRegistry.add(f"flan_heldout_{cluster}", rates)
            names.append(f"flan_heldout_{cluster}")
    return names


def _rows_source(dataset: Dataset, template: Template | None, source: Source, splits: list[str],
                 seed: int) -> seqio.FunctionDataSource:
    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = seed) -> tf.data.Dataset:
        del shuffle_files, seed
        epochs = itertools.count()
        return tf.data.Dataset.from_generator(lambda: generate(split, next(epochs)), output_signature={
            "inputs": tf.TensorSpec([], tf.string), "targets": tf.TensorSpec([], tf.string)})

    def generate(split: str, epoch: int):
        spec = source.spec(dataset, split)
        rows = ((row_id(dataset, spec, i), read_row(dataset, raw)) for i, raw in source.rows(dataset, spec))
        rows = ((name, row) for name, row in rows if not isinstance(row, Drop))
        for name, row in itertools.islice(rows, dataset.train_cap if split == "train" else None):
            chosen = template or choose_template(dataset, name, seed, epoch)
            text = render(dataset, chosen, row, row_id=name, seed=seed)
            yield {"inputs": text.inputs, "targets": text.targets}

    return seqio.FunctionDataSource(dataset_fn, splits=splits)


def _rate(task: seqio.Task, dataset: Dataset, source: Source) -> float:
    del task
    spec = source.spec(dataset, "train")
    usable = sum(not isinstance(read_row(dataset, raw), Drop) for _, raw in source.rows(dataset, spec))
    return float(min(usable, dataset.train_cap, RATE_CAP))


@dataclasses.dataclass
class SeqioShards:
    """The training shards of somebody's SeqIO task: `path(epoch)`, `build(epoch)`, `rate` (None: its rows, capped)."""

    task: seqio.Task
    cache: TokenCache
    rate: float | None

    def path(self, epoch: int) -> pathlib.Path:
        """Where the shard of an epoch lies; named after the task, its code, vocabulary and lengths."""
        rendering = self.cache.rendering
        key = digest([self.task.name, _code(self.task), self.cache.vocabulary.fingerprint, rendering.input_length,
                      rendering.target_length, rendering.seed, epoch])
        return self.cache.directory / f"seqio.{self.task.name}" / f"train-epoch={epoch}-{key[:16]}"

    def build(self, epoch: int) -> None:
        """Runs the task's pipeline over its train split and keeps the tokens."""
        rendering = self.cache.rendering
        lengths = {"inputs": rendering.input_length, "targets": rendering.target_length}
        data = self.task.get_dataset(lengths, split="train", shuffle=False, seed=rendering.seed + epoch, num_epochs=1)
        examples = [Encoded(np.asarray(e["inputs"], np.int32), np.asarray(e["targets"], np.int32), None, None)
                    for e in data.as_numpy_iterator()]
        first = open_train_shard(self.path(0)) if epoch else None
        if first is not None and len(first.inputs) != len(examples):
            raise UserError(f"SeqIO task {self.task.name!r} gives {len(first.inputs)} examples in its first epoch and "
                            f"{len(examples)} in epoch {epoch}; a task that trains must give as many each time.")
        counts = collections.Counter({"rows read": len(examples)})
        write_train_shard(self.path(epoch), examples, [0] * len(examples), counts,
                          {"dataset": self.task.name, "epoch": epoch})


def resolve(name: str, cache: TokenCache) -> dict[str, SeqioShards]:
    """The leaf tasks of a registered SeqIO task or mixture, by name.

    Raises:
      UserError: if nothing of that name is registered, or its vocabulary is not VOCABULARY.
    """
    try:
        found = seqio.get_mixture_or_task(name)
    except ValueError as error:
        raise UserError(f"MIXTURE_OR_TASK_NAME {name!r} is neither a configuration of the catalogue (`flan-jax tasks "
                        "list`) nor a registered SeqIO task or mixture; does MIXTURE_OR_TASK_MODULE register it?"
                        ) from error
    if set(found.output_features) != {"inputs", "targets"} or "train" not in found.splits:
        raise UserError(f"SeqIO task {name!r} has the features {', '.join(found.output_features)} and the splits "
                        f"{', '.join(found.splits)}; training needs 'inputs', 'targets' and the split 'train'.")
    ours = cache.vocabulary.seqio()
    for feature in found.output_features.values():
        if feature.vocabulary != ours:
            raise UserError(f"SeqIO task {name!r} uses the vocabulary {feature.vocabulary}, but VOCABULARY is {ours}; "
                            "make them equal.")
    if isinstance(found, seqio.Task):
        return {name: SeqioShards(found, cache, None)}
    return {task.name: SeqioShards(task, cache, found.get_rate(task)) for task in found.tasks}


def _code(task: seqio.Task) -> list[Any]:
    """What decides a task's examples, as far as it can be seen: code, arguments, and the files that it reads."""
    source = task.source
    files = [file for name in sorted(getattr(source, "splits", None) or ()) if hasattr(source, "list_shards")
             for file in source.list_shards(name)]
    states = [(f, p.stat().st_size, p.stat().st_mtime_ns) for f in files if (p := pathlib.Path(f)).is_file()]
    reads = getattr(source, "_dataset_fn", None)
    return [*map(_function_code, task.preprocessors), _function_code(reads) if reads else type(source).__name__,
            files, states, repr(getattr(source, "tfds_dataset", ""))]


def _function_code(function: Any) -> Any:
    if isinstance(function, functools.partial):
        return [_function_code(function.func), repr(function.args), repr(sorted(function.keywords.items()))]
    function = inspect.unwrap(function) if callable(function) else function
    module = sys.modules.get(getattr(function, "__module__", ""))
    closure = [repr(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    try:
        return [getattr(function, "__qualname__", ""), closure, inspect.getsource(module)]
    except (OSError, TypeError):
        return [repr(type(function)), closure]
