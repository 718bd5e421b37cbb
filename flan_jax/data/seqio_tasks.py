"""The catalogue as SeqIO tasks and mixtures, and any SeqIO task or mixture as training shards. Imports TensorFlow.

`register` gives other engines (stock T5X, a notebook) the same examples that the token cache holds: rows are rendered
by the same function, encoded by SeqIO's own preprocessors. `resolve` goes the other way: a task that somebody has
registered with SeqIO in twenty lines is run through SeqIO once an epoch and its tokens are kept in the cache.
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

from flan_jax.data.cache import TokenCache, write_train_shard
from flan_jax.data.catalogue import CATALOGUE, RATE_CAP, Dataset, Drop, Template
from flan_jax.data.clusters import CLUSTERS
from flan_jax.data.encode import Encoded
from flan_jax.data.hashing import digest
from flan_jax.data.mixture import held_out_split
from flan_jax.data.render import choose_template, read_row, render
from flan_jax.data.sources import Source, row_id
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError


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
    theirs, ours = found.output_features["targets"].vocabulary, cache.vocabulary.seqio()
    if theirs != ours:
        raise UserError(f"SeqIO task {name!r} uses the vocabulary {theirs}, but VOCABULARY is {ours}; make them equal.")
    if isinstance(found, seqio.Task):
        return {name: SeqioShards(found, cache, None)}
    return {task.name: SeqioShards(task, cache, found.get_rate(task)) for task in found.tasks}


def _code(task: seqio.Task) -> list[Any]:
    texts = []
    for step in (*task.preprocessors, getattr(task.source, "_dataset_fn", None)):
        module = sys.modules.get(getattr(inspect.unwrap(step), "__module__", "") if callable(step) else "")
        try:
            texts.append(inspect.getsource(module) if module else repr(step))
        except (OSError, TypeError):
            texts.append(repr(type(step)))
    return [*texts, type(task.source).__name__, repr(getattr(task.source, "tfds_dataset", ""))]
