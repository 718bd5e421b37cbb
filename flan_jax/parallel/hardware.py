"""Memory, peak FLOP/s and links of accelerator chips, as their makers publish them.

TPU v2, v3: Jouppi et al., A Domain-Specific Supercomputer for Training Deep Neural Networks, 2020.
v4: Jouppi et al., TPU v4, 2023. v5e, v5p, v6e, 7x: the system architecture pages of Cloud TPU.
GPUs: NVIDIA's data sheets, dense bf16.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
      name: as topologies and tables call it.
      devices: JAX devices of a chip; they share its peak and bandwidths.
      device_memory: bytes of HBM that programs may use on one device; for TPUs the value of their
        compiler (libtpu 0.0.42).
      flops: peak of bf16 matrix products, FLOP/s of the chip.
      memory_bandwidth: of the chip's HBM, bytes/s.
      link_bandwidth: of one link to another chip, bytes/s in one direction.
      pod: chips of the largest slice; 0 for GPUs.
      wraps: which dimensions of a slice are rings: 'never', 'cubes' (all, if all are multiples of
        4), or those of '16' or '32' chips.
    """

    name: str
    devices: int
    device_memory: float
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    pod: int = 0
    wraps: str = "never"

    @property
    def device_flops(self) -> float:
        """Peak of one device, bf16 FLOP/s."""
        return self.flops / self.devices

    def is_ring(self, shape: tuple[int, ...], axis: int) -> bool:
        """Whether the chips along an axis of a slice of this shape are a ring."""
        if self.wraps == "cubes":
            return all(size % 4 == 0 for size in shape)
        return self.wraps == str(shape[axis])

    def bandwidth_along(self, shape: tuple[int, ...], axis: int, count: int, gap: int) -> float:
        """Returns the bytes a second that reach a chip of a group over the links of one axis.

        Args:
          shape: of the slice.
          axis: of the slice, along which the group extends.
          count: chips of the group along it.
          gap: from one of them to the next; groups in each other's gaps share the links.
        """
        is_ring = self.is_ring(shape, axis) and count * gap == shape[axis]
        return self.link_bandwidth * (2 if is_ring else 1) / gap


CHIPS = {
    "v2": Chip("TPU v2", 2, 7.48 * GIB, 46e12, 700e9, 62e9, 256, "16"),
    "v3": Chip("TPU v3", 2, 15.48 * GIB, 123e12, 900e9, 82e9, 1024, "32"),
    "v4": Chip("TPU v4", 1, 30.75 * GIB, 275e12, 1200e9, 50e9, 4096, "cubes"),
    "v5e": Chip("TPU v5e", 1, 15.75 * GIB, 197e12, 819e9, 50e9, 256, "16"),
    "v5p": Chip("TPU v5p", 1, 95.74 * GIB, 459e12, 2765e9, 100e9, 8960, "cubes"),
    "v6e": Chip("TPU v6e", 1, 31.25 * GIB, 918e12, 1640e9, 100e9, 256, "16"),
    "tpu7x": Chip("TPU 7x", 2, 94.75 * GIB, 2307e12, 7380e9, 100e9, 9216, "cubes"),
}
# JAX's device kinds of GPUs. JAX may use a bit less memory than a GPU has; the bandwidth is that of
# all links of a GPU together.
_GPUS = {
    r"A100.*-40GB": Chip("A100 40 GB", 1, 36 * GIB, 312e12, 1555e9, 300e9),
    r"A100": Chip("A100 80 GB", 1, 72 * GIB, 312e12, 2039e9, 300e9),
    r"\bH100 PCIe": Chip("H100 PCIe 80 GB", 1, 72 * GIB, 756e12, 2000e9, 300e9),
    r"\bH100": Chip("H100 80 GB", 1, 72 * GIB, 989e12, 3350e9, 450e9),
    r"\bH200": Chip("H200 141 GB", 1, 127 * GIB, 989e12, 4800e9, 450e9),
    r"\bB200": Chip("B200 180 GB", 1, 162 * GIB, 2250e12, 8000e9, 900e9),
}
# JAX's device kinds of TPUs, where they differ from the names above.
_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU7x": "tpu7x",
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of JAX's `device.device_kind`; None if it is unknown, as for CPUs."""
    tpu = CHIPS.get(_KINDS.get(device_kind, device_kind.removeprefix("TPU ")))
    return tpu or next((chip for name, chip in _GPUS.items() if re.search(name, device_kind)), None)


def peak_flops(devices: Iterable[jax.Device]) -> float | None:
    """Returns the bf16 peak of devices together, FLOP/s; None if it is unknown, as for CPUs."""
    chips = [chip_of(device.device_kind) for device in devices]
    return None if None in chips else sum(chip.device_flops for chip in chips)
