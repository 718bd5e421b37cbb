"""JAX's process-wide settings, made before the first device is touched."""

from __future__ import annotations

import glob
import os
import pathlib
import re

import jax

from flan_jax.errors import UserError

_PROCESS_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def set_up(compiled: pathlib.Path) -> None:
    """Settings for training and evaluation: compiled programs are kept in the directory `compiled`.

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
    _join_hosts()


def _join_hosts() -> None:
    """Connects the processes of a run: those of a TPU slice or a SLURM job, or those that JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID name. Does nothing for a process of its own."""
    if jax.distributed.is_initialized():
        return
    slurm = int(os.environ.get("SLURM_NTASKS", 1)) > 1
    tpu = bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")) and jax.config.jax_platforms != "cpu"
    named = [name for name in _PROCESS_VARIABLES if name in os.environ]
    if named and len(named) < len(_PROCESS_VARIABLES):
        raise UserError(f"{', '.join(named)} is set, but several processes need {', '.join(_PROCESS_VARIABLES)}.")
    if named:
        address, count, index = (os.environ[name] for name in _PROCESS_VARIABLES)
        jax.distributed.initialize(address, int(count), int(index))
    elif slurm or tpu:
        jax.distributed.initialize()
