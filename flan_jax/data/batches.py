"""`Batches.at(step)`: the packed batch of a step, a pure function of the plan, whatever the hosts or devices."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from flan_jax.data.cache import TrainShard, open_train_shard
from flan_jax.data.layouts import Example, Layout
from flan_jax.data.packing import Member, Plan


class Batches:
    """Packed batches of a plan, in the features of a layout.

    Args:
      plan: which examples share which row.
      members: the mixture.
      shard_path: (dataset, epoch) -> where its tokens lie.
      layout: how examples lie in a row.
      batch_size: B, rows of a global batch.
    """

    def __init__(self, plan: Plan, members: list[Member], shard_path: Callable[[str, int], pathlib.Path],
                 layout: Layout, batch_size: int):
        self.plan, self.members, self.layout, self.batch_size = plan, members, layout, batch_size
        self._shard_path = shard_path
        self._shards: dict[tuple[int, int], TrainShard] = {}

    def __len__(self) -> int:
        """Batches that the plan holds; the last may end in rows of padding."""
        return -(-len(self.plan) // self.batch_size)

    def at(self, step: int, begin: int = 0, end: int | None = None) -> dict[str, np.ndarray]:
        """Rows begin:end of the global batch of a step (0-based).

        Returns:
          The layout's features, each int32 [end - begin, ...]; see `layouts`.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"the plan holds steps 0 to {len(self) - 1}, not {step}")
        end = self.batch_size if end is None else end
        batch = {name: np.zeros(shape, np.int32) for name, shape in self.layout.shapes(end - begin).items()}
        for row in range(begin, end):
            if step * self.batch_size + row < len(self.plan):
                there = {name: array[row - begin] for name, array in batch.items()}
                self.layout.fill(there, self._examples(step * self.batch_size + row))
        return batch

    def tokens_at(self, step: int) -> int:
        """Tokens of the global batch of a step, inputs and targets, without padding."""
        rows = range(step * self.batch_size, min((step + 1) * self.batch_size, len(self.plan)))
        shards = [(self._shard(m, e), i) for row in rows for m, e, i in self.plan.row(row)]
        return sum(len(shard.inputs[i]) + len(shard.targets[i]) for shard, i in shards)

    def datasets_at(self, step: int) -> list[str]:
        """Names of the datasets that the batch of a step holds, sorted."""
        rows = range(step * self.batch_size, min((step + 1) * self.batch_size, len(self.plan)))
        return sorted({self.members[m].name for row in rows for m, _, _ in self.plan.row(row)})

    def _examples(self, number: int) -> Iterator[Example]:
        for member, epoch, index in self.plan.row(number):
            shard = self._shard(member, epoch)
            yield shard.inputs[index], shard.targets[index]

    def _shard(self, member: int, epoch: int) -> TrainShard:
        key = (member, epoch)
        if key not in self._shards:
            self._shards[key] = open_train_shard(self._shard_path(self.members[member].name, epoch))
        return self._shards[key]
