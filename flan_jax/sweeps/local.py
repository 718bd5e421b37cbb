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
from collections.abc import Mapping, Sequence

from flan_jax import signals
from flan_jax.config import run_status
from flan_jax.storage.copies import origin
from flan_jax.sweeps.grid import Point
from flan_jax.sweeps.logs import Logs, open_logs
from flan_jax.sweeps.plan import Sweep, is_in_use, read_run

_POLL_S = 0.2
# The process that runs the sweep, in the environment of what it starts.
_PARENT = "FLAN_JAX_SWEEP_PID"
_MOST_CONTINUED = 100  # times that one point is saved and continued
_log = logging.getLogger(__name__)


def prepare(sweep: Sweep) -> int:
    """Prepares the data of all points in one process before any starts; returns its exit status.

    What cannot be prepared is in its log; the points that need it fail with the same message.

    Raises:
      KeyboardInterrupt: on SIGTERM or Ctrl-C.
    """
    with open_logs(sweep) as logs:
        process = _start(sweep, logs, "prepare", "--prepare")
        try:
            return process.wait()
        finally:
            process.terminate()
            process.wait()


def run_points(
    sweep: Sweep, points: Sequence[Point], jobs: int, crashes: Mapping[str, int], gpus: bool
) -> list[str]:
    """Runs points until each is finished or has failed; returns the names of those that failed.

    A point that was saved (status 143) is continued; one that ended with a message (status 2) is
    not tried again; any other end is a crash.

    Args:
      sweep: of the points.
      points: to run.
      jobs: how many at a time.
      crashes: with how many, all starts of the sweep together, a point is tried again.
      gpus: whether the job in slot i has the i-th GPU alone.

    Raises:
      KeyboardInterrupt: on SIGTERM or Ctrl-C, when all points have saved and ended.
    """
    with open_logs(sweep) as logs:
        return _run_points(sweep, logs, points, jobs, crashes, gpus)


def _run_points(
    sweep: Sweep,
    logs: Logs,
    points: Sequence[Point],
    jobs: int,
    crashes: Mapping[str, int],
    gpus: bool,
) -> list[str]:
    """Runs points as `run_points`, with their logs."""
    waiting, running = collections.deque(points), {}
    slots, saved = set(range(jobs)), collections.Counter[str]()
    failed: list[str] = []
    try:
        while waiting or running:
            while waiting and slots:
                slot, point = min(slots), waiting.popleft()
                slots.remove(slot)
                gpu = slot if gpus else None
                process = _start(sweep, logs, point.name, f"--point={point.name}", gpu)
                running[slot] = (point, process)
            time.sleep(_POLL_S)
            logs.upload_sometimes()
            ended = {slot: job for slot, job in running.items() if job[1].poll() is not None}
            for slot, (point, process) in ended.items():
                del running[slot]
                slots.add(slot)
                saved[point.name] += process.returncode == signals.SAVED
                if process.returncode == 0:
                    left = len(waiting) + len(running)
                    _log.info(f"{point.name} is finished; {left} of {len(points)} left")
                elif _is_tried_again(sweep, logs, point, process.returncode, crashes, saved):
                    waiting.append(point)
                else:
                    failed.append(point.name)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    return failed


def _is_tried_again(
    sweep: Sweep,
    logs: Logs,
    point: Point,
    code: int,
    crashes: Mapping[str, int],
    saved: Mapping[str, int],
) -> bool:
    """Logs how a point ended, records it where the run could not; returns whether to go on."""
    message = _last_line(logs.path(point.name))
    _note_failure(sweep, point, code, message)
    if code == signals.SAVED:
        is_again = saved[point.name] <= _MOST_CONTINUED
    else:
        so_far = sweep.state_of(point).get("crashes", 0)
        is_again = code != 2 and so_far <= crashes[point.name]
    again = "it is started again" if is_again else "failed"
    _log.error(f"{point.name} ended with status {code}, {again}: {message}")
    return is_again


def _start(
    sweep: Sweep, logs: Logs, name: str, flag: str, gpu: int | None = None
) -> subprocess.Popen:
    """Starts `flan-jax sweep` with a flag; its output is appended to the log of that name."""
    path = logs.path(name)
    _log.info(f"{name} starts; its output is in {path}")
    with open(path, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "flan_jax.sweep", str(sweep.place), flag],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, _PARENT: str(os.getpid()), **_gpu_variable(gpu)},
        )


def _gpu_variable(gpu: int | None) -> dict[str, str]:
    """Returns the variable that leaves one of the visible GPUs; none for None."""
    if gpu is None:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": visible[gpu] if visible[gpu:] and visible[gpu] else str(gpu)}


def end_with_parent() -> None:
    """Has Linux send SIGTERM to this process when the sweep that started it is gone.

    So that it saves and ends after a kill -9 of the sweep, too. Called first by what `_start`
    starts; does nothing in other processes.
    """
    parent = os.environ.pop(_PARENT, None)
    if parent is None:
        return
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):  # it is gone already
        raise signals.Preempted("the sweep has ended")


def _note_failure(sweep: Sweep, point: Point, code: int, message: str) -> None:
    """Records why a point failed where the run could not, as after a kill -9."""
    directory = sweep.directory / point.name
    sweep.state_of(point)  # fetches the lock, too
    if code == signals.SAVED or is_in_use(directory):
        return
    for place in [directory, *(sweep.evaluation(point, name) for name in point.evaluations)]:
        status = read_run(place).get("status")
        if status == run_status.FAILED:
            return
        if status != run_status.FINISHED:
            run_status.RunStatus(place, True).fail(code, message)
            if there := origin(place / run_status.FILE):
                there.write_bytes((place / run_status.FILE).read_bytes())
            return


def _last_line(path: pathlib.Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
