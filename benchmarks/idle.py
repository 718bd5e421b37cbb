"""Whether this machine is idle enough to compare with PyTorch.

Threads of OpenMP spin while they wait for each other. Where another program takes one of the cores,
PyTorch's step takes many times as long (a ratio of 0.10 was seen in the place of 0.75) while XLA's
only loses its share: such a comparison means nothing. The benchmarks that compare refuse to run
there, unless --busy allows it.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import time

_MOST_BUSY = 0.15  # of one core, on average over a second


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --busy."""
    parser.add_argument(
        "--busy", action="store_true", help="measure although other programs use the cores"
    )


def check_idle(flags: argparse.Namespace) -> None:
    """Exits with a message where other programs use the cores, unless --busy is given."""
    busy = busy_cores()
    if busy > _MOST_BUSY and not flags.busy:
        raise SystemExit(
            f"other programs use {busy:.1f} of {len(os.sched_getaffinity(0))} cores, so that times "
            "beside PyTorch's say nothing; wait until they end, or add --busy."
        )


def busy_cores(seconds: float = 1.0) -> float:
    """How many cores are in use while this process sleeps; 0 where the system does not say."""
    stat = pathlib.Path("/proc/stat")
    if not stat.exists():
        return 0.0
    before = _used(stat)
    time.sleep(seconds)
    return (_used(stat) - before) / os.sysconf("SC_CLK_TCK") / seconds


def _used(stat: pathlib.Path) -> int:
    """Clock ticks that all cores have worked."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, stat.read_text().split()[1:8])
    return user + nice + system + irq + softirq
