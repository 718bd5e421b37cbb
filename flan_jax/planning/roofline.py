"""The time of a compiled program on a slice: what it computes, moves and exchanges, by their rates.

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
      exposed: of collectives for which the program waits.
      hidden: of collectives beside which it continues.
    """

    compute: float
    memory: float
    exposed: float
    hidden: float

    @property
    def step(self) -> float:
        """The estimate: the longest of what runs at the same time, then the other collectives.

        Products run at the share of the peak that is reached in practice; memory traffic and hidden
        collectives run beside them.
        """
        return max(self.compute / ACHIEVABLE, self.memory, self.hidden) + self.exposed


def step_time(costs: Costs, where: Slice, devices: list) -> StepTime:
    """Returns the time of a program with these costs.

    Args:
      costs: of one device.
      where: the slice.
      devices: of the mesh in the order of its indices, which the collectives name.
    """
    chip, links = where.chip, Links(where, devices)
    seconds = {}
    for hidden in (True, False):
        collectives = [each for each in costs.collectives if each.hidden == hidden]
        permutations = [each for each in collectives if each.pairs]
        groups = [each for each in collectives if not each.pairs]
        seconds[hidden] = links.seconds_of_permutations(permutations)
        seconds[hidden] += sum(each.times * links.seconds(each) for each in groups)
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

    def seconds(self, collective: Collective) -> float:
        """Returns the time of a collective of groups, once, from the bandwidth of the links."""
        size = collective.groups.shape[1]
        if size == 1:
            return 0.0
        # Each device sends this much in the best algorithm: Chan et al., Collective Communication,
        # 2007.
        sent = collective.nbytes * (size - 1) / size
        if collective.kind == "all-reduce":
            sent *= 2
        places = self._places[collective.groups[0]]
        if collective.kind == "all-to-all":  # What is sent crosses a quarter of a ring on the way.
            sent *= max(1.0, max(len(np.unique(along)) for along in places[:, :-1].T) / 4)
        chips = len(np.unique(places[:, :-1], axis=0))
        if chips == 1:
            return 0.0  # The cores of one chip share its memory.
        # The cores of a chip that are in different groups share its links; those of one group share
        # what they get.
        sharing = self.where.chip.devices / (size / chips)
        return sent * sharing / self._bandwidth(places)

    def _bandwidth(self, places: np.ndarray) -> float:
        """Returns the bytes a second into a chip of a group.

        They are those of its links in the dimensions along which the group extends.
        """
        shape, total = self.where.shape, 0.0
        for axis in range(len(shape)):
            along = np.unique(places[:, axis])
            if len(along) > 1:
                gap = int(np.min(np.diff(along)))
                total += self.where.chip.bandwidth_along(shape, axis, len(along), gap)
        return total

    def seconds_of_permutations(self, permutations: list[Collective]) -> float:
        """Returns the time of all permutations: what the busiest link carries, in one direction.

        They are taken together because XLA sends around a ring both ways at a time.
        """
        sent = collections.Counter()
        for permutation in permutations:
            sent[permutation.pairs] += permutation.times * permutation.nbytes
        loads = collections.Counter()
        for pairs, nbytes in sent.items():
            for a, b in pairs:
                for link in self._route(a, b):
                    loads[link] += nbytes
        return max(loads.values(), default=0) / self.where.chip.link_bandwidth

    def _route(self, a: int, b: int) -> list[tuple[tuple[int, ...], int, int]]:
        """Returns the links (chip, dimension, direction) from device a to device b.

        They follow one dimension after the other.
        """
        chip, target = list(self._places[a][:-1]), self._places[b][:-1]
        links = []
        for axis, length in enumerate(self.where.shape):
            distance = int(target[axis] - chip[axis])
            if self.where.chip.is_ring(self.where.shape, axis) and abs(distance) > length / 2:
                distance -= length if distance > 0 else -length
            direction = 1 if distance > 0 else -1
            for _ in range(abs(distance)):
                links.append((tuple(map(int, chip)), axis, direction))
                chip[axis] = (chip[axis] + direction) % length
        return links
