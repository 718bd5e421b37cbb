"""Few-shot exemplars: training rows of a dataset, shown with their answers before another row."""

from __future__ import annotations

import collections
import heapq
from typing import Any

from flan_jax.catalogue.records import Dataset, Drop
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.contamination.filter import HeldOutFilter
from flan_jax.data.rows import row_id
from flan_jax.data.sources.base import Source
from flan_jax.errors import UserError
from flan_jax.storage.hashing import permutation, stable_hash

# Exemplars are drawn from this many rows, taken by hash over the whole training side (files may be
# sorted by label).
POOL_ROWS = 256


class ExemplarPool:
    """The rows that a dataset's exemplars are drawn from.

    Args:
      dataset: a record of the catalogue.
      source: where its training rows are.
      seed: changes pool and draws.
      held_out_filter: what its training rows pass through where they train; None where they are
        shown in an evaluation.

    Raises:
      UserError: if the dataset has no training rows here.
    """

    def __init__(
        self,
        dataset: Dataset,
        source: Source,
        seed: int = 0,
        held_out_filter: HeldOutFilter | None = None,
    ):
        why = source.available(dataset, "train")
        if why:
            raise UserError(
                f"there is nothing to take exemplars from ({dataset.name}: {why}); "
                "set SHOTS=0, or provide its training rows."
            )
        self.dataset, self.seed = dataset, seed
        spec = source.spec(dataset, "train")
        raw_rows = (
            (row_id(dataset, spec, index), raw) for index, raw in source.rows(dataset, spec)
        )
        chosen = heapq.nsmallest(
            POOL_ROWS, raw_rows, key=lambda item: stable_hash("pool", item[0], seed)
        )
        rows = [(name, read_row(dataset, raw, name)) for name, raw in chosen]
        self._rows = [(name, row) for name, row in rows if not isinstance(row, Drop)]
        if held_out_filter is not None:
            self._rows = list(
                held_out_filter.kept(dataset, iter(self._rows), collections.Counter())
            )

    def draw(
        self, row: dict[str, Any], name: str, count: int, or_fewer: bool = False
    ) -> list[dict[str, Any]]:
        """Returns `count` exemplars for a row, chosen by hash.

        Never the row itself, nor one with the same text.

        Args:
          row: its fields.
          name: its id.
          count: how many.
          or_fewer: whether all of a pool that has fewer are drawn instead.

        Raises:
          UserError: if the pool has fewer.
        """
        text, drawn = self._text(row), []
        for index in permutation(len(self._rows), "exemplars", name, self.seed):
            other_name, other = self._rows[index]
            if len(drawn) < count and other_name != name and self._text(other) != text:
                drawn.append(other)
        if len(drawn) < count and not or_fewer:
            most = f"SHOTS to at most {len(drawn)}" if drawn else "SHOTS=0"
            raise UserError(
                f"exemplars of {self.dataset.name} are drawn from {len(drawn)} rows here; set "
                f"{most}."
            )
        return drawn

    def _text(self, row: dict[str, Any]) -> list[str]:
        return [row[name] for name in self.dataset.evidence or self.dataset.fields]
