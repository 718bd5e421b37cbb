"""The token cache: each (dataset, split, template choice) rendered and encoded once, on disk,
checked, never stale.

A shard is named after the digest of everything that decides its contents: the dataset's record and
templates, the code of its row function, the renderer, the vocabulary, lengths and options, the
source's rows, and the seed where that decides. Change any of them and another shard is looked up.
Shards lie together in files (see `packs`).

A training row meets one template an epoch, chosen by hash of (row id, seed, epoch). An epoch is a
shard; but of a small dataset all epochs after the first few, with any seed, are one shard with
every row in every template, and where a row reads the same in every epoch all of them are one.
Evaluation shards hold one template each.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import heapq
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from flan_jax.catalogue.fingerprint import rendering_source, source_of_row
from flan_jax.catalogue.records import Dataset, Template
from flan_jax.catalogue.render import choose_template
from flan_jax.data import encode
from flan_jax.data.contamination.filter import HeldOutFilter
from flan_jax.data.encode import Encoded, Encoder, Rendering
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.packs import Packs, PackWriter, Shard
from flan_jax.data.rows import row_id, usable_rows
from flan_jax.data.sources.base import Source
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.storage.hashing import digest, stable_hash

_FORMAT = 4
DEFAULT_DIRECTORY = "~/.cache/flan_jax"

# From this many rows on it is said if all of them are of one class: their files may be sorted by
# label.
_ONE_CLASS_ROWS = 20
_ONE_CLASS = "of one class only (are the files sorted by label?)"

# Where a dataset has at most so many (row, template) pairs, its epochs after the first ones share a
# shard.
MOST_PAIRS = 8192
_FIRST_EPOCHS = 4


@dataclasses.dataclass
class Ragged:
    """Sequences of different lengths in one flat array: item i is flat[begins[i]:ends[i]]."""

    flat: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.flat[self.begins[index] : self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        """Length of every item, int64 [items]."""
        return self.ends - self.begins

    def take(self, items: np.ndarray) -> Ragged:
        """The items of these numbers, in this order."""
        return Ragged(self.flat, self.begins[items], self.ends[items])


@dataclasses.dataclass
class TrainShard:
    """One epoch of a dataset's training rows: token ids, ends included (see `encode.Encoded`)."""

    inputs: Ragged
    targets: Ragged
    meta: dict[str, Any]

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """Tokens of each row, inputs and targets together: int64 [rows]."""
        return self.inputs.lengths + self.targets.lengths


@dataclasses.dataclass
class EvalExamples:
    """A split of a dataset in one template, ready to be scored; see `TokenCache.eval_examples`."""

    dataset: str
    split: str
    template: str
    kind: str
    row_ids: list[str]
    inputs: list[np.ndarray]
    options: list[list[np.ndarray]] | None
    texts: list[dict[str, Any]]


