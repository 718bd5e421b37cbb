"""Which checkpoint of a run's directory: the one of a step, the latest, or the best."""

from __future__ import annotations

import math
import os
from typing import Any

from etils import epath

from flan_jax.errors import UserError
from flan_jax.storage.files import read_json

# In place of a step's number: the step with the lowest validation loss.
BEST = "best"
# The metric that is saved with a checkpoint.
VALIDATION_LOSS = "validation_loss"


def checkpoint_path(path: str | os.PathLike, step: int | str | None = None) -> Any:
    """Returns the directory of one checkpoint: `path` itself when it is one, else that of a step.

    Args:
      path: a run's directory, its `checkpoints` directory or a step's.
      step: a number; None for the latest; BEST for the lowest validation loss, the later of equals.

    Returns:
      An `epath.Path`.

    Raises:
      UserError: when there is none.
    """
    path = epath.Path(path)
    own_step = int(path.name) if path.name.isdecimal() else None
    if (path / "params").is_dir() and step in (None, own_step):
        return path
    for parent in (path, path / "checkpoints"):
        selected = _select(parent, step)
        if selected is not None:
            return parent / str(selected)
    wanted = {None: "checkpoint", BEST: "checkpoint with a validation loss"}
    raise UserError(
        f"no {wanted.get(step, f'checkpoint of step {step}')} found in {path}: give a run's "
        "directory, or the directory of one of its steps."
    )


def _select(parent: Any, step: int | str | None) -> int | None:
    children = parent.iterdir() if parent.is_dir() else ()
    steps = sorted(int(child.name) for child in children if child.name.isdecimal())
    if step == BEST:
        losses = {i: _validation_loss(parent / str(i)) for i in reversed(steps)}
        best = min(losses, key=losses.get, default=None)
        return best if best is not None and losses[best] < math.inf else None
    if step is None:
        return steps[-1] if steps else None
    return step if step in steps else None


def _validation_loss(directory: Any) -> float:
    """The validation loss that was saved with a checkpoint, infinity where there is none."""
    try:
        loss = read_json(directory / "metrics" / "metrics").get(VALIDATION_LOSS)
    except (OSError, UserError):
        return math.inf
    return loss if isinstance(loss, (int, float)) and not math.isnan(loss) else math.inf
