"""A module of the user's own as a tracker: the functions `init`, `log` and `finish`.

    def init(project, group, name, id, config, directory): ...
    def log(values, step): ...
    def finish(): ...

`log` gets each step once, in order, also when the run is resumed: the next start calls `init` with
the same id and goes on with the steps that come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from flan_jax.training.trackers.tracked_run import PROJECT, Step, TrackedRun, Tracker

FUNCTIONS = ("init", "log", "finish")


def open_tracker(module: ModuleType, run: TrackedRun) -> Tracker:
    """Returns the open tracker of a module."""
    module.init(
        project=PROJECT,
        group=run.group,
        name=run.name,
        id=run.id,
        config=run.config,
        directory=str(run.directory),
    )

    def log(steps: Sequence[Step]) -> None:
        for step, values in steps:
            module.log(dict(values), step=step)

    return Tracker(log, lambda failed: module.finish())
