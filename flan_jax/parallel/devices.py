"""JAX's process-wide settings, made before the first device is touched."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import glob
import os
import pathlib
import re

import jax

from flan_jax.parallel import processes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def set_up(compiled: pathlib.Path, flags: argparse.Namespace | None = None) -> None:
    """Settings for training and evaluation: compiled programs are kept in the directory `compiled`.

    With several processes, joins them first, as `flags` say (`processes.add_flags`), or what this
    process finds.

    With devices simulated on a CPU, XLA's thread pool gets eight threads a device. With its default
    (one a device), collectives that wait for each other in one program can take all threads, and
    the program hangs: seen in 3 of 4 runs of 60 steps on 8 devices and 2 cores, in 0 of 4 with this
    setting. The same goes for two programs in flight.
    """
    simulated = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if simulated and int(simulated.group(1)) > 1:
        os.environ.setdefault("NPROC", str(8 * int(simulated.group(1))))
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    keep_freed_memory()
    processes.join(flags)


def keep_freed_memory() -> None:
    """Keeps what a program frees for the next one, on a CPU with glibc; before JAX starts its
    threads.

    glibc would give large blocks back at once and take them again, page by page: a step of T5 small
    (8 x 128/64) did so with 1.1 GB, and took 3.2 s instead of 1.8 on two cores. Nothing is given
    back (a threshold of -1; with one of 2 GB every second step was slow). One arena, since only
    that one may grow at will. The process is larger for it (3.0 GB there, against 2.1).
    """
    if any(map(glob.glob, ("/dev/nvidia*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*"))):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)):
            mallopt(option, value)
