"""What a tracker receives of a run, and what it does: the interface of every tracker."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# The project of runs in trackers that have projects.
PROJECT = "flan_jax"
# A step and its numbers by name.
Step = tuple[int, Mapping[str, float]]


class TrackedRun(NamedTuple):
    """A run for a tracker.

    Attributes:
      directory: MODEL_DIR.
      name: for readers, the name of the directory.
      id: the same for all starts of a run, and for no other run.
      group: the name of its sweep; None outside of one.
      config: the settings by name, as JSON.
      begin: the step at which this start begins; the steps up to it are in `metrics.jsonl`.
    """

    directory: pathlib.Path
    name: str
    id: str
    group: str | None
    config: dict[str, Any]
    begin: int


class Tracker(NamedTuple):
    """An open tracker.

    Attributes:
      log: takes steps in their order.
      finish: ends it; takes whether the run failed.
      last_step: the last step that it has of this run; None if it cannot say.
    """

    log: Callable[[Sequence[Step]], None]
    finish: Callable[[bool], None]
    last_step: int | None = None
