"""`Batches.at(step)`: the packed batch of a step, a pure function of the plan, whatever the hosts or devices."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np

from flan_jax.data.cache import TrainShard, open_train_shard
from flan_jax.data.packing import Member, Plan

FEATURES = ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions", "decoder_input_tokens",
            "decoder_target_tokens", "decoder_segment_ids", "decoder_positions", "decoder_loss_weights")


class Batches:
    """Packed training batches in SeqIO's feature names for encoder-decoder models."""

    def __init__(self, plan: Plan, members: list[Member], shard_path: Callable[[str, int], pathlib.Path],
                 input_length: int, target_length: int, batch_size: int):
        self.plan = plan
        self.members = members
        self.input_length, self.target_length, self.batch_size = input_length, target_length, batch_size
        self._shard_path = shard_path
        self._shards: dict[tuple[int, int], TrainShard] = {}

    def __len__(self) -> int:
        """Batches that the plan holds; the last may end in rows of padding."""
        return -(-len(self.plan) // self.batch_size)

    def at(self, step: int, begin: int = 0, end: int | None = None) -> dict[str, np.ndarray]:
        """Rows begin:end of the global batch of a step (0-based).

        Returns:
          `FEATURES`, each int32 [end - begin, S or T]; segment ids count from 1, 0 is padding; decoder inputs are
          the targets shifted right within their segment; loss weights are 1 on target tokens.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"the plan holds steps 0 to {len(self) - 1}, not {step}")
        end = self.batch_size if end is None else end
        batch = {name: np.zeros((end - begin, self.input_length if name.startswith("encoder") else self.target_length),
                                np.int32) for name in FEATURES}
        for row in range(begin, end):
            if step * self.batch_size + row < len(self.plan):
                self._fill(batch, row - begin, step * self.batch_size + row)
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

    def _fill(self, batch: dict[str, np.ndarray], slot: int, number: int) -> None:
        source, target = 0, 0
        for segment, (member, epoch, index) in enumerate(self.plan.row(number), 1):
            shard = self._shard(member, epoch)
            inputs, targets = shard.inputs[index], shard.targets[index]
            here = slice(source, source + len(inputs))
            batch["encoder_input_tokens"][slot, here] = inputs
            batch["encoder_segment_ids"][slot, here] = segment
            batch["encoder_positions"][slot, here] = np.arange(len(inputs))
            here = slice(target, target + len(targets))
            batch["decoder_target_tokens"][slot, here] = targets
            batch["decoder_input_tokens"][slot, here.start + 1:here.stop] = targets[:-1]
            batch["decoder_segment_ids"][slot, here] = segment
            batch["decoder_positions"][slot, here] = np.arange(len(targets))
            batch["decoder_loss_weights"][slot, here] = 1
            source, target = source + len(inputs), target + len(targets)

    def _shard(self, member: int, epoch: int) -> TrainShard:
        key = (member, epoch)
        if key not in self._shards:
            self._shards[key] = open_train_shard(self._shard_path(self.members[member].name, epoch))
        return self._shards[key]
