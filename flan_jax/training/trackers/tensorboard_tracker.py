"""TensorBoard: event files in MODEL_DIR/tensorboard, written by tensorboardX."""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.training.trackers.tracked_run import Step, TrackedRun, Tracker

_FLUSH_SECONDS = 10


def open_tracker(run: TrackedRun) -> Tracker:
    """Returns an open tracker.

    tensorboardX writes in the background, and what a killed run lost is not known. Each start
    therefore writes all steps of `metrics.jsonl`; TensorBoard ignores the files before it.
    """
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(
        str(run.directory / "tensorboard"),
        purge_step=0,
        flush_secs=_FLUSH_SECONDS,
        # Two starts in the same second would write the same file.
        filename_suffix=f".from_step_{run.begin}",
    )

    def log(steps: Sequence[Step]) -> None:
        for step, values in steps:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

    return Tracker(log, lambda failed: writer.close(), last_step=-1)
