"""Which rows of a dataset's split are used, in the order in which its source reads them."""

from __future__ import annotations

import collections
import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flan_jax.catalogue.records import Dataset, Drop
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.sources.base import Source
from flan_jax.data.sources.slices import parse_spec
from flan_jax.storage.hashing import stable_hash

# From this many rows on a dataset whose rows are all of one class is reported: its files may be
# sorted by label.
_MIN_ROWS_OF_ONE_CLASS = 20
ONE_CLASS = "rows of a single class (are the files sorted by label?)"


def row_id(dataset: Dataset, spec: str, index: int) -> str:
    """Returns a row's name in hashes and results: '<configuration>/<raw split>/<position>'."""
    return f"{dataset.name}/{parse_spec(spec)[0]}/{index}"


def usable_rows(
    source: Source,
    dataset: Dataset,
    spec: str,
    counts: collections.Counter | None = None,
    undecidable: Callable[[Mapping[str, Any]], str | None] = lambda row: None,
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields (position in the raw split, row id, fields) of each row that is not dropped.

    Args:
      source: where the rows are.
      dataset: a record of the catalogue.
      spec: the slice of a raw split.
      counts: goes up by the rows read, and by those dropped for each reason.
      undecidable: returns why a row is dropped for its tokens, or None; see `encode.undecidable`.
    """
    counts = collections.Counter() if counts is None else counts
    for index, raw in source.rows(dataset, spec):
        counts["rows read"] += 1
        name = row_id(dataset, spec, index)
        row = read_row(dataset, raw, name)
        reason = row.reason if isinstance(row, Drop) else undecidable(row)
        if reason:
            counts[f"dropped: {reason}"] += 1
        else:
            yield index, name, row


def capped(
    dataset: Dataset, rows: Iterator[tuple[str, Any]], counts: collections.Counter
) -> Iterator[tuple[str, Any]]:
    """Yields the first `train_cap` rows of a dataset."""
    for number, item in enumerate(rows):
        if number == dataset.train_cap:
            counts["rows read"] -= 1  # of the row that is read to see that there are more
            counts["rows at which reading stopped (train_cap)"] = dataset.train_cap
            return
        yield item


def sample(
    dataset: Dataset, rows: Iterator[tuple[str, Any]], most: int, counts: collections.Counter
) -> list[tuple[str, Any]]:
    """Returns at most `most` rows, in their order: those whose ids hash lowest.

    Rows of one 'group' are taken or left together, by the group's hash; there is at least one
    group, however large. Holds no more rows than it returns, and those of one group.

    Args:
      dataset: a record of the catalogue.
      rows: (row id, fields) of each.
      most: how many.
      counts: goes up by the rows that are left out.
    """
    groups: dict[int, list] = {}
    heap: list[int] = []  # hashes of the groups, negative: the highest comes first
    read = held = 0
    for name, row in rows:
        group_id = row.get("group")
        parts = (name,) if group_id is None else (dataset.name, group_id)
        group = stable_hash("sample", *parts)
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
        counts["rows not sampled (EVAL_ROWS)"] = read - held
    kept = sorted((item for group in groups.values() for item in group), key=lambda item: item[0])
    return [(name, row) for _, name, row in kept]


def count_one_class(dataset: Dataset, labels: list[Any], counts: collections.Counter) -> None:
    """Counts the rows of a dataset under `ONE_CLASS` if all of them are of one class."""
    has_classes = isinstance(dataset.options, tuple)
    if has_classes and len(set(labels)) == 1 and len(labels) >= _MIN_ROWS_OF_ONE_CLASS:
        counts[ONE_CLASS] = len(labels)
