"""How long a compiled program takes on a slice: what it computes, moves and exchanges, each over
the hardware's rate.

A roofline (Williams et al., 2009), not a simulation: an estimate to choose by, and to be checked on
the hardware.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from flan_jax.planning.hlo_costs import Collective, Costs
from flan_jax.planning.topology import Slice

# Large bf16 products reach about this share of a TPU's or GPU's published peak.
ACHIEVABLE = 0.7


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of one run of a program on one device.

    Attributes:
      compute: of its matrix products at the published peak.
      memory: of what it moves through the HBM.
      exposed, hidden: of collectives for which the program waits, and of those beside which it goes
        on.
    """

    compute: float
    memory: float
    exposed: float
    hidden: float

    @property
    def step(self) -> float:
        """The estimate: products at the share of the peak that is reached in practice, memory and
        hidden collectives beside them, and then the other collectives.
        """
        return max(self.compute / ACHIEVABLE, self.memory, self.hidden) + self.exposed


def step_time(costs: Costs, where: Slice, devices: list) -> StepTime:
    """The time of a program with these costs.

    Args:
      devices: of the mesh in the order of its indices, which the collectives name.
    """
    chip, links = where.chip, Links(where, devices)
    seconds = {}
    for hidden in (True, False):
        found = [one for one in costs.collectives if one.hidden == hidden]
        seconds[hidden] = links.seconds_of_permutations([one for one in found if one.pairs])
        seconds[hidden] += sum(one.times * links.seconds(one) for one in found if not one.pairs)
    return StepTime(
        costs.flops / chip.device_flops,
        costs.memory_bytes / (chip.memory_bandwidth / chip.devices),
        seconds[False],
        seconds[True],
    )


class Links:
    """What the links between the chips of a slice carry."""

    def __init__(self, where: Slice, devices: list):
        self.where = where
        self._places = np.array([where.place(device) for device in devices])

    def seconds(self, one: Collective) -> float:
        """The time of a collective of groups, once, limited by the bandwidth of the links alone."""
        size = one.groups.shape[1]
        if size == 1:
            return 0.0
        # Each device sends this much in the best algorithm: Chan et al., Collective Communication,
        # 2007.
        sent = one.nbytes * (size - 1) / size * (2 if one.kind == "all-reduce" else 1)
        places = self._places[one.groups[0]]
        if one.kind == "all-to-all":  # What is sent crosses a quarter of a ring on the way.
            sent *= max(1.0, max(len(np.unique(along)) for along in places[:, :-1].T) / 4)
        chips = len(np.unique(places[:, :-1], axis=0))
        if chips == 1:
            return 0.0  # The cores of one chip share its memory.
        # The cores of a chip that are in different groups share its links; those of one group share
        # what they get.
        sharing = self.where.chip.devices / (size / chips)
        return sent * sharing / self._bandwidth(places)

    def _bandwidth(self, places: np.ndarray) -> float:
        """Bytes a second into a chip of a group: its links in the dimensions along which the group
        lies.
        """
        shape, chip, total = self.where.shape, self.where.chip, 0.0
        for axis, length in enumerate(shape):
            along = np.unique(places[:, axis])
            if len(along) > 1:
                # Groups that lie in each other's gaps share the links between them.
                gap = int(np.min(np.diff(along)))
                ring = chip.is_ring(shape, axis) and len(along) * gap == length
                total += chip.link_bandwidth * (2 if ring else 1) / gap
        return total

    def seconds_of_permutations(self, permutations: list[Collective]) -> float:
        """The time of all permutations: what the busiest link carries, in one direction.

        They are taken together because XLA sends around a ring both ways at a time.
        """
        sent = collections.Counter()
        for one in permutations:
            sent[one.pairs] += one.times * one.nbytes
        loads = collections.Counter()
        for pairs, nbytes in sent.items():
            for a, b in pairs:
                for link in self._route(a, b):
                    loads[link] += nbytes
        return max(loads.values(), default=0) / self.where.chip.link_bandwidth

    def _route(self, a: int, b: int) -> list[tuple[tuple[int, ...], int, int]]:
        """The links (chip, dimension, direction) from a device to another, one dimension after the
        other.
        """
        here, there = list(self._places[a][:-1]), self._places[b][:-1]
        links = []
        for axis, length in enumerate(self.where.shape):
            distance = int(there[axis] - here[axis])
            if self.where.chip.is_ring(self.where.shape, axis) and abs(distance) > length / 2:
                distance -= length if distance > 0 else -length
            direction = 1 if distance > 0 else -1
            for _ in range(abs(distance)):
                links.append((tuple(map(int, here)), axis, direction))
                here[axis] = (here[axis] + direction) % length
        return links
