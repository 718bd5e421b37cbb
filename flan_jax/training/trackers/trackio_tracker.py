"""trackio: a SQLite database on this machine, or a Space or server that its variables name."""

from __future__ import annotations

import os
from collections.abc import Sequence

from flan_jax.training.trackers.tracked_run import PROJECT, Step, TrackedRun, Tracker


def open_tracker(run: TrackedRun) -> Tracker:
    """Returns an open tracker.

    trackio knows runs by their names; the name has the id at its end.
    """
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    name = f"{run.name}-{run.id[:8]}"
    # It writes in the background: a killed run may have sent more steps than are there.
    last_step = SQLiteStorage.get_max_step_for_run(project, name)
    tracked = trackio.init(
        project=project,
        group=run.group,
        name=name,
        config=run.config,
        resume="allow",
        embed=False,
    )

    def log(steps: Sequence[Step]) -> None:
        for step, values in steps:
            tracked.log(dict(values), step=step)

    return Tracker(log, lambda failed: trackio.finish(), last_step)
