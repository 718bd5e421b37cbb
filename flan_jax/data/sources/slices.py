"""Which rows of a raw split are in a slice, and their order, for files that may be sorted by label.

TFDS shuffles rows when it prepares them. Files of the hub or of a user are not shuffled: the first
30,000 rows may be of one class or one corpus, the last 200 as well. The rows of a slice of such
files ('train[-200:]') are therefore chosen by hash of their position, and the rows of a capped
training side come from the whole file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from flan_jax.catalogue.records import Dataset
from flan_jax.errors import UserError
from flan_jax.storage.hashing import permutation

# A training side longer than its cap is read in blocks of this many rows, in a hashed order. Each
# pass over the file reads so many blocks; the rows after them come in the order of the file.
BLOCK_ROWS = 100
_BLOCKS_AT_A_TIME = (1, 8, 64, 512)
# The rows of a slice are chosen one by one in splits of up to this many rows, by blocks in longer
# ones: of the 40 M rows of WMT, 30,000 single rows would be in every row group of the files, 300
# blocks are in one of a hundred.
_ROWS_ONE_BY_ONE = 2**22

Row = TypeVar("Row")

_SPEC = re.compile(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?")


def parse_spec(spec: str) -> tuple[str, slice]:
    """Returns the raw split and the slice of a text such as 'train[:-200]'.

    Raises:
      UserError: if it is not a split name with an optional [begin:end].
    """
    match = _SPEC.fullmatch(spec)
    if not match:
        raise UserError(
            f"{spec!r} is not a slice of a split; examples are 'train', 'train[:-200]' and "
            "'test[100:200]'."
        )
    begin, end = (int(part) if part else None for part in match.groups()[1:])
    return match.group(1), slice(begin, end)


def reading_order(dataset: Dataset, spec: str, count: int) -> Iterator[np.ndarray]:
    """Yields the positions of the rows of a slice, in the order in which to read them.

    A slice of the dataset's record has rows chosen by hash, disjoint from its other slices; any
    other slice, such as 'train[:10]', has the rows between its ends. A training side longer than
    the cap comes in blocks in a hashed order.

    Args:
      dataset: a dataset of the catalogue.
      spec: a slice of a raw split.
      count: number of rows of the raw split.

    Yields:
      int64 arrays, one for each pass over the file; the last one ascends.
    """
    raw_split, part = parse_spec(spec)
    begin, end, _ = part.indices(count)
    whole = (begin, end) == (0, count)
    if spec not in dataset.splits.values() or end <= begin:
        yield np.arange(begin, end)
        return
    chosen = np.arange(count) if whole else np.sort(_hashed(count, raw_split, begin, end))
    if spec == dataset.splits.get("train") and len(chosen) > dataset.train_cap:
        order = permutation(-(-len(chosen) // BLOCK_ROWS), "blocks", raw_split)
        unread, done = np.ones(len(chosen), bool), 0
        for blocks in _BLOCKS_AT_A_TIME:
            rows = (order[done : done + blocks, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
            rows = rows[rows < len(chosen)]
            yield chosen[rows]
            unread[rows] = False
            done += blocks
        chosen = chosen[unread]
    yield chosen


def _hashed(count: int, raw_split: str, begin: int, end: int) -> np.ndarray:
    """Positions begin:end in a hashed order; blocks of neighbors stay together in a long split."""
    size = 1 if count <= _ROWS_ONE_BY_ONE else BLOCK_ROWS
    order = permutation(-(-count // size), "slices", raw_split)
    ends = np.cumsum(np.minimum(size, count - order * size))
    first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end) + 1
    rows = (order[first:last, None] * size + np.arange(size)).ravel()
    skipped = begin - (ends[first - 1] if first else 0)
    return rows[rows < count][skipped : skipped + end - begin]


def in_order(
    positions: np.ndarray, read: Callable[[np.ndarray], Iterator[tuple[int, Row]]]
) -> Iterator[tuple[int, Row]]:
    """Yields (position, row) in the order of the positions.

    Args:
      positions: numbers of rows, in any order.
      read: yields (position, row) for ascending positions.
    """
    if (np.diff(positions) > 0).all():
        yield from read(positions)
        return
    rows = dict(read(np.sort(positions)))
    for position in positions.tolist():
        yield position, rows.pop(position)
