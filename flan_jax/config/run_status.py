"""`run.json` of a run: whether it is running, saved, finished or failed; read without JAX.

A run that was killed leaves 'running' behind: whether a process still works there is the lock's
matter (`storage/locks.py`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import Any

from flan_jax import __version__, signals
from flan_jax.errors import UserError
from flan_jax.storage.files import read_json, readable, write_file

FILE = "run.json"
ADVICE = "delete it: the next start of the run writes it again"  # where it is damaged
LOCK = ".train.lock"  # held by the process that works on the run
_LONGEST_MESSAGE = 2000
RUNNING, SAVED, FAILED, FINISHED = "running", "saved", "failed", "finished"
# The types of what other programs read from it.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "settings": dict,
    "train": list,
    "evaluated": list,
    "step": int,
    "steps": int,
    "seconds": (int, float),
    "started": str,
    "message": str,
    "parameters": int,
    "trained_parameters": int,
}


class RunStatus:
    """The record of a run that this process works on."""

    def __init__(self, directory: pathlib.Path, writes: bool):
        """Keeps the record; `writes` is False on all processes but the first."""
        self._path, self._writes = directory / FILE, writes
        self.exit_status, self.is_begun = 0, False
        self._begin, before = time.perf_counter(), {}
        with contextlib.suppress(UserError):  # a damaged record is replaced
            before = read_status(directory)
        self._seconds_before = float(before.get("seconds", 0))
        self._values: dict[str, Any] = {
            "status": RUNNING,
            "version": __version__,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _now(),
            "crashes": int(before.get("crashes", 0)),
        }

    @property
    def is_written(self) -> bool:
        """Whether there is a record, of this start or of an earlier one."""
        return self._path.is_file()

    def update(self, **values: Any) -> None:
        """Writes the record with these values, too; and `seconds`, of all starts together."""
        elapsed = time.perf_counter() - self._begin
        self._values.update(values, seconds=round(self._seconds_before + elapsed, 1))
        self.is_begun = True
        if self._writes:
            write_file(self._path, json.dumps(self._values, indent=1, default=str) + "\n")

    def fail(self, code: int, message: str) -> None:
        """Writes that the run failed; `crashes` counts what is not an error of the user's."""
        self.update(
            status=FAILED,
            exit_status=code,
            message=message[:_LONGEST_MESSAGE],
            crashes=self._values["crashes"] + (code != 2),
            ended=_now(),
        )


@contextlib.contextmanager
def recorded(directory: pathlib.Path, writes: bool) -> Iterator[RunStatus]:
    """Keeps `run.json` of a run while the block works on it.

    The block updates what it yields as soon as the run begins or goes on, and sets its
    `exit_status`: 0 is finished, 143 saved. An exception is recorded as failed, or as saved where
    it is a signal's, and raised again; before the first update it leaves an earlier record as it
    is.

    Args:
      directory: of the run.
      writes: whether this process writes.
    """
    status = RunStatus(directory, writes)
    try:
        yield status
    except BaseException as error:
        if status.is_written and not status.is_begun:
            raise
        # The directory may be gone, or full: the error itself is what counts.
        with contextlib.suppress(Exception):
            if isinstance(error, KeyboardInterrupt) or _code(error) == signals.SAVED:
                status.update(
                    status=SAVED, exit_status=signals.SAVED, message=str(error), ended=_now()
                )
            else:
                status.fail(_code(error), str(error))
        raise
    is_saved = status.exit_status == signals.SAVED
    status.update(
        status=SAVED if is_saved else FINISHED, exit_status=status.exit_status, ended=_now()
    )


def read_status(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the record of a run; empty without one.

    Raises:
      UserError: if it is damaged.
    """
    path = directory / FILE
    record = read_json(path, advice=ADVICE) if path.is_file() else {}
    with readable(path, ADVICE):
        for name, kind in _KINDS.items():
            if name in record and not isinstance(record[name], kind):
                raise ValueError(f"{name} is {type(record[name]).__name__}")
            if kind is list and not all(isinstance(item, str) for item in record.get(name, ())):
                raise ValueError(f"an item of {name} is not a text")
    return record


def _code(error: BaseException) -> int:
    """The exit status of an error."""
    if isinstance(error, SystemExit):  # such as that of the preparation of the data
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, UserError) else 1


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