class TokenCache:
    """Opens and makes the shards of a directory for one source, vocabulary and rendering.

    Attributes:
      packs: the files of the directory.
      held_out_filter: what training rows pass through, or None.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        source: Source,
        vocabulary: Vocabulary,
        rendering: Rendering,
    ):
        self.directory = pathlib.Path(directory).expanduser()
        self.packs = Packs(self.directory / "tokens")
        self.source = source
        self.vocabulary = vocabulary
        self.rendering = rendering
        self.held_out_filter: HeldOutFilter | None = None
        self._fingerprints: dict[tuple, str] = {}
        self._pools: dict[tuple[str, bool], ExemplarPool] = {}
        self._code = digest([rendering_source(), _FORMAT])

    def keep(self, shard: Shard) -> str:
        """Writes a shard; returns its key."""
        with PackWriter(self.packs.directory) as writer:
            writer.add(shard)
        return shard.key

    # Training rows.

    def train_key(self, dataset: Dataset, epoch: int, split: str = "train") -> str:
        """The key of the shard that has the examples of an epoch.

        Which one it is may depend on the first epoch, if that is there: its rows say whether the
          dataset is small.
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
        """The examples of an epoch, memory-mapped; None if they have to be rendered."""
        shard = self.packs.find(self.train_key(dataset, epoch, split))
        if shard is None:
            return None
        opened = open_train_shard(shard)
        if "rows" not in shard.arrays:
            return opened
        numbers = {template.id: number for number, template in enumerate(dataset.templates)}
        spec = self.source.spec(dataset, split)
        chosen = [
            numbers[
                choose_template(dataset, row_id(dataset, spec, row), self.rendering.seed, epoch).id
            ]
            for row in shard.arrays["rows"].tolist()
        ]
        pairs = np.arange(len(chosen)) * len(numbers) + np.array(chosen, np.int64)
        return TrainShard(opened.inputs.take(pairs), opened.targets.take(pairs), opened.meta)

    def render_train(self, dataset: Dataset, epoch: int, split: str = "train") -> Shard:
        """Renders the shard of `train_key`."""
        key = self.train_key(dataset, epoch, split)
        every = "templates=all" in key
        encoder, counts = self._encoder(dataset, self.held_out_filter), collections.Counter()
        inputs, targets, labels, positions = [], [], [], []
        # 30,000 long rows lie in memory
        compact = np.uint16 if self.vocabulary.size <= 2**16 else np.int32
        rows = _capped(dataset, self._rows(dataset, split, counts), counts)
        if self.held_out_filter is not None:
            rows = self.held_out_filter.kept(dataset, rows, counts)
        for name, row in rows:
            chosen = choose_template(dataset, name, self.rendering.seed, epoch)
            for template in dataset.templates if every else (chosen,):
                example = encoder.encode(dataset, template, row, name)
                inputs.append(example.inputs.astype(compact))
                targets.append(example.targets.astype(compact))
            labels.append(row.get("label"))
            positions.append(int(name.rsplit("/", 1)[1]))
        _count_one_class(dataset, labels, counts)
        # the counts of training rows are printed with the plan
        if split != "train" and _ONE_CLASS in counts:
            print(
                (
                    f"{dataset.name}: all {len(labels)} {split} rows are of one class; are the "
                    "files sorted by label?"
                ),
                flush=True,
            )
        counts.update(encoder.counts)
        counts["rows"] = len(positions)
        shard = train_shard(
            key, inputs, targets, counts, {"dataset": dataset.name, "code": self.made_by(dataset)}
        )
        return dataclasses.replace(
            shard,
            arrays=shard.arrays | {"rows": np.array(positions, np.int64)}
            if every
            else shard.arrays,
        )

    def build_train(self, dataset: Dataset, epoch: int, split: str = "train") -> str:
        """Renders and keeps the shard of an epoch, unless it is there; returns its key."""
        shard = self.packs.find(self.train_key(dataset, epoch, split))
        return self.keep(self.render_train(dataset, epoch, split)) if shard is None else shard.key

    def _epochs_differ(self, dataset: Dataset) -> bool:
        """Whether a row may meet another template in another epoch, and another seed means another
        one.
        """
        return len(dataset.templates) > 1 and self.rendering.instructions in (
            "template",
            "baseline",
        )

    def _filter(self) -> dict[str, str]:
        return {} if self.held_out_filter is None else {"filter": self.held_out_filter.key[:8]}

    # Held-out rows.

    def eval_key(
        self, dataset: Dataset, split: str, template: Template, max_rows: int | None
    ) -> str:
        """The key of the evaluation shard of a template."""
        return self._key(dataset, split, {"template": template.id, "max_rows": max_rows}, False)

    def eval_examples(
        self, dataset: Dataset, split: str, template: Template, max_rows: int | None = None
    ) -> EvalExamples | None:
        """Opens an evaluation shard; None if it has to be rendered.

        `inputs` are int32 ids ending in the vocabulary's `input_end`, each of `options` ids ending
        in EOS; `texts` has per row 'inputs', 'answer', and where they apply 'options', 'label',
        'order', 'references', 'group', 'value'.
        """
        shard = self.packs.find(self.eval_key(dataset, split, template, max_rows))
        if shard is None:
            return None
        tokens = _ragged(shard, "tokens")
        texts = [
            json.loads(line) for line in shard.arrays["texts"].tobytes().decode().split("\n")[:-1]
        ]
        inputs, options, position = [], [], 0
        for text in texts:
            width = 1 + len(text.get("options", ()))
            first, *rest = (np.asarray(tokens[position + i], np.int32) for i in range(width))
            inputs.append(first)
            options.append(rest)
            position += width
        return EvalExamples(
            dataset.name,
            split,
            template.id,
            template.kind,
            [t.pop("row") for t in texts],
            inputs,
            options if dataset.options and template.kind == "forward" else None,
            texts,
        )

    def render_eval(
        self, dataset: Dataset, split: str, template: Template, max_rows: int | None = None
    ) -> Shard:
        """Renders an evaluation shard; of more than `max_rows` rows, a sample (see `_sample`)."""
        encoder = self._encoder(dataset)
        counts: collections.Counter[str] = collections.Counter()
        rows = self._rows(dataset, split, counts)
        if max_rows is not None:
            rows = _sample(dataset, rows, max_rows, counts)
        flat, texts = [], []
        rows = list(rows)
        for name, row in rows:
            example = encoder.encode(
                dataset, template, row, name, with_options=template.kind == "forward"
            )
            flat += [example.inputs, *(example.options or ())]
            texts.append(_text(name, row, example, template))
        _count_one_class(dataset, [row.get("label") for _, row in rows], counts)
        counts["rows"] = len(texts)
        counts.update(encoder.counts)
        lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts).encode()
        return Shard(
            self.eval_key(dataset, split, template, max_rows),
            _meta(
                counts,
                {
                    "dataset": dataset.name,
                    "split": split,
                    "template": template.id,
                    "code": self.made_by(dataset),
                },
            ),
            {**_ragged_arrays("tokens", flat), "texts": np.frombuffer(lines, np.uint8)},
        )

    def build_eval(
        self, dataset: Dataset, split: str, template: Template, max_rows: int | None = None
    ) -> str:
        """Renders and keeps an evaluation shard, unless it is there; returns its key."""
        shard = self.packs.find(self.eval_key(dataset, split, template, max_rows))
        return (
            self.keep(self.render_eval(dataset, split, template, max_rows))
            if shard is None
            else shard.key
        )

    def made_by(self, dataset: Dataset) -> str:
        """Stands for the code that makes the shards of a dataset: with other code they are not
        looked up again.
        """
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
        rows = usable_rows(
            self.source,
            dataset,
            self.source.spec(dataset, split),
            counts,
            encode.undecidable(self.vocabulary, self.rendering),
        )
        return ((name, row) for _, name, row in rows)

    def _key(self, dataset: Dataset, split: str, choice: dict[str, Any], seed_decides: bool) -> str:
        spec = self.source.spec(dataset, split)
        mark = (dataset.name, dataset.templates, split)
        if mark not in self._fingerprints:
            rendering = {**dataclasses.asdict(self.rendering), "seed": None}
            self._fingerprints[mark] = digest(
                [
                    _record(dataset),
                    source_of_row(dataset),
                    self._code,
                    spec,
                    self.vocabulary.fingerprint,
                    rendering,
                    self.source.kind,
                    self._rows_fingerprint(dataset, spec),
                ]
            )
        if seed_decides or self.rendering.shots or self.rendering.options_style == "shuffled":
            choice = {**choice, "seed": self.rendering.seed}
        key = digest([self._fingerprints[mark], choice])[:16]
        parts = [
            split,
            *(f"{name}={value}" for name, value in choice.items() if value is not None),
            key,
        ]
        return f"{dataset.name}/{'-'.join(parts)}"

    def _rows_fingerprint(self, dataset: Dataset, spec: str) -> list[str]:
        """Digests of the rows themselves and of those that exemplars are drawn from."""
        specs = [spec, *([self.source.spec(dataset, "train")] if self.rendering.shots else [])]
        return [self.source.fingerprint(dataset, s) for s in specs]


