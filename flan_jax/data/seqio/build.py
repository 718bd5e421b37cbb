"""SeqIO tasks and mixtures made from the catalogue's recipes. Imports TensorFlow.

Rows are rendered after SeqIO's repetition, so each epoch has other templates. They are rendered and
encoded by the functions that fill the token cache, so the tokens are the same, also where an input
is too long: its longest field is truncated, not the question at its end.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from flan_jax.catalogue.fingerprint import rendering_source, source_of_row
from flan_jax.catalogue.records import RATE_CAP
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.catalogue.render import choose_template
from flan_jax.catalogue.splits import held_out_split
from flan_jax.data.cache import target_of
from flan_jax.data.encode import Encoder, Rendering, undecidable
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.rows import usable_rows
from flan_jax.data.seqio.measure import gold_or_text, rank_metrics, text_metrics
from flan_jax.data.seqio.recipes import MixtureRecipe, TaskRecipe
from flan_jax.data.seqio.settings import SeqioTasks
from flan_jax.data.seqio.vocabulary import as_seqio
from flan_jax.data.sources.base import counts_once, unavailable
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError
from flan_jax.storage.hashing import digest

_log = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")


def build_task(name: str, recipe: TaskRecipe, settings: SeqioTasks) -> seqio.Task:
    """Returns the task of a recipe, with the splits that have rows in the source.

    Its examples have 'inputs' and 'targets' (int32 ids with their ends, as in `encode.Encoded`, and
    within `sequence_length`), both also as text ('..._pretokenized') and 'row_id'. Those of a
    single template also have 'row' (number of the row in its split), 'option' (number of the option
    that is the target; 0 unless ranked) and 'gold' (the target of the metrics as JSON).

    Args:
      name: the name of the task.
      recipe: dataset and template.
      settings: rows, vocabulary and rendering.

    Raises:
      UserError: if the source has no rows for it.
    """
    dataset = CATALOGUE[recipe.dataset]
    source, training = settings.opened_source, recipe.template is None
    why = {split: unavailable(source, dataset, split, settings.shots > 0) for split in _SPLITS}
    splits = [split for split in _SPLITS if why[split] is None]
    if not splits or (training and why["train"]):
        # The reason is that of the first split that the dataset should have.
        first = "train" if training else next(s for s in _SPLITS if s in dataset.splits)
        reason = why[first]
        raise UserError(
            f"SeqIO task {name!r} has no rows: {dataset.name} {reason}; provide them, or choose "
            "another source with flan_jax.data.seqio.registration.configure(source=..., "
            "data_dir=...)."
        )
    feature = _feature(settings.loaded_vocabulary)
    parts = {
        "name": name,
        "source": CatalogueRows(recipe, settings, splits),
        "output_features": {"inputs": feature, "targets": feature},
    }
    encoding = functools.partial(encode_rows, recipe=recipe, settings=settings)
    if training:
        return _Task(**parts, preprocessors=[number_epochs, encoding])
    measure = functools.partial(
        rank_metrics if recipe.ranked else text_metrics, names=dataset.metrics
    )
    return _Task(
        **parts, preprocessors=[encoding], postprocess_fn=gold_or_text, metric_fns=[measure]
    )


def build_mixture(name: str, recipe: MixtureRecipe, settings: SeqioTasks) -> seqio.Mixture:
    """Returns the mixture of a recipe; datasets without rows in the source are logged and left out.

    Training rates are rows after drops and cap, at most 3,000 (section 2.4 of the paper).

    Args:
      name: the name of the mixture.
      recipe: what is held out, and which side.
      settings: rows, vocabulary and rendering.

    Raises:
      UserError: if no dataset has rows.
    """
    split = held_out_split(
        CATALOGUE,
        recipe.held_out,
        related=settings.related,
        commercial_only=settings.commercial_only,
    )
    tasks = []
    for dataset in map(CATALOGUE.__getitem__, split.eval if recipe.evaluated else split.train):
        evaluated = "test" if recipe.evaluated else "train"
        reason = unavailable(settings.opened_source, dataset, evaluated, settings.shots > 0)
        if not recipe.evaluated:
            reason = counts_once(CATALOGUE, dataset, split.train, settings.opened_source) or reason
        if reason is not None:
            _log.warning("%s leaves out %s: %s", name, dataset.name, reason)
        elif recipe.evaluated:
            ending = ".rank" if dataset.options else ""
            tasks += [
                (f"flan_{dataset.name}.{t.id}{ending}", _eval_rate) for t in dataset.forward()
            ]
        else:
            tasks.append((f"flan_{dataset.name}", _train_rate))
    if not tasks:
        raise UserError(
            f"SeqIO mixture {name!r} is empty: the source has rows for none of its datasets; "
            "choose another with flan_jax.data.seqio.registration.configure(source=..., "
            "data_dir=...)."
        )
    return seqio.Mixture(name, tasks)


class _Task(seqio.Task):
    """A task that SeqIO does not cache in memory: to decide that, it would count all rows first."""

    def get_dataset(self, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """Returns the examples; see `seqio.Task.get_dataset`."""
        return super().get_dataset(*args, **{**kwargs, "try_in_mem_cache": False})


class CatalogueRows(seqio.DataSource):
    """The usable rows of a dataset as JSON, in order; once for each option in tasks that rank.

    Args:
      recipe: dataset and template.
      settings: rows, vocabulary and rendering.
      splits: the splits that have rows in the source.
    """

    def __init__(self, recipe: TaskRecipe, settings: SeqioTasks, splits: Sequence[str]):
        super().__init__(splits)
        self.recipe, self.settings, self.dataset = recipe, settings, CATALOGUE[recipe.dataset]
        self._counts: dict[str, int] = {}

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Returns True: `get_dataset` makes any number of shards."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns one shard, the split itself; `get_dataset` divides it as requested."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Returns the number of examples of an epoch, after drops and cap; reads the rows once."""
        if split not in self._counts:
            self._counts[split] = sum(1 for _ in self._elements(split))
        return self._counts[split]

    def rate(self) -> float:
        """Returns the number of usable training rows, at most 3,000; reads no more than these."""
        return float(sum(1 for _ in itertools.islice(self._elements("train"), RATE_CAP)))

    @property
    def fingerprint(self) -> str:
        """Returns a digest of what decides the examples: rows, record, settings, code."""
        source, dataset = self.settings.opened_source, self.dataset
        templates = [dataclasses.asdict(template) for template in dataset.templates]
        rows = [source.fingerprint(dataset, source.spec(dataset, split)) for split in self.splits]
        return digest(
            [
                self.recipe,
                dataclasses.asdict(self.settings),
                templates,
                source_of_row(dataset),
                rows,
                rendering_source(),
            ]
        )

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Returns the rows of one epoch; SeqIO shuffles the examples made of them."""
        signature = {
            "row": tf.TensorSpec([], tf.int64),
            "option": tf.TensorSpec([], tf.int64),
            "row_id": tf.TensorSpec([], tf.string),
            "fields": tf.TensorSpec([], tf.string),
        }
        return tf.data.Dataset.from_generator(
            lambda: self._shard(split, shard_info), output_signature=signature
        )

    def _shard(self, split: str, shard_info: seqio.ShardInfo | None) -> Iterator[dict[str, Any]]:
        index, shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        element = None
        for element in itertools.islice(self._elements(split), index, None, shards):
            yield {**element, "fields": json.dumps(element["fields"])}
        # A mixture would end without a message at an empty shard.
        if element is None and shards > 1:
            raise UserError(
                f"{self.dataset.name} has fewer {split} rows than the {shards} shards requested; "
                "leave it out, or read with fewer hosts."
            )

    def _elements(self, split: str) -> Iterator[dict[str, Any]]:
        source, dataset = self.settings.opened_source, self.dataset
        rendering = Rendering(target_length=sys.maxsize, options_style=self.settings.options_style)
        usable = usable_rows(
            source,
            dataset,
            source.spec(dataset, split),
            None,
            undecidable(self.settings.loaded_vocabulary, rendering),
        )
        capped = itertools.islice(usable, dataset.train_cap if split == "train" else None)
        for number, (_, name, row) in enumerate(capped):
            for option in range(len(row["options"]) if self.recipe.ranked else 1):
                yield {"row": number, "option": option, "row_id": name, "fields": row}


def from_epoch(task: seqio.Task, epoch: int) -> seqio.Task:
    """Returns a training task of ours with its epochs numbered from `epoch`; others unchanged."""
    first, *others = [*task.preprocessors] or [None]
    if first is not number_epochs:
        return task
    return task.replace(preprocessors=[functools.partial(number_epochs, first=epoch), *others])


def number_epochs(rows: tf.data.Dataset, *, first: int = 0) -> tf.data.Dataset:
    """Adds 'epoch' to rows that SeqIO repeats; a new epoch begins where 'row' does not increase.

    Args:
      rows: rows of `CatalogueRows`, repeated.
      first: the number of the first epoch.
    """

    def step(state: tuple[Any, Any], row: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        epoch, row_before = state
        epoch += tf.cast(row["row"] <= row_before, tf.int64)
        return (epoch, row["row"]), {**row, "epoch": epoch}

    return rows.scan((tf.constant(first, tf.int64), tf.constant(-1, tf.int64)), step)


def encode_rows(
    rows: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None = None,
    *,
    recipe: TaskRecipe,
    settings: SeqioTasks,
) -> tf.data.Dataset:
    """Returns rows as examples (see `build_task`), with the tokens of the token cache.

    Args:
      rows: rows of `CatalogueRows`.
      sequence_length: lengths of 'inputs' and 'targets'; no limit where there is none.
      recipe: dataset and template.
      settings: rows, vocabulary and rendering.
    """
    lengths = sequence_length or {}
    rendering = Rendering(
        lengths.get("inputs") or sys.maxsize,
        lengths.get("targets") or sys.maxsize,
        settings.options_style,
        settings.instructions,
        settings.seed,
        settings.shots,
    )
    encoded = functools.partial(_encoded, recipe, settings, rendering)

    def example(row: dict[str, Any]) -> dict[str, Any]:
        inputs, targets, *texts, gold = tf.numpy_function(
            encoded,
            [row["fields"], row["row_id"], row["option"], row.get("epoch", 0)],
            [tf.int32, tf.int32, tf.string, tf.string, tf.string],
        )
        made = {
            "inputs": tf.ensure_shape(inputs, [None]),
            "targets": tf.ensure_shape(targets, [None]),
            "inputs_pretokenized": tf.ensure_shape(texts[0], []),
            "targets_pretokenized": tf.ensure_shape(texts[1], []),
            "row_id": row["row_id"],
        }
        if recipe.template is None:
            return made
        return made | {
            "row": row["row"],
            "option": row["option"],
            "gold": tf.ensure_shape(gold, []),
        }

    return rows.map(example, num_parallel_calls=tf.data.AUTOTUNE)


def _encoded(
    recipe: TaskRecipe,
    settings: SeqioTasks,
    rendering: Rendering,
    fields: bytes,
    name: bytes,
    option: np.int64,
    epoch: np.int64,
) -> tuple[np.ndarray, np.ndarray, str, str, str]:
    """(inputs, targets, both as text, gold) of a row."""
    dataset, row, name = CATALOGUE[recipe.dataset], json.loads(fields), name.decode()
    template = (
        choose_template(dataset, name, settings.seed, int(epoch))
        if recipe.template is None
        else dataset.template(recipe.template)
    )
    encoder = Encoder(
        settings.loaded_vocabulary,
        rendering,
        _pool(dataset.name, settings) if settings.shots else None,
    )
    example = encoder.encode(dataset, template, row, name, with_options=recipe.ranked)
    targets, text = example.targets, example.text.targets
    if recipe.ranked:
        targets, text = example.options[option], example.text.options[option]
    return example.inputs, targets, example.text.inputs, text, json.dumps(target_of(row, example))


def _train_rate(task: seqio.Task) -> float:
    return task.source.rate()


def _eval_rate(task: seqio.Task) -> float:
    return float(task.num_input_examples("test"))


@functools.cache
def _feature(vocabulary: Vocabulary) -> seqio.Feature:
    return seqio.Feature(as_seqio(vocabulary), add_eos=True)


@functools.cache
def _pool(dataset: str, settings: SeqioTasks) -> ExemplarPool:
    return ExemplarPool(CATALOGUE[dataset], settings.opened_source, settings.seed)
