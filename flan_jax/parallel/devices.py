"""JAX's process-wide settings, to be made before the first device is used."""

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

# Settings of JAX that the program has not changed: JAX's defaults, later what `set_up` set.
_unchanged: dict[str, object] = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 1.0,
}

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def set_up(compiled: pathlib.Path, flags: argparse.Namespace | None = None) -> None:
    """Sets JAX up for training and evaluation, and joins the other processes of the run, if any.

    With devices simulated on a CPU, XLA's thread pool gets eight threads a device. With its default
    (one a device), collectives that wait for each other in one program can take all threads, and
    the program hangs: seen in 3 of 4 runs of 60 steps on 8 devices and 2 cores, in 0 of 4 with this
    setting. Two programs in flight hang in the same way, so dispatch is synchronous there.

    Args:
      compiled: directory of the persistent compilation cache, unless JAX_COMPILATION_CACHE_DIR is
        set, or the program has chosen one with `jax.config.update`.
      flags: those of `processes.add_flags`; see `processes.join`.

    Raises:
      UserError: if the other processes cannot be joined.
    """
    simulated = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if simulated and int(simulated.group(1)) > 1:
        os.environ.setdefault("NPROC", str(8 * int(simulated.group(1))))
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    for name, value in (
        ("jax_compilation_cache_dir", str(compiled)),
        ("jax_persistent_cache_min_compile_time_secs", 0.2),
    ):
        is_unchanged = getattr(jax.config, name) == _unchanged[name]
        if is_unchanged and name.upper() not in os.environ:  # JAX has read it there
            jax.config.update(name, value)
            _unchanged[name] = value
    keep_freed_memory()
    processes.join(flags)


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next program; no effect where there are accelerators.

    Call it before JAX starts its threads. By default glibc returns large blocks to the system at
    once and takes them again, page by page: a step of T5 small (8 x 128/64) did so with 1.1 GB, and
    took 3.2 s instead of 1.8 on two cores. Here nothing is returned (a threshold of -1; with one of
    2 GB every second step was slow), and there is one arena, since only the main arena may grow
    without limit. The process is larger for it (3.0 GB there, against 2.1).
    """
    if any(map(glob.glob, processes.ACCELERATOR_FILES)):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)):
            mallopt(option, value)