def open_train_shard(shard: Shard) -> TrainShard:
    """The examples of a shard made by `train_shard`."""
    return TrainShard(_ragged(shard, "inputs"), _ragged(shard, "targets"), shard.meta)


def train_shard(
    key: str,
    inputs: list[np.ndarray],
    targets: list[np.ndarray],
    counts: collections.Counter,
    meta: dict[str, Any],
) -> Shard:
    """A shard of training examples."""
    return Shard(
        key,
        _meta(counts, meta),
        {**_ragged_arrays("inputs", inputs), **_ragged_arrays("targets", targets)},
    )


def lost_of(counts: dict[str, int]) -> dict[str, int]:
    """Those of the counts that tell of rows or of parts of them that are missing: dropped,
    shortened, cut.
    """
    return {name: count for name, count in counts.items() if name not in ("rows", "rows read")}


def _meta(counts: collections.Counter, meta: dict[str, Any]) -> dict[str, Any]:
    return {**meta, "counts": dict(sorted(counts.items()))}


def _count_one_class(dataset: Dataset, labels: list[Any], counts: collections.Counter) -> None:
    """Counts rows that are all of one class."""
    if (
        isinstance(dataset.options, tuple)
        and len(set(labels)) == 1
        and len(labels) >= _ONE_CLASS_ROWS
    ):
        counts[_ONE_CLASS] = len(labels)


