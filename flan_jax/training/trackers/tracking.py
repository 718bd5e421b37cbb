"""What of a run goes to its tracker: every step once, however often the run is resumed.

`tracker.json` of a run has the id under which the tracker knows it, and the last step that was
sent. After a crash, the steps between the checkpoint and the crash are computed again, with the
same numbers; they are not sent again. What is in `metrics.jsonl` and was not sent follows at the
next start.
"""

from __future__ import annotations

import json
import logging
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from flan_jax.errors import UserError
from flan_jax.storage.files import read_json, write_file
from flan_jax.storage.hashing import digest
from flan_jax.training.trackers.registry import opener
from flan_jax.training.trackers.tracked_run import TrackedRun, Tracker

_log = logging.getLogger(__name__)

FILE = "tracker.json"


class Tracking:
    """The tracker of a run; an error of it is a warning, and the run goes on without it."""

    def __init__(
        self,
        tracker: str,
        directory: pathlib.Path,
        group: str | None,
        config: Mapping[str, Any],
        begin: int,
    ):
        """Opens the tracker.

        Args:
          tracker: the setting TRACKER.
          directory: MODEL_DIR.
          group: the name of the run's sweep; None outside of one.
          config: the settings by name.
          begin: the step at which this start begins.
        """
        self._name, self._path = tracker, directory / FILE
        record = _read(self._path)
        self._id = record.get("id") or _new_id(directory)
        is_same = record.get("tracker") == tracker
        self._last_sent = int(record["last_step"]) if is_same else -1
        self._pending: dict[int, dict[str, float]] = {}
        self._tracker: Tracker | None = None
        settings = json.loads(json.dumps(dict(config), default=str))
        run = TrackedRun(directory, directory.name, self._id, group, settings, begin)
        self._attempt("start", lambda: self._open(run))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers of a step; steps that were sent before are left out."""
        if self._tracker is not None and step > self._last_sent:
            self._pending.setdefault(step, {}).update(values)

    def send(self, everything: bool = False) -> None:
        """Sends the steps that were added.

        Args:
          everything: also the last one, to which a validation may still add numbers.
        """
        steps = sorted(self._pending)
        steps = steps if everything else steps[:-1]
        if self._tracker is None or not steps:
            return
        batch = [(step, self._pending.pop(step)) for step in steps]
        self._attempt("log", lambda: self._send(batch))

    def finish(self, failed: bool) -> None:
        """Sends what is left and ends the tracker."""
        self.send(everything=True)
        if self._tracker is not None:
            self._attempt("finish", lambda: self._tracker.finish(failed))

    def _open(self, run: TrackedRun) -> None:
        self._tracker = opener(self._name)(run)
        if self._tracker.last_step is not None:
            self._last_sent = self._tracker.last_step
        self._write()

    def _send(self, batch: list[tuple[int, dict[str, float]]]) -> None:
        # Noted before: a step that is sent twice is worse than one that a crash in between loses.
        self._last_sent = batch[-1][0]
        self._write()
        self._tracker.log(batch)

    def _write(self) -> None:
        record = {"tracker": self._name, "id": self._id, "last_step": self._last_sent}
        write_file(self._path, json.dumps(record) + "\n")

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._tracker = None
            text = str(error).strip().partition("\n")[0]
            _log.warning(
                f"TRACKER={self._name!r} failed to {what} ({type(error).__name__}: {text}); the "
                "run goes on without it, and its numbers are in metrics.jsonl."
            )


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The record of a run; empty without one, or if it is damaged."""
    if not path.is_file():
        return {}
    try:
        record = read_json(path, advice="delete it: the run gets another id in the tracker")
    except UserError as error:
        _log.warning(str(error))
        return {}
    is_valid = type(record.get("last_step")) is int and isinstance(record.get("id"), str)
    return record if is_valid else {}


def _new_id(directory: pathlib.Path) -> str:
    """The id of a new run: another one where an earlier run in the directory was removed."""
    return digest([str(directory.resolve()), time.time_ns()])[:16]
