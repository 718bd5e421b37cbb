"""The token cache: each (dataset, split, template choice) rendered and encoded once, on disk, checked, never stale.

A shard is a directory named after the digest of everything that decides its contents: the dataset's record and
templates, the code of its row function, the renderer, the vocabulary, lengths and options, the source's rows. Change
any of them and another directory is looked up. A shard is written to a temporary directory and renamed, so it is
whole or absent; `meta.json` holds a checksum of each file.

Training shards hold one template a row, chosen by hash of (row id, seed, epoch): one shard an epoch, built when the
packing plan needs it. Evaluation shards hold one template each.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import heapq
import inspect
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from flan_jax.data import encode, exemplars, hashing, render
from flan_jax.data.catalogue import Dataset, Template, source_of_row
from flan_jax.data.decontaminate import HeldOutFilter
from flan_jax.data.encode import Encoded, Encoder, Rendering
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.hashing import digest, file_digest, stable_hash
from flan_jax.data.render import choose_template, usable_rows
from flan_jax.data.sources import Source
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError

# What makes an example of a row, and which one; part of every key.
CODE = (render, encode, exemplars, hashing)
_FORMAT = 3
DEFAULT_DIRECTORY = "~/.cache/flan_jax"

# From this many rows on it is said if all of them are of one class: their files may be sorted by label.
_ONE_CLASS_ROWS = 20


@dataclasses.dataclass
class Ragged:
    """Sequences of different lengths in one flat array: item i is flat[ends[i-1]:ends[i]]."""

    flat: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        begin = self.ends[index - 1] if index else 0
        return self.flat[begin:self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        """Length of every item, int64 [items]."""
        return np.diff(self.ends, prepend=0)


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
    """Opens and builds shards below a directory for one source, vocabulary and rendering.

    Attributes:
      held_out_filter: what training rows pass through, or None.
    """

    def __init__(self, directory: str | pathlib.Path, source: Source, vocabulary: Vocabulary, rendering: Rendering):
        self.directory = pathlib.Path(directory).expanduser()
        self.source = source
        self.vocabulary = vocabulary
        self.rendering = rendering
        self.held_out_filter: HeldOutFilter | None = None
        self._fingerprints: dict[tuple, str] = {}
        self._pools: dict[tuple[str, bool], ExemplarPool] = {}
        self._code = digest([*map(inspect.getsource, CODE), _FORMAT])

    def train_path(self, dataset: Dataset, epoch: int, split: str = "train") -> pathlib.Path:
        """Where the training shard of an epoch lies or will lie."""
        guard = {} if self.held_out_filter is None else {"filter": self.held_out_filter.key[:8]}
        return self._path(dataset, split, {"epoch": epoch, **guard})

    def build_train(self, dataset: Dataset, epoch: int, split: str = "train") -> pathlib.Path:
        """Builds the training shard of an epoch, unless it is there."""
        path = self.train_path(dataset, epoch, split)
        if _opened(path):
            return path
        encoder, counts = self._encoder(dataset, self.held_out_filter), collections.Counter()
        inputs, targets, labels = [], [], set()
        compact = np.uint16 if self.vocabulary.size <= 2**16 else np.int32  # 30,000 long rows lie in memory
        rows = _capped(dataset, self._rows(dataset, split, counts), counts)
        if self.held_out_filter is not None:
            rows = self.held_out_filter.kept(dataset, rows, counts)
        for name, row in rows:
            template = choose_template(dataset, name, self.rendering.seed, epoch)
            example = encoder.encode(dataset, template, row, name)
            inputs.append(example.inputs.astype(compact))
            targets.append(example.targets.astype(compact))
            labels.add(row.get("label"))
        if isinstance(dataset.options, tuple) and len(labels) == 1 and len(inputs) >= _ONE_CLASS_ROWS:
            counts["of one class only (are the files sorted by label?)"] = len(inputs)
            if split != "train":  # the counts of training rows are printed with the plan
                print(f"{dataset.name}: all {len(inputs)} {split} rows are of one class; are the files sorted by "
                      "label?", flush=True)
        counts.update(encoder.counts)
        return write_train_shard(path, inputs, targets, counts, {"dataset": dataset.name, "epoch": epoch})

    def eval_path(self, dataset: Dataset, split: str, template: Template, max_rows: int | None) -> pathlib.Path:
        """Where the evaluation shard of a template lies or will lie."""
        return self._path(dataset, split, {"template": template.id, "max_rows": max_rows})

    def has_eval(self, dataset: Dataset, split: str, template: Template, max_rows: int | None) -> bool:
        """Whether an evaluation shard is there and whole."""
        return _opened(self.eval_path(dataset, split, template, max_rows)) is not None

    def eval_examples(self, dataset: Dataset, split: str, template: Template,
                      max_rows: int | None = None) -> EvalExamples | None:
        """Opens an evaluation shard; None if it has to be built.

        `inputs` are int32 ids ending in the vocabulary's `input_end`, each of `options` ids ending in EOS; `texts` has
        per row 'inputs', 'answer', and where they apply 'options', 'label', 'order', 'references', 'group', 'value'.
        """
        path = self.eval_path(dataset, split, template, max_rows)
        meta = _opened(path)
        if meta is None:
            return None
        tokens = _ragged(path, "tokens")
        with open(path / "texts.jsonl", encoding="utf-8") as file:
            texts = [json.loads(line) for line in file]
        inputs, options, position = [], [], 0
        for text in texts:
            width = 1 + len(text.get("options", ()))
            first, *rest = (np.asarray(tokens[position + i], np.int32) for i in range(width))
            inputs.append(first)
            options.append(rest)
            position += width
        return EvalExamples(dataset.name, split, template.id, template.kind, [t.pop("row") for t in texts], inputs,
                            options if dataset.options and template.kind == "forward" else None, texts)

    def build_eval(self, dataset: Dataset, split: str, template: Template, max_rows: int | None = None) -> pathlib.Path:
        """Builds an evaluation shard, unless it is there; of more than `max_rows` rows, a sample (see `_sample`)."""
        path = self.eval_path(dataset, split, template, max_rows)
        if _opened(path):
            return path
        encoder = self._encoder(dataset)
        counts: collections.Counter[str] = collections.Counter()
        rows = self._rows(dataset, split, counts)
        if max_rows is not None:
            rows = _sample(dataset, rows, max_rows, counts)
        flat, texts = [], []
        for name, row in rows:
            example = encoder.encode(dataset, template, row, name, with_options=template.kind == "forward")
            flat += [example.inputs, *(example.options or ())]
            texts.append(_text(name, row, example, template))
        counts["rows"] = len(texts)
        counts.update(encoder.counts)
        with _Shard(path, counts, {"dataset": dataset.name, "split": split, "template": template.id}) as shard:
            shard.ragged("tokens", flat)
            shard.lines("texts", texts)
        return path

    def _encoder(self, dataset: Dataset, held_out_filter: HeldOutFilter | None = None) -> Encoder:
        if not self.rendering.shots:
            return Encoder(self.vocabulary, self.rendering)
        key = (dataset.name, held_out_filter is None)
        if key not in self._pools:
            self._pools[key] = ExemplarPool(dataset, self.source, self.rendering.seed, held_out_filter)
        return Encoder(self.vocabulary, self.rendering, self._pools[key])

    def _rows(self, dataset: Dataset, split: str, counts: collections.Counter) -> Iterator[tuple[str, dict[str, Any]]]:
        rows = usable_rows(self.source, dataset, self.source.spec(dataset, split), counts)
        return ((name, row) for _, name, row in rows)

    def _path(self, dataset: Dataset, split: str, choice: dict[str, Any]) -> pathlib.Path:
        spec = self.source.spec(dataset, split)
        mark = (dataset.name, dataset.templates, split)
        if mark not in self._fingerprints:
            self._fingerprints[mark] = digest([_record(dataset), source_of_row(dataset), self._code, spec,
                                               self.vocabulary.fingerprint, dataclasses.asdict(self.rendering),
                                               self.source.kind, self._rows_fingerprint(dataset, spec)])
        key = digest([self._fingerprints[mark], choice])[:16]
        parts = [split, *(f"{name}={value}" for name, value in choice.items() if value is not None), key]
        return self.directory / dataset.name / "-".join(parts)

    def _rows_fingerprint(self, dataset: Dataset, spec: str) -> list[str]:
        """Digests of the rows themselves and of those that exemplars are drawn from."""
        specs = [spec, *([self.source.spec(dataset, "train")] if self.rendering.shots else [])]
        return [self.source.fingerprint(dataset, s) for s in specs]


def open_train_shard(path: pathlib.Path) -> TrainShard | None:
    """The training shard in a directory, memory-mapped; None if there is none."""
    meta = _opened(path)
    if meta is None:
        return None
    return TrainShard(_ragged(path, "inputs"), _ragged(path, "targets"), meta)


def are_whole(paths: list[pathlib.Path]) -> list[bool]:
    """Whether each shard is there and undamaged; their files are read side by side."""
    with concurrent.futures.ThreadPoolExecutor() as executor:
        return [meta is not None for meta in executor.map(_opened, paths)]


def rows_in(path: pathlib.Path) -> int:
    """Rows of a shard that is there."""
    return counts_in(path)["rows"]


def counts_in(path: pathlib.Path) -> dict[str, int]:
    """What was counted when a shard that is there was made: 'rows', 'rows read', and what was dropped and cut."""
    return json.loads((path / "meta.json").read_text(encoding="utf-8"))["counts"]


def lost_of(counts: dict[str, int]) -> dict[str, int]:
    """Those of the counts that tell of rows or of parts of them that are missing: dropped, shortened, cut."""
    return {name: count for name, count in counts.items() if name not in ("rows", "rows read")}


def write_train_shard(path: pathlib.Path, inputs: list[np.ndarray], targets: list[np.ndarray],
                      counts: collections.Counter, meta: dict[str, Any]) -> pathlib.Path:
    """Writes a training shard, whole or not at all."""
    counts["rows"] = len(inputs)
    with _Shard(path, counts, meta) as shard:
        shard.ragged("inputs", inputs)
        shard.ragged("targets", targets)
    return path


def _capped(dataset: Dataset, rows: Iterator, counts: collections.Counter) -> Iterator:
    """The first `train_cap` rows."""
    for number, item in enumerate(rows):
        if number == dataset.train_cap:
            counts["rows read"] -= 1
            counts["rows at which reading stopped (the cap)"] = dataset.train_cap
            return
        yield item


def _sample(dataset: Dataset, rows: Iterator, most: int, counts: collections.Counter) -> list[tuple[str, Any]]:
    """At most `most` rows, in their order: those whose id hashes lowest.

    Rows of one 'group' are taken or left together, by the group's hash; there is at least one group, however large.
    Holds no more rows than it returns, and those of one group.
    """
    groups: dict[int, list] = {}
    heap: list[int] = []  # hashes of the groups, negative: the highest comes first
    read = held = 0
    for name, row in rows:
        together = row.get("group")
        group = stable_hash("sample", name) if together is None else stable_hash("sample", dataset.name, together)
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


class _Shard:
    """Writes the files of a shard to a temporary directory and renames it when all are on disk."""

    def __init__(self, path: pathlib.Path, counts: collections.Counter, meta: dict[str, Any]):
        self.path, self.meta = path, {**meta, "counts": dict(sorted(counts.items()))}
        self.temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")

    def __enter__(self) -> _Shard:
        try:
            self.temporary.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"cannot write the token cache in {self.path.parent} ({error.strerror}); "
                            "set CACHE_DIR to a directory you can write to.") from error
        return self

    def array(self, name: str, values: np.ndarray) -> None:
        np.save(self.temporary / f"{name}.npy", values)

    def ragged(self, name: str, items: list[np.ndarray]) -> None:
        flat = np.concatenate(items) if items else np.zeros(0, np.int32)
        small = flat.size == 0 or flat.max() < 2**16
        self.array(name, flat.astype(np.uint16 if small else np.int32, copy=False))
        self.array(f"{name}_ends", np.cumsum([len(item) for item in items], dtype=np.int64))

    def lines(self, name: str, values: list[dict[str, Any]]) -> None:
        with open(self.temporary / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            return
        self.meta["files"] = {p.name: file_digest(p) for p in sorted(self.temporary.iterdir())}
        (self.temporary / "meta.json").write_text(json.dumps(self.meta, indent=1), encoding="utf-8")
        if self.path.exists() and not _opened(self.path):
            aside = self.temporary.with_name(f"{self.temporary.name}.damaged")
            os.rename(self.path, aside)
            shutil.rmtree(aside, ignore_errors=True)
        try:
            os.rename(self.temporary, self.path)
        except OSError:  # another process was first, with the same contents
            shutil.rmtree(self.temporary, ignore_errors=True)


_CHECKED: set[pathlib.Path] = set()


def _opened(path: pathlib.Path) -> dict[str, Any] | None:
    """The meta of a whole, undamaged shard; None if it is absent or damaged (then it is rebuilt).

    Raises:
      UserError: if a file stands where a directory of the cache should be.
    """
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        files = meta["files"].items()
        if path not in _CHECKED:
            for name, checksum in files:
                if file_digest(path / name) != checksum:
                    print(f"token cache: {path / name} is damaged and will be rebuilt", flush=True)
                    return None
            _CHECKED.add(path)
        return meta
    except NotADirectoryError as error:
        file = next(p for p in (path, *path.parents) if p.exists())
        raise UserError(f"the token cache cannot lie below {file}, which is a file; set CACHE_DIR to a directory."
                        ) from error
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        print(f"token cache: {path / 'meta.json'} is damaged and will be rebuilt", flush=True)
        return None


def _ragged(path: pathlib.Path, name: str) -> Ragged:
    # A plain array over the mapped file: a slice of np.memmap itself takes four times as long.
    flat = np.asarray(np.load(path / f"{name}.npy", mmap_mode="r"))
    return Ragged(flat, np.load(path / f"{name}_ends.npy"))


def _record(dataset: Dataset) -> dict[str, Any]:
    record = {f.name: getattr(dataset, f.name) for f in dataclasses.fields(dataset)
              if f.name in ("name", "fields", "options", "evidence", "train_cap", "cluster", "paper_dataset")}
    return {**record, "templates": [dataclasses.asdict(t) for t in dataset.templates]}


def _text(name: str, row: dict[str, Any], example: Encoded, template: Template) -> dict[str, Any]:
    if template.kind == "inverted":
        target = example.text.targets
        return {"row": name, "inputs": example.text.inputs, "answer": target, "references": [target]}
    return {"row": name, "inputs": example.text.inputs, **target_of(row, example)}


def target_of(row: dict[str, Any], example: Encoded) -> dict[str, Any]:
    """What metrics compare with: 'answer', 'references', and where they apply 'options', 'label', 'order', 'group',
    'value'."""
    text = example.text
    target: dict[str, Any] = {"answer": text.answer}
    if text.options is not None:
        target |= {"options": text.options, "label": text.label, "order": text.order}
    target["references"] = _as_shown(row.get("references"), row, example) or [text.answer]
    return target | {key: row[key] for key in ("group", "value") if key in row}


def _as_shown(references: list[str] | None, row: dict[str, Any], example: Encoded) -> list[str] | None:
    """References that are options, as the row shows them: a letter where options are lettered."""
    if not references or example.text.options is None:
        return references
    shown = dict(zip((row["options"][i] for i in example.text.order), example.text.options))
    return [shown.get(reference, reference) for reference in references]
