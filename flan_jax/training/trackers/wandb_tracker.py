"""Weights & Biases. With WANDB_MODE=offline it needs no account; `wandb sync` uploads later."""

from __future__ import annotations

import os
from collections.abc import Sequence

from flan_jax.training.trackers.tracked_run import PROJECT, Step, TrackedRun, Tracker


def open_tracker(run: TrackedRun) -> Tracker:
    """Returns an open tracker; its files are in MODEL_DIR/wandb."""
    import wandb

    tracked = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=run.group,
        name=run.name,
        id=run.id,
        config=run.config,
        dir=str(run.directory),
        resume="allow",
    )

    def log(steps: Sequence[Step]) -> None:
        for step, values in steps:
            tracked.log(dict(values), step=step)

    return Tracker(log, lambda failed: tracked.finish(exit_code=int(failed)))
