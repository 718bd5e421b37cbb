"""The filter of training rows (DECONTAMINATE): no row that shares words with a held-out row."""

from __future__ import annotations

import collections
import functools
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from flan_jax.catalogue.fingerprint import source_of_row
from flan_jax.catalogue.records import Dataset
from flan_jax.data.contamination import index, ngrams
from flan_jax.data.contamination.index import HeldOutIndex
from flan_jax.data.sources.base import Source
from flan_jax.storage.hashing import digest


class HeldOutFilter:
    """Drops training rows that share an n-gram with a row of `datasets`, by the rules of `index`.

    Args:
      datasets: the held-out datasets that are available.
      source: where rows come from.
      split: the split that is evaluated.
    """

    def __init__(self, datasets: Sequence[Dataset], source: Source, split: str):
        self.datasets, self.source, self.split = list(datasets), source, split

    @functools.cached_property
    def key(self) -> str:
        """Digest of everything that decides which rows are dropped; part of the key of a shard.

        It does not need the rows.
        """
        rows = [
            [
                d.name,
                source_of_row(d),
                self.source.spec(d, self.split),
                self.source.fingerprint(d, self.source.spec(d, self.split)),
            ]
            for d in self.datasets
        ]
        return digest([rows, inspect.getsource(index), inspect.getsource(ngrams)])

    @functools.cached_property
    def _index(self) -> HeldOutIndex:
        return HeldOutIndex.build(self.datasets, self.source, self.split)

    def kept(
        self,
        dataset: Dataset,
        rows: Iterator[tuple[str, dict[str, Any]]],
        counts: collections.Counter,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the rows that share nothing, in their order.

        Args:
          dataset: the dataset of the rows.
          rows: (row id, fields) of each row.
          counts: receives the number of dropped rows by held-out dataset.
        """
        rows, again = itertools.tee(rows)
        for item, other in zip(rows, self._index.matches(dataset, (row for _, row in again))):
            if other is None:
                yield item
            else:
                counts[f"dropped: shares words with held-out {other}"] += 1
