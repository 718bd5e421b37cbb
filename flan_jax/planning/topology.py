"""A slice by name: `v3:8x8` is a square of 64 chips of TPU v3, for JAX's compiler alone.

No chip has to be attached. `cpu:8` is eight devices simulated by this process: the same programs,
and nothing to install.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from flan_jax.errors import UserError
from flan_jax.parallel.hardware import CHIPS, Chip

# What libtpu reads of a TPU machine; it complains elsewhere, though the values do not matter to
# compiling. The last lets several processes compile at a time.
_LIBTPU_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CUBIC = ("v4", "v5p", "tpu7x")


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices to compile for.

    Attributes:
      name: as given, e.g. 'v3:8x8'.
      shape: chips along each dimension.
      devices: JAX's, in its order.
      chip: what they are; None for simulated devices.
    """

    name: str
    shape: tuple[int, ...]
    devices: list
    chip: Chip | None

    def place(self, device: Any) -> tuple[int, ...]:
        """Returns the coordinates of a device's chip in `shape`, and its number on the chip."""
        if self.chip is None:
            return (device.id, 0)
        return (*device.coords[: len(self.shape)], getattr(device, "core_on_chip", 0) or 0)


def open_slice(name: str) -> Slice:
    """Returns the slice of a name such as 'v3:8x8', 'v5p:4x4x8' or 'cpu:8'.

    'cpu:8' has to be opened before JAX has initialized its devices.

    Raises:
      UserError: if the name is not a slice, or JAX's TPU compiler is not installed.
    """
    kind, shape = _read(name)
    # The host computes nothing: a TPU or GPU that is there is left alone.
    jax.config.update("jax_platforms", "cpu")
    if kind == "cpu":
        return _simulated(name, shape[0])
    if getattr(importlib.util.find_spec("libtpu"), "origin", None) is None:
        raise UserError(
            f"{name} needs JAX's TPU compiler, which is not installed; it runs on any machine: pip "
            "install 'flan_jax[tpu]' (or try --topology=cpu:8, which needs nothing)."
        )
    for key, value in _LIBTPU_VARIABLES.items():
        os.environ.setdefault(key, value)
    # Cloud TPU's v4 gives one device a chip; the compiler's default is one a core.
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if np.prod(shape) < 4:
        options["chips_per_host_bounds"] = (*shape, 1)[:3]
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"{name} is not a slice that exists: {str(error).splitlines()[0]}."
        ) from None
    return Slice(name, shape, list(devices), CHIPS[kind])


def _read(name: str) -> tuple[str, tuple[int, ...]]:
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    kind = match[1] if match else ""
    shape = tuple(int(size) for size in match[2].split("x")) if match else ()
    dimensions = 1 if kind == "cpu" else 3 if kind in _CUBIC else 2
    if kind not in ("cpu", *CHIPS) or len(shape) != dimensions or 0 in shape:
        raise UserError(
            f"--topology={name} is not a slice; write chips as v3:8x8, v5e:4x4, v5p:4x4x8 (a kind "
            f"of {', '.join(CHIPS)} and its sides: three for {', '.join(_CUBIC)}), or cpu:8."
        )
    if kind != "cpu" and math.prod(shape) > CHIPS[kind].pod:
        raise UserError(
            f"--topology={name} has {math.prod(shape):,} chips, and a pod of {CHIPS[kind].name} "
            f"has only {CHIPS[kind].pod:,}; what links several pods is not known here."
        )
    return kind, shape


def _simulated(name: str, count: int) -> Slice:
    with contextlib.suppress(RuntimeError):  # JAX has its devices already: are they enough?
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(
            f"{name} needs {count} simulated devices and this process has {len(devices)}; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}."
        )
    return Slice(name, (count,), devices[:count], None)
