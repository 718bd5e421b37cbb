"""`Batches.at(step)`: the packed batch of a step, a pure function of the plan.

It depends neither on the steps before it nor on hosts or devices, so that a resumed run continues
with the same batches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flan_jax.data.layout import Layout
from flan_jax.data.packing import Member, Plan
from flan_jax.data.shards import TrainShard
from flan_jax.errors import UserError

_MAX_OPEN_EPOCHS = 2  # of each dataset


class Batches:
    """Packed batches of a plan, in the features of a layout.

    Args:
      plan: which examples share which row.
      members: the mixture.
      open_shard: (dataset, epoch) -> its tokens, None if they are not in the cache.
      layout: how examples lie in a row.
      batch_size: B, rows of a global batch.
    """

    def __init__(
        self,
        plan: Plan,
        members: list[Member],
        open_shard: Callable[[str, int], TrainShard],
        layout: Layout,
        batch_size: int,
    ):
        self.plan, self.members, self.layout, self.batch_size = plan, members, layout, batch_size
        self._open_shard = open_shard
        self._shards: dict[tuple[int, int], TrainShard] = {}

    def __len__(self) -> int:
        """Number of batches in the plan; the last may end in rows of padding."""
        return -(-len(self.plan) // self.batch_size)

    def at(self, step: int, begin: int = 0, end: int | None = None) -> dict[str, np.ndarray]:
        """Returns rows begin:end of the global batch of a step.

        Args:
          step: counted from 0.
          begin: the first row.
          end: the row after the last one; None for all that follow.

        Returns:
          The layout's features, each int32 [end - begin, L]; see `layout`.

        Raises:
          IndexError: if the plan has no such step.
          UserError: if the cache has lost a shard.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"the plan holds steps 0 to {len(self) - 1}, not {step}")
        begins = self._begins(step, begin, end)
        examples = self._examples(begins)
        trained = None
        if any(shard.trained is not None for shard, _ in examples):
            trained = [
                np.ones(len(shard.targets[index]), np.uint16)
                if shard.trained is None
                else shard.trained[index]
                for shard, index in examples
            ]
        return self.layout.batch(
            [shard.inputs[index] for shard, index in examples],
            [shard.targets[index] for shard, index in examples],
            np.diff(begins),
            trained,
        )

    def tokens_at(self, step: int) -> int:
        """Returns the tokens of a step's global batch, inputs and targets, without padding."""
        return int(sum(shard.tokens[index] for shard, index in self._examples(self._begins(step))))

    def datasets_at(self, step: int) -> list[str]:
        """Returns the names of the datasets in the batch of a step, sorted."""
        begins = self._begins(step)
        members = set(self.plan.member[begins[0] : begins[-1]].tolist())
        return sorted(self.members[number].name for number in members)

    def _begins(self, step: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Where the examples of the rows begin:end lie in the plan: int64 [end - begin + 1]."""
        end = self.batch_size if end is None else end
        rows = step * self.batch_size + np.arange(begin, end + 1)
        return self.plan.begins[np.minimum(rows, len(self.plan))]

    def _examples(self, begins: np.ndarray) -> list[tuple[TrainShard, int]]:
        """The shard, and the row in it, of each example of these rows."""
        part = slice(begins[0], begins[-1])
        members, epochs, indices = (
            column[part].tolist() for column in (self.plan.member, self.plan.epoch, self.plan.index)
        )
        return [(self._shard(m, e), i) for m, e, i in zip(members, epochs, indices)]

    def _shard(self, member: int, epoch: int) -> TrainShard:
        key = (member, epoch)
        if key not in self._shards:
            # A batch needs an epoch of a dataset, seldom two; those before are closed.
            open_epochs = sorted(k for k in self._shards if k[0] == member)
            for before in open_epochs[: len(open_epochs) + 1 - _MAX_OPEN_EPOCHS]:
                del self._shards[before]
            self._shards[key] = self._opened(self.members[member].name, epoch)
        return self._shards[key]

    def _opened(self, name: str, epoch: int) -> TrainShard:
        shard = self._open_shard(name, epoch)
        if shard is None:
            raise UserError(
                f"epoch {epoch} of {name} is not in the token cache any more; the same command "
                "renders it again and resumes."
            )
        return shard
