"""Devices of a TPU slice in a mesh: blocks of neighbors, each device once."""

import dataclasses
import itertools

import numpy as np
import pytest

from flan_jax.parallel.hardware import CHIPS
from flan_jax.parallel.placement import placed, seconds_of_a_byte


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """What `placed` reads of a TPU's device."""

    coords: tuple[int, ...]
    core_on_chip: int
    device_kind: str


def slice_of(kind: str, shape: tuple[int, int, int], cores: int = 1) -> list[FakeDevice]:
    places = itertools.product(*map(range, shape), range(cores))
    return [FakeDevice((x, y, z), core, kind) for x, y, z, core in places]


def places(devices: np.ndarray) -> np.ndarray:
    return np.array([each.coords for each in devices.ravel()])


@pytest.mark.parametrize(
    ("kind", "shape", "cores", "mesh"),
    [
        ("TPU v3", (8, 8, 1), 2, (1, 8, 16)),
        ("TPU v3", (4, 4, 1), 2, (2, 4, 4)),
        ("TPU v5 lite", (4, 4, 1), 1, (1, 16, 1)),
        ("TPU v5p", (4, 4, 4), 1, (2, 8, 4)),
        ("TPU v5p", (4, 4, 8), 1, (1, 32, 4)),
    ],
)
def test_every_device_is_placed_once(kind, shape, cores, mesh):
    devices = slice_of(kind, shape, cores)
    arranged = placed(dict(zip(("data", "fsdp", "model"), mesh)), devices)
    assert arranged.shape == mesh
    assert set(arranged.ravel()) == set(devices)


def test_fsdp_of_the_papers_run_is_a_block_of_two_by_two_chips():
    devices = slice_of("TPU v3", (8, 8, 1), 2)
    arranged = placed({"data": 1, "fsdp": 8, "model": 16}, devices)
    for group in arranged[0].T:
        where = places(group)
        assert (np.ptp(where, axis=0) == [1, 1, 0]).all()


def test_the_axis_with_more_traffic_gets_the_neighbors():
    devices = slice_of("TPU v3", (8, 8, 1), 2)
    traffic = {"data": 0.0, "fsdp": 0.01, "model": 1.0}
    arranged = placed({"data": 1, "fsdp": 8, "model": 16}, devices, traffic)
    sides = np.ptp(places(arranged[0, 0]), axis=0)
    assert sides.max() < 4  # 16 devices: 2 x 4 chips of two cores


def test_a_ring_and_neighbors_are_faster():
    v5e = CHIPS["v5e"]
    row = ((("fsdp", 16),), (("model", 16),), (), ())
    whole = seconds_of_a_byte("fsdp", row, (16, 16, 1), v5e)
    part = ((("fsdp", 4), ("model", 4)), (("model", 16),), (), ())
    assert whole == pytest.approx(15 / 16 / (2 * v5e.link_bandwidth))
    assert seconds_of_a_byte("fsdp", part, (16, 16, 1), v5e) == pytest.approx(
        3 / 4 / v5e.link_bandwidth
    )


@pytest.mark.parametrize(
    "devices",
    [
        slice_of("TPU v3", (2, 2, 1), 2)[:-1],  # no whole box
        [FakeDevice((0, 0, 0), 0, "cpu")],
        [object()],
    ],
)
def test_other_devices_are_left_to_jax(devices):
    assert placed({"data": 1, "fsdp": len(devices), "model": 1}, devices) is None
