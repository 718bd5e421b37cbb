"""Which device of a slice stands where in a mesh: groups that exchange much are neighbors.

The chips of a TPU slice form a grid, and links join neighbors only. A mesh axis becomes a block of
the grid: a group of it lies next to each other, or, where another axis has that place, in even
steps. Of all ways to cut the grid, `placed` takes the one whose exchanges take least time by the
bandwidth of the links that each group reaches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from flan_jax.parallel.hardware import Chip, chip_of

# What a device exchanges along each axis, relative to the others, where nobody says it: that of the
# 137B decoder with one row of 1,280 tokens on each 16 devices.
_USUAL_TRAFFIC = {"data": 0.1, "fsdp": 1.0, "model": 0.25}

# Of one dimension of the grid the factors that belong to each mesh axis, innermost first: a group
# of the first one is contiguous, the next one strides over it.
Cut = tuple[tuple[str, int], ...]


def placed(
    sizes: Mapping[str, int],
    devices: Sequence[jax.Device],
    traffic: Mapping[str, float] | None = None,
) -> np.ndarray | None:
    """Returns the devices of a slice as an array with the axes of a mesh.

    Args:
      sizes: of the mesh axes, in their order; their product is the number of devices.
      devices: of JAX; those of a TPU have coordinates.
      traffic: the bytes that a device exchanges along each axis; None: those of a usual step.

    Returns:
      Objects of the shape of `sizes`; None where the devices are no whole grid of known chips.
    """
    grid = _grid(devices)
    if grid is None:
        return None
    chip, shape = chip_of(devices[0].device_kind), grid.shape[:-1]
    traffic = traffic or _USUAL_TRAFFIC

    def seconds(cuts: tuple[Cut, ...]) -> float:
        return sum(traffic[axis] * seconds_of_a_byte(axis, cuts, shape, chip) for axis in sizes)

    best = min(_cuts_of_grid(sizes, grid.shape), key=seconds, default=None)
    return None if best is None else _arranged(grid, best, sizes)


def _grid(devices: Sequence[jax.Device]) -> np.ndarray | None:
    """The devices by their coordinates, [X, Y, Z, cores]; None if they do not fill a box."""
    if not all(hasattr(device, "coords") for device in devices):
        return None
    if chip_of(devices[0].device_kind) is None:
        return None
    places = np.array([(*each.coords, getattr(each, "core_on_chip", 0) or 0) for each in devices])
    places -= places.min(axis=0)
    grid = np.full(places.max(axis=0) + 1, None, object)
    for place, device in zip(places, devices):
        grid[tuple(place)] = device
    return None if grid.size != len(devices) or None in grid.ravel() else grid


def _cuts_of_grid(sizes: Mapping[str, int], lengths: Sequence[int]) -> Iterator[tuple[Cut, ...]]:
    """Yields all ways to give the dimensions of a grid to mesh axes of these sizes."""
    if not lengths:
        if all(size == 1 for size in sizes.values()):
            yield ()
        return
    for cut in _cuts(sizes, lengths[0]):
        factors = dict(cut)
        rest = {axis: size // factors.get(axis, 1) for axis, size in sizes.items()}
        for others in _cuts_of_grid(rest, lengths[1:]):
            yield (cut, *others)


def _cuts(sizes: Mapping[str, int], length: int) -> Iterator[Cut]:
    """Yields the ways to cut one dimension: factors of the axes, in each order."""
    axes = tuple(sizes)
    choices = [
        [factor for factor in range(1, length + 1) if math.gcd(sizes[axis], length) % factor == 0]
        for axis in axes
    ]
    for factors in itertools.product(*choices):
        if math.prod(factors) == length:
            parts = [(axis, factor) for axis, factor in zip(axes, factors) if factor > 1]
            yield from itertools.permutations(parts)


def seconds_of_a_byte(axis: str, cuts: Sequence[Cut], shape: Sequence[int], chip: Chip) -> float:
    """Returns the time in which a group of an axis gathers an array of one byte.

    Args:
      axis: of the mesh.
      cuts: of the dimensions of `shape`, and of the cores of a chip.
      shape: chips along each dimension of the slice.
      chip: of the slice.
    """
    bandwidth, chips = 0.0, 1
    for dimension, cut in enumerate(cuts[: len(shape)]):
        stride = 1
        for name, factor in cut:
            if name == axis:
                bandwidth += chip.bandwidth_along(tuple(shape), dimension, factor, stride)
                chips *= factor
            stride *= factor
    if chips == 1:
        return 0.0  # the cores of a chip share its memory
    cores = dict(cuts[-1]).get(axis, 1)
    size = chips * cores
    return (size - 1) / size * chip.devices / cores / bandwidth


def _arranged(grid: np.ndarray, cuts: Sequence[Cut], sizes: Mapping[str, int]) -> np.ndarray:
    """The grid, cut, with the parts of each mesh axis joined."""
    parts, names = [], []
    for cut in cuts:
        # The innermost part is the last axis of a reshaped dimension.
        parts += [factor for _, factor in reversed(cut)]
        names += [name for name, _ in reversed(cut)]
    order = [place for axis in sizes for place, name in enumerate(names) if name == axis]
    return grid.reshape(parts).transpose(order).reshape(tuple(sizes.values()))
