"""Schedules of the learning rate, the same for every optimizer."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from flan_jax.config.checks import setting_name
from flan_jax.errors import UserError

Schedule = Callable[[jax.Array], jax.Array]

_WSD_DECAY = 0.2  # the share of all steps in which 'wsd' decays


def make_schedule(
    owner: str, learning_rate: float, schedule: str, warmup_steps: float, train_steps: int
) -> Schedule:
    """Returns the function from the step (0 first) to the learning rate.

    Args:
      owner: gin's name of the optimizer whose settings these are, for messages.
      learning_rate: the highest rate; for 'rsqrt' the numerator.
      schedule: one of `SCHEDULES`.
      warmup_steps: steps of the linear rise from 0, or below 1 their share of `train_steps`.
      train_steps: of the run; 'linear', 'cosine' and 'wsd' are at 0 after so many.

    Raises:
      UserError: if the warm-up is not a number of steps, or leaves no room for the decay.
    """
    warmup = _in_steps(owner, warmup_steps, train_steps)
    make, least = SCHEDULES[schedule]
    decay = least(train_steps)
    if decay and warmup + decay > train_steps:
        raise UserError(
            f"{setting_name(owner, 'warmup_steps')} is {warmup:,} of "
            f"{setting_name(owner, 'train_steps')} = {train_steps:,} steps, and the schedule "
            f"{schedule!r} needs {decay:,} after it; give a shorter warm-up or more steps."
        )
    return make(learning_rate, warmup, train_steps)


def _in_steps(owner: str, warmup_steps: float, train_steps: int) -> int:
    """Returns the steps of a warm-up that is given in steps, or as a share of all.

    Raises:
      UserError: for a number above 1 that is not whole.
    """
    if warmup_steps < 1:
        return round(warmup_steps * train_steps)
    if not float(warmup_steps).is_integer():
        raise UserError(
            f"{setting_name(owner, 'warmup_steps')} must be a whole number of steps, or a share "
            f"of all steps below 1, not {warmup_steps}."
        )
    return int(warmup_steps)


def _warmed(step: jax.Array, warmup: int) -> jax.Array:
    return jnp.minimum(1.0, (step + 1) / max(warmup, 1))


def _constant(rate: float, warmup: int, steps: int) -> Schedule:
    return lambda step: rate * _warmed(step, warmup)


def _rsqrt(rate: float, warmup: int, steps: int) -> Schedule:
    return lambda step: rate * jax.lax.rsqrt(jnp.maximum(step, max(warmup, 1)).astype(jnp.float32))


def _decaying(make: Callable, rate: float, warmup: int, steps: int) -> Schedule:
    """Returns the schedule of optax that `make` makes of (rate, its steps), after the warm-up."""
    decay = make(rate, steps - warmup, steps)
    return lambda step: decay(jnp.maximum(step - warmup, 0)) * _warmed(step, warmup)


def _linear(rate: float, left: int, steps: int) -> Schedule:
    return optax.linear_schedule(rate, 0.0, left)


def _cosine(rate: float, left: int, steps: int) -> Schedule:
    return optax.cosine_decay_schedule(rate, left)


def _stable_then_linear(rate: float, left: int, steps: int) -> Schedule:
    decay = _wsd_steps(steps)
    return optax.linear_schedule(rate, 0.0, decay, transition_begin=left - decay)


def _wsd_steps(train_steps: int) -> int:
    return max(1, round(_WSD_DECAY * train_steps))


# By name: the function that makes it of (rate, warm-up, steps), and the least steps it decays in.
SCHEDULES: dict[str, tuple[Callable[[float, int, int], Schedule], Callable[[int], int]]] = {
    "constant": (_constant, lambda steps: 0),
    "rsqrt": (_rsqrt, lambda steps: 0),
    "linear": (functools.partial(_decaying, _linear), lambda steps: 1),
    "cosine": (functools.partial(_decaying, _cosine), lambda steps: 1),
    "wsd": (functools.partial(_decaying, _stable_then_linear), _wsd_steps),
}
