"""What the shards of the token cache contain: training examples, or held-out rows in one template.

A shard (`packs.Shard`) is named arrays and a record. Sequences of different lengths lie one after
the other in one array, with their ends in another; this module packs and unpacks them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax.data.packs import Shard

# Counts that are not losses; see `losses`.
_ROW_COUNTS = ("rows", "rows read")


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
        """Returns the items of these numbers, int [n], in this order."""
        return Ragged(self.flat, self.begins[items], self.ends[items])


@dataclasses.dataclass
class TrainShard:
    """One epoch of a dataset's training rows: token ids, ends included (see `encode.Encoded`).

    Attributes:
      inputs, targets: the tokens of each example.
      meta: the record of the shard.
      trained: for each token of the targets 1 if it has a loss, else 0; None if all have one.
    """

    inputs: Ragged
    targets: Ragged
    meta: dict[str, Any]
    trained: Ragged | None = None

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """Tokens of each row, inputs and targets together: int64 [rows]."""
        return self.inputs.lengths + self.targets.lengths

    def take(self, examples: np.ndarray) -> TrainShard:
        """Returns the examples of these numbers, int [n], in this order."""
        trained = None if self.trained is None else self.trained.take(examples)
        inputs, targets = self.inputs.take(examples), self.targets.take(examples)
        return TrainShard(inputs, targets, self.meta, trained)


@dataclasses.dataclass
class EvalExamples:
    """A split of a dataset in one template, ready to be scored.

    Attributes:
      dataset, split, template, kind: what the rows are, and the template's id and kind.
      row_ids: the rows; see `rows.row_id`.
      inputs: per row, int32 ids that end in the vocabulary's `input_end`.
      options: per row, int32 ids of each option with EOS; None for free text.
      texts: per row 'inputs', 'answer', and where they apply 'options', 'label', 'order',
        'references', 'group', 'value'.
    """

    dataset: str
    split: str
    template: str
    kind: str
    row_ids: list[str]
    inputs: list[np.ndarray]
    options: list[list[np.ndarray]] | None
    texts: list[dict[str, Any]]


def train_shard(
    key: str,
    inputs: list[np.ndarray],
    targets: list[np.ndarray],
    counts: Mapping[str, int],
    meta: dict[str, Any],
    trained: Sequence[np.ndarray | None] = (),
) -> Shard:
    """Returns a shard of training examples.

    Args:
      key: of the shard.
      inputs: token ids of each example's inputs.
      targets: token ids of each example's targets.
      counts: what was counted when it was made.
      meta: what else its record has.
      trained: for each example which tokens of its targets have a loss (1) and which have none (0);
        None for an example whose targets all have one, and none of them where that is so of all.
    """
    arrays = {**_ragged_arrays("inputs", inputs), **_ragged_arrays("targets", targets)}
    if any(mask is not None for mask in trained):
        masks = [
            np.ones(len(target), np.uint16) if mask is None else mask.astype(np.uint16)
            for mask, target in zip(trained, targets)
        ]
        arrays |= _ragged_arrays("trained", masks)
    return Shard(key, _with_counts(meta, counts), arrays)


def open_train_shard(shard: Shard) -> TrainShard:
    """Returns the examples of a shard made by `train_shard`."""
    trained = _ragged(shard, "trained") if "trained" in shard.arrays else None
    return TrainShard(_ragged(shard, "inputs"), _ragged(shard, "targets"), shard.meta, trained)


def eval_shard(
    key: str,
    tokens: list[np.ndarray],
    texts: list[dict[str, Any]],
    counts: Mapping[str, int],
    meta: dict[str, Any],
) -> Shard:
    """Returns a shard of held-out rows.

    Args:
      key: of the shard.
      tokens: for each row its inputs, then each of its options, if it has any.
      texts: as in `EvalExamples`, with 'row' for the row's id.
      counts: what was counted when it was made.
      meta: what else its record has.
    """
    lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts).encode()
    arrays = {**_ragged_arrays("tokens", tokens), "texts": np.frombuffer(lines, np.uint8)}
    return Shard(key, _with_counts(meta, counts), arrays)


def open_eval_shard(shard: Shard, kind: str, has_options: bool) -> EvalExamples:
    """Returns the rows of a shard made by `eval_shard`.

    Args:
      shard: of a dataset in a template.
      kind: of the template.
      has_options: whether the rows are answered by choosing an option.
    """
    tokens = _ragged(shard, "tokens")
    lines = shard.arrays["texts"].tobytes().decode().split("\n")[:-1]
    texts = [json.loads(line) for line in lines]
    inputs, options, position = [], [], 0
    for text in texts:
        width = 1 + len(text.get("options", ()))
        row_tokens = [np.asarray(tokens[position + i], np.int32) for i in range(width)]
        inputs.append(row_tokens[0])
        options.append(row_tokens[1:])
        position += width
    return EvalExamples(
        shard.meta["dataset"],
        shard.meta["split"],
        shard.meta["template"],
        kind,
        [text.pop("row") for text in texts],
        inputs,
        options if has_options else None,
        texts,
    )


def losses(counts: Mapping[str, int]) -> dict[str, int]:
    """Returns those of the counts that are of missing rows or texts: dropped, truncated."""
    return {name: count for name, count in counts.items() if name not in _ROW_COUNTS}


def _with_counts(meta: dict[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    return {**meta, "counts": dict(sorted(counts.items()))}


def _ragged_arrays(name: str, items: list[np.ndarray]) -> dict[str, np.ndarray]:
    flat = np.concatenate(items) if items else np.zeros(0, np.int32)
    is_small = flat.size == 0 or flat.max() < 2**16
    return {
        name: flat.astype(np.uint16 if is_small else np.int32, copy=False),
        f"{name}_ends": np.cumsum([len(item) for item in items], dtype=np.int64),
    }


def _ragged(shard: Shard, name: str) -> Ragged:
    ends = shard.arrays[f"{name}_ends"]
    begins = np.concatenate([[0], ends])[:-1].astype(np.int64)
    return Ragged(shard.arrays[name], begins, ends)
