"""Which rows of a raw split are one of ours, and in what order they are read, where files may be
sorted by label.

TFDS shuffles rows when it prepares them. Files of the hub or a user's own are in the order of who
made them: the first 30,000 rows may be of one class or one corpus, the last 200 as well. Of such
files the rows of a slice ('train[-200:]') are taken by hash of their position, and those that a cap
leaves in come from all over the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from flan_jax.catalogue.records import Dataset
from flan_jax.errors import UserError
from flan_jax.storage.hashing import permutation

# Of a side that is longer than its cap, blocks of so many rows come in a hashed order; so many of
# them at a time are read in one pass over the file. Whatever is left after them comes in the order
# of the file.
BLOCK_ROWS = 100
_BLOCKS_AT_A_TIME = (1, 8, 64, 512)
# The rows of a slice are chosen one by one up to this many, above by such blocks: of 40 M rows of
# WMT, 30,000 single ones would stand in every row group of the files, 300 blocks in one of a
# hundred.
_ROWS_ONE_BY_ONE = 2**22

Row = TypeVar("Row")

_SPEC = re.compile(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?")


def parse_spec(spec: str) -> tuple[str, slice]:
    """'train[:-200]' -> ('train', slice(None, -200)).

    Raises:
      UserError: if it is not a split name with an optional [begin:end].
    """
    match = _SPEC.fullmatch(spec)
    if not match:
        raise UserError(
            f"{spec!r} is no slice of a split; write for example 'train', 'train[:-200]' or "
            "'test[100:200]'."
        )
    begin, end = (int(part) if part else None for part in match.groups()[1:])
    return match.group(1), slice(begin, end)


def reading_order(dataset: Dataset, spec: str, count: int) -> Iterator[np.ndarray]:
    """The positions of a slice's rows in a raw split of `count` rows, in the order in which they
    are to be read.

    A slice that is one of the dataset's own holds rows by hash, disjoint from its other slices; any
    other one, such as a user's 'train[:10]', those between its ends. The training side, if it is
    longer than the cap, comes in blocks whose order is hashed.

    Yields:
      int64 arrays, each to be read in one pass over the file; the last one ascends.
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
    """Numbers begin:end of all positions in a hashed order; of a long split, blocks of neighbors
    are kept together.
    """
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
    """(position, row) in the order of the positions, though `read` takes and gives them in
    ascending order.
    """
    if (np.diff(positions) > 0).all():
        yield from read(positions)
        return
    rows = dict(read(np.sort(positions)))
    for position in positions.tolist():
        yield position, rows.pop(position)
