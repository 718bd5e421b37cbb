"""The training loop: steps, checkpoints and hooks, with the state in a local variable."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax.checkpoints.manager import Checkpoints
from flan_jax.data.batches import Batches
from flan_jax.errors import Diverged
from flan_jax.training.metrics_log import MetricsLog, NonFinite
from flan_jax.training.profile import Profile
from flan_jax.training.state import State, unstack
from flan_jax.training.step import Batch, TrainStep
from flan_jax.training.validation import Validate

_log = logging.getLogger(__name__)

# Called after a step with (step, state); returns whether training goes on.
Hook = Callable[[int, State], bool]


def train(
    state: State,
    frozen: Any,
    steps: int,
    compiled_step: Callable[[], TrainStep],
    batches: Iterator[tuple[Batch, int]],
    checkpoints: Checkpoints,
    checkpoint_every: int,
    log: MetricsLog,
    profile: Profile,
    validate: Validate | None = None,
    hooks: Sequence[Hook] = (),
    preempted: Callable[[], bool] = lambda: False,
) -> tuple[State, bool]:
    """Takes the steps that are left, and saves them.

    Args:
      state: to begin with; its arrays are donated.
      frozen: the parameters that do not train, on the mesh.
      steps: of the run in all.
      compiled_step: returns the step when it is compiled.
      batches: (global batch, its non-padding tokens) of each step that is left.
      checkpoints: where the state is saved.
      checkpoint_every: steps between checkpoints; the last step is always saved.
      log: of the metrics.
      profile: traces some of the steps.
      validate: validates the states that are saved, except on preemption; None for no validation.
      hooks: called after each step.
      preempted: whether the run was preempted; called after each step, by all processes.

    Returns:
      The state, and whether all steps are taken. False on preemption: the state is saved then.

    Raises:
      NonFinite: if a loss, a gradient or a parameter is not finite.
    """
    begin = int(state["step"])
    if begin == steps:
        return state, True
    # A preemption may have left a hook unfinished, such as an evaluation, after the step was saved.
    if not _call(hooks, begin, state):
        return state, False
    started = time.perf_counter()
    step_fn = compiled_step()
    for step in range(begin + 1, steps + 1):
        # 1. The step. Its metrics are collected without waiting for them, but for the first one
        # and on a CPU.
        profile.before(step)
        wait_started = time.perf_counter()
        batch, tokens = next(batches)
        waited = time.perf_counter() - wait_started
        state, metrics = step_fn(state, frozen, batch)
        is_first = step == begin + 1
        # A CPU gains nothing from steps that wait in its queue, and each holds its temporaries.
        if is_first or jax.default_backend() == "cpu":
            jax.block_until_ready(metrics)
        if is_first:
            seconds = time.perf_counter() - started
            _log.info(f"first step after {seconds:.1f} s (the rest of the compilation included)")
        log.add(step, metrics, tokens, waited, timed=not is_first)
        profile.after(step, metrics)

        # 2. The checkpoint.
        stops = preempted()
        if step % checkpoint_every == 0 or step == steps or stops:
            log.flush()
            # A preempted run may have seconds left: it only saves.
            is_validated = validate is not None and (not stops or step == steps)
            validation = _validated(validate, step, state, log) if is_validated else None
            _save(step, state, checkpoints, validation, surely=stops or step == steps)
            log.restart_clock()

        # 3. The hooks. A run that is preempted in one of them saves the step.
        if not stops and not _call(hooks, step, state):
            stops = True
            log.flush()
            _save(step, state, checkpoints, surely=True)
        if stops:
            profile.after(step, metrics, ended=True)
            return state, False
    return state, True


def every(period: int, steps: int, log: MetricsLog, run: Hook) -> Hook:
    """Returns a hook that calls another one every `period` steps, except after the last step."""

    def hook(step: int, state: State) -> bool:
        if not 0 < step < steps or step % period:
            return True
        log.flush()
        goes_on = run(step, state)
        log.restart_clock()
        return goes_on

    return hook


@contextlib.contextmanager
def divergence_explained(batches: Batches, checkpoints: Checkpoints) -> Iterator[None]:
    """Within it a `NonFinite` becomes an error that names the datasets of the batch.

    Raises:
      Diverged: when what was saved before is on disk.
    """
    try:
        yield
    except NonFinite as error:
        checkpoints.wait()
        names = ", ".join(batches.datasets_at(error.step - 1))
        raise Diverged(
            f"{error}; its batch holds {names}. Nothing after step "
            f"{checkpoints.latest_step() or 0} is saved; lower LEARNING_RATE or look at these "
            "datasets, then run the same command (where it ends like this at its first step, the "
            "checkpoint is spoilt: remove it, too)."
        ) from None


def _call(hooks: Sequence[Hook], step: int, state: State) -> bool:
    return all(hook(step, state) for hook in hooks)


def _validated(validate: Validate, step: int, state: State, log: MetricsLog) -> dict[str, float]:
    metrics = validate(step, state)
    if not math.isfinite(metrics["validation_loss"]):
        raise NonFinite(step, {"validation loss": metrics["validation_loss"]})
    log.write(step, metrics)
    return metrics


def _save(
    step: int,
    state: State,
    checkpoints: Checkpoints,
    metrics: dict[str, float] | None = None,
    surely: bool = False,
) -> None:
    if not all_finite(state["params"]):  # after the last step no loss would show it
        raise NonFinite(step, {"parameters": math.nan})
    checkpoints.save(step, unstack(state), metrics, surely)


@jax.jit
def all_finite(params: Any) -> jax.Array:
    """Returns whether all parameters are finite, bool []."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
