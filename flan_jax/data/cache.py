"""The token cache: each (dataset, split, template choice) rendered and encoded once, on disk.

A shard is named after the digest of everything that decides its contents: the dataset's record and
templates, the code of its row function, the renderer, the vocabulary, lengths and options, the
source's rows, and the seed where that decides. Change any of them and another shard is looked up,
so nothing in the cache is ever stale. Shards lie together in files (see `packs`).

A training row meets one template an epoch, chosen by hash of (row id, seed, epoch). An epoch is a
shard; but of a small dataset all epochs after the first few, with any seed, are one shard with
every row in every template, and where a row reads the same in every epoch all of them are one.
Evaluation shards hold one template each.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from flan_jax.catalogue.fingerprint import rendering_source, source_of_row
from flan_jax.catalogue.records import Dataset, Template
from flan_jax.catalogue.render import MIXED, choose_template
from flan_jax.data.bucket_packs import BucketPacks
from flan_jax.data.contamination.filter import HeldOutFilter
from flan_jax.data.encode import Encoded, Encoder, Rendering, undecidable
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.packs import Packs, PackWriter, Shard
from flan_jax.data.rows import ONE_CLASS, capped, count_one_class, row_id, sample, usable_rows
from flan_jax.data.shards import (
    EvalExamples,
    TrainShard,
    eval_shard,
    open_eval_shard,
    open_train_shard,
    train_shard,
)
from flan_jax.data.sources.base import Source
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.storage.hashing import digest
from flan_jax.storage.remote import Remote

# Raise it where this module makes other shards than before; the text of the modules that render
# is part of every key.
_FORMAT = 5

# Where a dataset has at most so many (row, template) pairs, its epochs after the first ones share a
# shard.
MOST_PAIRS = 8192
_FIRST_EPOCHS = 4

# What a dataset's record decides of a row's text; the templates are part of the key, too.
_FIELDS_IN_KEY = (
    "name",
    "fields",
    "options",
    "evidence",
    "train_cap",
    "cluster",
    "paper_dataset",
)

_log = logging.getLogger(__name__)


class TokenCache:
    """Opens and makes the shards of a directory for one source, vocabulary and rendering.

    Attributes:
      directory: of the cache.
      packs: its files.
      source, vocabulary, rendering: what decides the shards.
      held_out_filter: what training rows pass through, or None.
      bucket: the packs in a bucket whose copies these are, or None.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        source: Source,
        vocabulary: Vocabulary,
        rendering: Rendering,
        remote: Remote | None = None,
    ):
        """`remote` is the cache in a bucket whose copy `directory` is, or None."""
        self.directory = pathlib.Path(directory).expanduser()
        self.packs = Packs(self.directory / "tokens")
        self.bucket = remote and BucketPacks(remote / "tokens", self.packs.directory)
        self.source = source
        self.vocabulary = vocabulary
        self.rendering = rendering
        self.held_out_filter: HeldOutFilter | None = None
        self._fingerprints: dict[tuple, str] = {}
        self._pools: dict[tuple[str, bool], ExemplarPool] = {}
        self._code = digest([rendering_source(), _FORMAT])

    def beside(self, source: Source, rendering: Rendering) -> TokenCache:
        """Returns a cache of other rows, or of another rendering, in the same files."""
        cache = TokenCache(self.directory, source, self.vocabulary, rendering)
        cache.packs, cache.held_out_filter = self.packs, self.held_out_filter
        cache.bucket = self.bucket
        return cache

    def fetch(self, keys: Collection[str]) -> bool:
        """Copies packs with these shards from the bucket; returns whether there were any.

        Raises:
          UserError: if the bucket cannot be read.
        """
        return self.bucket is not None and self.bucket.fetch(keys)

    def push(self) -> None:
        """Copies what the bucket lacks to it; no effect on a cache on the disk.

        Raises:
          UserError: if the bucket cannot be written.
        """
        if self.bucket is not None:
            self.bucket.push(self.packs)

    def keep(self, shard: Shard) -> str:
        """Writes a shard; returns its key."""
        with PackWriter(self.packs.directory) as writer:
            writer.add(shard)
        return shard.key

    # Training rows.

    def train_key(self, dataset: Dataset, epoch: int, split: str = "train") -> str:
        """Returns the key of the shard that has the examples of an epoch.

        It may depend on the first epoch, if that is in the cache: its rows say whether the dataset
        is small.
        """
        if not self._epochs_differ(dataset):
            return self._key(dataset, split, self._filter(), False)
        if epoch >= _FIRST_EPOCHS:
            shard = self.packs.find(self.train_key(dataset, 0, split))
            if (
                shard is not None
                and shard.meta["counts"]["rows"] * len(dataset.templates) <= MOST_PAIRS
            ):
                return self._key(dataset, split, {"templates": "all", **self._filter()}, False)
        return self._key(dataset, split, {"epoch": epoch, **self._filter()}, True)

    def open_train(self, dataset: Dataset, epoch: int, split: str = "train") -> TrainShard | None:
        """Returns the examples of an epoch, memory-mapped; None if they have to be rendered."""
        shard = self.packs.find(self.train_key(dataset, epoch, split))
        if shard is None:
            return None
        opened = open_train_shard(shard)
        if "rows" not in shard.arrays:
            return opened
        # The shard has every row in every template: the examples of this epoch are picked.
        numbers = {template.id: number for number, template in enumerate(dataset.templates)}
        spec = self.source.spec(dataset, split)
        chosen = []
        for row in shard.arrays["rows"].tolist():
            name = row_id(dataset, spec, row)
            chosen.append(numbers[choose_template(dataset, name, self.rendering.seed, epoch).id])
        pairs = np.arange(len(chosen)) * len(numbers) + np.array(chosen, np.int64)
        return opened.take(pairs)

    def render_train(self, dataset: Dataset, epoch: int, split: str = "train") -> Shard:
        """Renders the shard of `train_key`."""
        key = self.train_key(dataset, epoch, split)
        has_all_templates = "templates=all" in key
        encoder, counts = self._encoder(dataset, self.held_out_filter), collections.Counter()
        inputs, targets, trained, labels, positions = [], [], [], [], []
        # 30,000 long rows lie in memory
        compact = np.uint16 if self.vocabulary.size <= 2**16 else np.int32
        for name, row in self._train_rows(dataset, split, counts):
            chosen = choose_template(dataset, name, self.rendering.seed, epoch)
            for template in dataset.templates if has_all_templates else (chosen,):
                for example in encoder.examples(dataset, template, row, name):
                    inputs.append(example.inputs.astype(compact))
                    targets.append(example.targets.astype(compact))
                    trained.append(example.trained)
            labels.append(row.get("label"))
            positions.append(int(name.rsplit("/", 1)[1]))
        count_one_class(dataset, labels, counts)
        # the counts of training rows are printed with the plan
        if split != "train" and ONE_CLASS in counts:
            _log.warning(
                "%s: all %d %s rows are of a single class; are the files sorted by label?",
                dataset.name,
                len(labels),
                split,
            )
        counts.update(encoder.counts)
        counts["rows"] = len(positions) if has_all_templates else len(inputs)
        meta = {"dataset": dataset.name, "code": self.code_digest(dataset)}
        shard = train_shard(key, inputs, targets, counts, meta, trained)
        if has_all_templates:
            shard.arrays["rows"] = np.array(positions, np.int64)
        return shard

    def build_train(self, dataset: Dataset, epoch: int, split: str = "train") -> str:
        """Puts the shard of an epoch into the cache if it is not there; returns its key."""
        key = self.train_key(dataset, epoch, split)
        if self.packs.find(key) is not None:
            return key
        return self.keep(self.render_train(dataset, epoch, split))

    def _train_rows(
        self, dataset: Dataset, split: str, counts: collections.Counter
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        rows = capped(dataset, self._rows(dataset, split, counts), counts)
        if self.held_out_filter is None:
            return rows
        return self.held_out_filter.kept(dataset, rows, counts)

    def _epochs_differ(self, dataset: Dataset) -> bool:
        """Whether a row may meet another template in another epoch, or with another seed."""
        shows_templates = self.rendering.instructions in ("template", "baseline")
        return len(dataset.templates) > 1 and shows_templates

    def _filter(self) -> dict[str, str]:
        return {} if self.held_out_filter is None else {"filter": self.held_out_filter.key[:8]}

    # Held-out rows.

    def eval_key(
        self, dataset: Dataset, split: str, template: Template, max_rows: int | None
    ) -> str:
        """Returns the key of the evaluation shard of a template."""
        return self._key(dataset, split, {"template": template.id, "max_rows": max_rows}, False)

    def eval_examples(
        self, dataset: Dataset, split: str, template: Template, max_rows: int | None = None
    ) -> EvalExamples | None:
        """Returns the rows of an evaluation shard; None if it has to be rendered."""
        shard = self.packs.find(self.eval_key(dataset, split, template, max_rows))
        if shard is None:
            return None
        has_options = bool(dataset.options) and template.kind == "forward"
        return open_eval_shard(shard, template.kind, has_options)

    def render_eval(
        self, dataset: Dataset, split: str, template: Template, max_rows: int | None = None
    ) -> Shard:
        """Renders an evaluation shard of all rows, or of a sample; see `rows.sample`."""
        encoder = self._encoder(dataset)
        counts: collections.Counter[str] = collections.Counter()
        rows = self._rows(dataset, split, counts)
        rows = list(rows) if max_rows is None else sample(dataset, rows, max_rows, counts)
        tokens, texts = [], []
        for name, row in rows:
            example = encoder.encode(
                dataset, template, row, name, with_options=template.kind == "forward"
            )
            tokens += [example.inputs, *(example.options or ())]
            texts.append(_text(name, row, example, template))
        count_one_class(dataset, [row.get("label") for _, row in rows], counts)
        counts["rows"] = len(texts)
        counts.update(encoder.counts)
        meta = {
            "dataset": dataset.name,
            "split": split,
            "template": template.id,
            "code": self.code_digest(dataset),
        }
        key = self.eval_key(dataset, split, template, max_rows)
        return eval_shard(key, tokens, texts, counts, meta)

    def build_eval(
        self, dataset: Dataset, split: str, template: Template, max_rows: int | None = None
    ) -> str:
        """Puts an evaluation shard into the cache if it is not there; returns its key."""
        key = self.eval_key(dataset, split, template, max_rows)
        if self.packs.find(key) is not None:
            return key
        return self.keep(self.render_eval(dataset, split, template, max_rows))

    # Keys.

    def code_digest(self, dataset: Dataset) -> str:
        """Returns a digest of the code that makes the shards of a dataset."""
        return digest([self._code, source_of_row(dataset)])[:16]

    def _encoder(self, dataset: Dataset, held_out_filter: HeldOutFilter | None = None) -> Encoder:
        if not self.rendering.shots:
            return Encoder(self.vocabulary, self.rendering)
        key = (dataset.name, held_out_filter is None)
        if key not in self._pools:
            self._pools[key] = ExemplarPool(
                dataset, self.source, self.rendering.seed, held_out_filter
            )
        return Encoder(self.vocabulary, self.rendering, self._pools[key])

    def _rows(
        self, dataset: Dataset, split: str, counts: collections.Counter
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        spec = self.source.spec(dataset, split)
        reason = undecidable(self.vocabulary, self.rendering)
        rows = usable_rows(self.source, dataset, spec, counts, reason)
        return ((name, row) for _, name, row in rows)

    def _key(self, dataset: Dataset, split: str, choice: dict[str, Any], seed_decides: bool) -> str:
        """'<dataset>/<split>-<choice>-<digest>'."""
        by_seed = self.rendering.options_style in ("shuffled", MIXED)
        if seed_decides or self.rendering.shots or by_seed:
            choice = {**choice, "seed": self.rendering.seed}
        key = digest([self._fingerprint(dataset, split), choice])[:16]
        given = [f"{name}={value}" for name, value in choice.items() if value is not None]
        return f"{dataset.name}/{'-'.join([split, *given, key])}"

    def _fingerprint(self, dataset: Dataset, split: str) -> str:
        """A digest of what decides the shards of a split, whatever the epoch, template or seed."""
        mark = (dataset.name, dataset.templates, split)
        if mark not in self._fingerprints:
            spec = self.source.spec(dataset, split)
            self._fingerprints[mark] = digest(
                [
                    _record(dataset),
                    source_of_row(dataset),
                    self._code,
                    spec,
                    self.vocabulary.fingerprint,
                    {**dataclasses.asdict(self.rendering), "seed": None},
                    self.source.kind,
                    self._rows_fingerprint(dataset, spec),
                ]
            )
        return self._fingerprints[mark]

    def _rows_fingerprint(self, dataset: Dataset, spec: str) -> list[str]:
        """Digests of the rows themselves and of those that exemplars are drawn from."""
        specs = [spec]
        if self.rendering.shots:
            specs.append(self.source.spec(dataset, "train"))
        return [self.source.fingerprint(dataset, each) for each in specs]


def _record(dataset: Dataset) -> dict[str, Any]:
    record = {name: getattr(dataset, name) for name in _FIELDS_IN_KEY}
    return {**record, "templates": [dataclasses.asdict(t) for t in dataset.templates]}


def _text(name: str, row: dict[str, Any], example: Encoded, template: Template) -> dict[str, Any]:
    text = {"row": name, "inputs": example.text.inputs}
    if template.kind == "inverted":
        target = example.text.targets
        return {**text, "answer": target, "references": [target]}
    return {**text, **target_of(row, example)}


def target_of(row: dict[str, Any], example: Encoded) -> dict[str, Any]:
    """Returns what metrics compare with.

    'answer', 'references', and where they apply 'options', 'label', 'order', 'group', 'value'.
    """
    text = example.text
    target: dict[str, Any] = {"answer": text.answer}
    if text.options is not None:
        target |= {"options": text.options, "label": text.label, "order": text.order}
    target["references"] = _as_shown(row.get("references"), row, example) or [text.answer]
    return target | {key: row[key] for key in ("group", "value") if key in row}


def _as_shown(
    references: list[str] | None, row: dict[str, Any], example: Encoded
) -> list[str] | None:
    """References that are options, as the row shows them: a letter where options are lettered."""
    if not references or example.text.options is None:
        return references
    originals = [row["options"][index] for index in example.text.order]
    shown = dict(zip(originals, example.text.options))
    return [shown.get(reference, reference) for reference in references]