def _capped(dataset: Dataset, rows: Iterator, counts: collections.Counter) -> Iterator:
    """The first `train_cap` rows."""
    for number, item in enumerate(rows):
        if number == dataset.train_cap:
            counts["rows read"] -= 1
            counts["rows at which reading stopped (the cap)"] = dataset.train_cap
            return
        yield item


def _sample(
    dataset: Dataset, rows: Iterator, most: int, counts: collections.Counter
) -> list[tuple[str, Any]]:
    """At most `most` rows, in their order: those whose id hashes lowest.

    Rows of one 'group' are taken or left together, by the group's hash; there is at least one
    group, however large. Holds no more rows than it returns, and those of one group.
    """
    groups: dict[int, list] = {}
    heap: list[int] = []  # hashes of the groups, negative: the highest comes first
    read = held = 0
    for name, row in rows:
        together = row.get("group")
        group = (
            stable_hash("sample", name)
            if together is None
            else stable_hash("sample", dataset.name, together)
        )
        if group not in groups:
            groups[group] = []
            heapq.heappush(heap, -group)
        groups[group].append((read, name, row))
        read, held = read + 1, held + 1
        while held - len(groups[-heap[0]]) >= most:
            held -= len(groups.pop(-heapq.heappop(heap)))
    if held > most and len(heap) > 1:
        held -= len(groups.pop(-heapq.heappop(heap)))
    if read > held:
        counts["over max_rows"] = read - held
    kept = sorted((item for group in groups.values() for item in group), key=lambda item: item[0])
    return [(name, row) for _, name, row in kept]


def _ragged_arrays(name: str, items: list[np.ndarray]) -> dict[str, np.ndarray]:
    flat = np.concatenate(items) if items else np.zeros(0, np.int32)
    small = flat.size == 0 or flat.max() < 2**16
    return {
        name: flat.astype(np.uint16 if small else np.int32, copy=False),
        f"{name}_ends": np.cumsum([len(item) for item in items], dtype=np.int64),
    }


def _ragged(shard: Shard, name: str) -> Ragged:
    ends = shard.arrays[f"{name}_ends"]
    return Ragged(shard.arrays[name], np.concatenate([[0], ends])[:-1].astype(np.int64), ends)


def _record(dataset: Dataset) -> dict[str, Any]:
    record = {
        f.name: getattr(dataset, f.name)
        for f in dataclasses.fields(dataset)
        if f.name
        in ("name", "fields", "options", "evidence", "train_cap", "cluster", "paper_dataset")
    }
    return {**record, "templates": [dataclasses.asdict(t) for t in dataset.templates]}


def _text(name: str, row: dict[str, Any], example: Encoded, template: Template) -> dict[str, Any]:
    if template.kind == "inverted":
        target = example.text.targets
        return {
            "row": name,
            "inputs": example.text.inputs,
            "answer": target,
            "references": [target],
        }
    return {"row": name, "inputs": example.text.inputs, **target_of(row, example)}


def target_of(row: dict[str, Any], example: Encoded) -> dict[str, Any]:
    """What metrics compare with: 'answer', 'references', and where they apply 'options', 'label',
    'order', 'group', 'value'.
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
    shown = dict(zip((row["options"][i] for i in example.text.order), example.text.options))
    return [shown.get(reference, reference) for reference in references]
