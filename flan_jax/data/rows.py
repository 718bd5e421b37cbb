"""The usable rows of a dataset's split, in the order in which its source reads them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flan_jax.catalogue.records import Dataset, Drop
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.sources.base import Source
from flan_jax.data.sources.slices import parse_spec


def row_id(dataset: Dataset, spec: str, index: int) -> str:
    """Returns the name of a row in hashes and results: '<configuration>/<raw split>/<position>'."""
    return f"{dataset.name}/{parse_spec(spec)[0]}/{index}"


def usable_rows(
    source: Source,
    dataset: Dataset,
    spec: str,
    counts: collections.Counter | None = None,
    undecidable: Callable[[Mapping[str, Any]], str | None] = lambda row: None,
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields (position in the raw split, row id, fields) of each usable row of a slice.

    Args:
      source: where the rows are.
      dataset: the dataset of the rows.
      spec: the slice of a raw split.
      counts: receives the number of rows read, and of those dropped for each reason.
      undecidable: returns why a row cannot be used in view of its tokens, or None; see
        `encode.undecidable`.
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
