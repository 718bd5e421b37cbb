"""JAX's process-wide settings, made before the first device is touched."""

from __future__ import annotations

import argparse
import os
import pathlib
import re

import jax

from flan_jax.training import processes


def set_up(compiled: pathlib.Path, flags: argparse.Namespace | None = None) -> None:
    """Settings for training and evaluation: compiled programs are kept in the directory `compiled`.

    With several processes, joins them first, as `flags` say (`processes.add_flags`), or what this process finds.

    With devices simulated on a CPU, XLA's thread pool gets eight threads a device. With its default (one a device),
    collectives that wait for each other in one program can take all threads, and the program hangs: seen in 3 of 4
    runs of 60 steps on 8 devices and 2 cores, in 0 of 4 with this setting. The same goes for two programs in flight.
    """
    simulated = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if simulated and int(simulated.group(1)) > 1:
        os.environ.setdefault("NPROC", str(8 * int(simulated.group(1))))
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    processes.join(flags)
