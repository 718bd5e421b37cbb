"""How long a compiled program takes on a slice: what it computes, moves and exchanges, each over the hardware's rate.

A roofline (Williams et al., 2009), not a simulation: an estimate to choose by, and to be checked on the hardware.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from flan_jax.scale.hlo import Collective, Costs
from flan_jax.scale.topology import Slice

# Large bf16 products reach about this share of a TPU's or GPU's published peak.
ACHIEVABLE = 0.7


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of one run of a program on one device.

    Attributes:
      compute: of its matrix products at the published peak.
      memory: of what it moves through the HBM.
      exposed, hidden: of collectives for which the program waits, and of those beside which it goes on.
    """

    compute: float
    memory: float
    exposed: float
    hidden: float

    @property
    def step(self) -> float:
        """The estimate: products at the share of the peak that is reached in practice, memory and hidden collectives
        beside them, and then the other collectives."""
        return max(self.compute / ACHIEVABLE, self.memory, self.hidden) + self.exposed

    @property
    def at_least(self) -> float:
        """What it cannot be faster than, if everything went on at once."""
        return max(self.compute, self.memory, self.exposed + self.hidden)


def step_time(costs: Costs, where: Slice, devices: list) -> StepTime:
    """The time of a program with these costs.

    Args:
      devices: of the mesh in the order of its indices, which the collectives name.
    """
    chip, links = where.chip, Links(where, devices)
    seconds = {True: 0.0, False: 0.0}
    for one in costs.collectives:
        seconds[one.hidden] += one.times * links.seconds(one)
    return StepTime(costs.flops / chip.device_flops, costs.memory_bytes / (chip.memory_bandwidth / chip.devices),
                    seconds[False], seconds[True])


class Links:
    """What the links between the chips of a slice carry."""

    def __init__(self, where: Slice, devices: list):
        self.where = where
        self._places = np.array([where.place(device) for device in devices])

    def seconds(self, one: Collective) -> float:
        """The time of one collective, limited by the bandwidth of the links alone."""
        if one.pairs:
            return self._permutation(one)
        size = one.groups.shape[1]
        if size == 1:
            return 0.0
        # Each device sends this much in the best algorithm: Chan et al., Collective Communication, 2007.
        sent = one.nbytes * (size - 1) / size * (2 if one.kind == "all-reduce" else 1)
        places = self._places[one.groups[0]]
        chips = len(np.unique(places[:, :-1], axis=0))
        if chips == 1:
            return 0.0  # The cores of one chip share its memory.
        # The cores of a chip that are in different groups share its links; those of one group share what they get.
        sharing = self.where.chip.devices / (size / chips)
        return sent * sharing / self._bandwidth(places)

    def _bandwidth(self, places: np.ndarray) -> float:
        """Bytes a second into a chip of a group: its links in the dimensions along which the group lies."""
        shape, chip, total = self.where.shape, self.where.chip, 0.0
        for axis, length in enumerate(shape):
            along = np.unique(places[:, axis])
            if len(along) > 1:
                # Groups that lie in each other's gaps share the links between them.
                gap = int(np.min(np.diff(along)))
                ring = chip.is_ring(shape, axis) and len(along) * gap == length
                total += chip.link_bandwidth * (2 if ring else 1) / gap
        return total

    def _permutation(self, one: Collective) -> float:
        hops = [np.abs(self._places[a][:-1] - self._places[b][:-1]).sum() for a, b in one.pairs]
        return one.nbytes * max(1, max(hops)) * self.where.chip.devices / self.where.chip.link_bandwidth if any(
            hops) else 0.0
