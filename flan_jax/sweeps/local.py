"""The points of a sweep on this machine: some at a time, each in a process of its own."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from flan_jax import signals
from flan_jax.config import run_status
from flan_jax.storage.locks import is_locked
from flan_jax.sweeps.grid import Point
from flan_jax.sweeps.plan import LOGS, Sweep

_POLL_S = 0.2
_MOST_CONTINUED = 100  # times that one point is saved and continued
_log = logging.getLogger(__name__)


def run_points(
    sweep: Sweep, points: Sequence[Point], jobs: int, retries: int, gpus: bool
) -> list[str]:
    """Runs points until each is finished or has failed; returns the names of those that failed.

    A point that was saved (status 143) is continued; one that ended with a message (status 2) is
    not tried again; any other end is tried `retries` times more.

    Args:
      sweep: of the points.
      points: to run.
      jobs: how many at a time.
      retries: see above.
      gpus: whether the job in slot i has the GPU i alone.

    Raises:
      KeyboardInterrupt: on SIGTERM or Ctrl-C, when all points have saved and ended.
    """
    waiting, running = collections.deque(points), {}
    slots, tries = set(range(jobs)), collections.Counter()
    failed: list[str] = []
    try:
        while waiting or running:
            while waiting and slots:
                slot, point = min(slots), waiting.popleft()
                slots.remove(slot)
                tries[point.name] += 1
                running[slot] = (point, _start(sweep, point, slot if gpus else None))
            time.sleep(_POLL_S)
            for slot, (point, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                slots.add(slot)
                most = {signals.SAVED: _MOST_CONTINUED, 2: 0}.get(process.returncode, retries)
                if process.returncode and tries[point.name] <= most:
                    _log.info(f"{point.name} ended with status {process.returncode}: again")
                    waiting.append(point)
                elif process.returncode:
                    failed.append(point.name)
                    _note_failure(sweep, point, process.returncode)
                left = len(waiting) + len(running)
                if not process.returncode:
                    _log.info(f"{point.name} is finished; {left} of {len(points)} left")
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    return failed


def _start(sweep: Sweep, point: Point, gpu: int | None) -> subprocess.Popen:
    """Starts a point; its output is appended to its log."""
    path = sweep.directory / LOGS / f"{point.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)})}
    _log.info(f"{point.name} starts; its output is in {path}")
    with open(path, "ab") as file:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "flan_jax.sweep", str(sweep.directory)),
                f"--point={point.name}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """Has Linux send SIGTERM to this process when the sweep is gone, even after a kill -9."""
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _note_failure(sweep: Sweep, point: Point, code: int) -> None:
    """Logs why a point failed, and records it where the run could not."""
    message = _last_line(sweep.directory / LOGS / f"{point.name}.log")
    _log.error(f"{point.name} failed with status {code}: {message}")
    directory = sweep.directory / point.name
    known = run_status.read_status(directory)
    if known.get("status") != run_status.FAILED and not is_locked(directory / run_status.LOCK):
        run_status.RunStatus(directory, True).update(
            status=run_status.FAILED, exit_status=code, message=message
        )


def _last_line(path: pathlib.Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
