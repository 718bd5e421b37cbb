"""Start or resume: the state that a run begins with, so that a restart is exact.

The order: (1) the latest checkpoint in MODEL_DIR, the whole state; else (2) the parameters of
INITIAL_CHECKPOINT_PATH, with a fresh optimizer and step 0; else (3) random parameters from SEED.
Where only a part of the parameters trains, the others are those of INITIAL_CHECKPOINT_PATH always.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from flan_jax.checkpoints import base_record
from flan_jax.checkpoints.manager import Checkpoints
from flan_jax.errors import UserError
from flan_jax.optim.make import optimizer_of
from flan_jax.peft.prompt import Start
from flan_jax.training.state import ShardedState, State

_log = logging.getLogger(__name__)


def check_steps(checkpoints: Checkpoints, steps: int) -> None:
    """Checks that the latest checkpoint is not beyond the last step of the run.

    Raises:
      UserError: if it is.
    """
    latest = checkpoints.latest_step()
    if latest is not None and latest > steps:
        raise UserError(
            f"MODEL_DIR holds step {latest}, but TRAIN_STEPS is {steps}; raise "
            "TRAIN_STEPS, or evaluate an earlier step with flan-jax eval --step."
        )


def check_base(sharded: ShardedState, initial_checkpoint_path: str | None) -> None:
    """Checks that there is a model to tune where most of its parameters are frozen.

    Raises:
      UserError: if there is none, or it has a prompt.
    """
    if not sharded.tuning.is_full and initial_checkpoint_path is None:
        raise UserError(
            f"PEFT={sharded.tuning.config.method!r} tunes a model that is trained already, and "
            "none is given; add --gin.INITIAL_CHECKPOINT_PATH=PATH (a run, or a checkpoint of T5X, "
            "Hugging Face or GGUF)."
        )
    record = initial_checkpoint_path and base_record.find(initial_checkpoint_path)
    if record and record.prompt_length:
        raise UserError(
            f"INITIAL_CHECKPOINT_PATH {initial_checkpoint_path!r} is a run with a prompt, and a "
            "prompt cannot be merged into the matrices of its model; give its base, "
            f"{record.path}, and to go on with the prompt --gin.PEFT=prompt "
            f"--gin.PROMPT_INIT={initial_checkpoint_path}."
        )


def check_optimizer(checkpoints: Checkpoints, sharded: ShardedState) -> None:
    """Checks that the latest checkpoint has the state of the optimizer of the run.

    Raises:
      UserError: if it has that of another one.
    """
    names = [name.split("/") for name in checkpoints.state_names()]
    saved = {name[1] for name in names if name[0] == "opt_state" and len(name) > 1}
    expected = set(sharded.abstract["opt_state"]._fields)
    if not saved or saved == expected:
        return
    before = optimizer_of(saved)
    if before is None:
        return  # not by this version: `restore` lists what is missing
    run = checkpoints.directory.parent
    anew = (
        f"begin another run from its parameters: --gin.INITIAL_CHECKPOINT_PATH={run} with another "
        "MODEL_DIR"
        if sharded.tuning.is_full
        else "give another MODEL_DIR"
    )
    raise UserError(
        f"MODEL_DIR {str(run)!r} holds a run with OPTIMIZER={before!r}, whose state "
        f"{optimizer_of(expected)!r} cannot continue; resume it with --gin.OPTIMIZER={before}, or "
        f"{anew}."
    )


def restore_or_initialize(
    checkpoints: Checkpoints,
    sharded: ShardedState,
    read_initial: Callable[[], Any] | None,
    start: Start | None = None,
) -> tuple[State, Any]:
    """Returns the state to begin with, in the order of the module's docstring, and the base.

    The base is all parameters of the model before tuning; None in full tuning.

    Args:
      checkpoints: of the run.
      sharded: shapes and shardings of the state.
      read_initial: see `initial_state`.
      start: see `ShardedState.fresh`; not used where there is a checkpoint.

    Raises:
      UserError: if no checkpoint can be restored although there is one.
    """
    base = None if sharded.tuning.is_full else read_initial()
    if checkpoints.latest_step() is None:
        if base is None:
            return initial_state(sharded, read_initial), None
        return sharded.fresh(base, start), base
    state = sharded.stack(checkpoints.restore(sharded.on_disk()))
    _log.info(f"resuming from step {int(state['step'])} in {checkpoints.directory}")
    return state, base


def initial_state(sharded: ShardedState, read_initial: Callable[[], Any] | None) -> State:
    """Returns the state of step 0 of full tuning.

    Args:
      sharded: shapes and shardings of the state.
      read_initial: reads the parameters to start from, on the mesh; None for random ones.
    """
    state = sharded.fresh()
    if read_initial is not None:
        # Freed before the others are read: where one copy fits, two may not.
        state["params"] = None
        state["params"] = read_initial()
    return state
