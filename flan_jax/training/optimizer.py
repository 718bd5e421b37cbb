"""Adafactor as T5X has it, on the unstacked tree and on the stacked one alike.

Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018. The per-array rule is Optax's;
what is added here is that a leaf under `layers` holds N layers, each of which is factored, clipped and scaled on its
own, as if it were unstacked.
"""

from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from flan_jax.errors import UserError

SCHEDULES = ("constant", "rsqrt")


class AdafactorState(NamedTuple):
    """Steps taken, and per parameter the second moments: `v_row` and `v_col` if it is factored, `v` if not.

    The slots that a parameter does not use are zeros of shape (1,), as in T5X.
    """

    count: Any
    v_row: Any
    v_col: Any
    v: Any


def learning_rate_schedule(learning_rate: float, schedule: str, warmup_steps: int):
    """Gives the function from the step (0 first) to the learning rate.

    'constant' is `learning_rate`, after a linear warm-up over `warmup_steps` if there is one. 'rsqrt' is T5's
    pre-training schedule, `learning_rate` / sqrt(max(step, warmup_steps)). Raises UserError for another name.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"adafactor.schedule is {schedule!r}, but must be one of {', '.join(SCHEDULES)}.")

    def constant(step):
        return learning_rate * jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))

    def rsqrt(step):
        return learning_rate * jax.lax.rsqrt(jnp.maximum(step, max(warmup_steps, 1)).astype(jnp.float32))

    return constant if schedule == "constant" else rsqrt


@gin.configurable
def adafactor(
    learning_rate: float = 1e-3,
    decay_rate: float = 0.8,
    schedule: str = "constant",
    warmup_steps: int = 0,
    step_offset: int = 0,
) -> optax.GradientTransformation:
    """Gives T5X's Adafactor: updates relative to each parameter's root mean square, clipped at 1, without momentum.

    Matrices are factored when both dimensions are at least 128. `step_offset` is the step at which fine-tuning began,
    when the step count goes on from pre-training: the second moments start afresh there. `init` takes plain parameters
    or ones boxed with logical axes, and then boxes its slots likewise.
    """
    rule = optax.chain(
        optax.scale_by_factored_rms(decay_rate=decay_rate, step_offset=step_offset),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    rate = learning_rate_schedule(learning_rate, schedule, warmup_steps)

    def init(params) -> AdafactorState:
        moments = jax.tree_util.tree_map_with_path(
            lambda path, param: _init_array(rule, _is_stacked(path), param), params, is_leaf=_is_box
        )
        outer = jax.tree.structure(params, is_leaf=_is_box)
        v_row, v_col, v = (jax.tree.unflatten(outer, column) for column in zip(*outer.flatten_up_to(moments)))
        return AdafactorState(jnp.zeros([], jnp.int32), v_row, v_col, v)

    def update(grads, state: AdafactorState, params):
        def update_one(path, grad, *slots_and_param):
            return _update_array(rule, _is_stacked(path), state.count, grad, *slots_and_param)

        results = jax.tree_util.tree_map_with_path(update_one, grads, state.v_row, state.v_col, state.v, params)
        outer = jax.tree.structure(grads)
        updates, v_row, v_col, v = (jax.tree.unflatten(outer, column) for column in zip(*outer.flatten_up_to(results)))
        updates = jax.tree.map(lambda u: -rate(state.count) * u, updates)
        return updates, AdafactorState(optax.safe_increment(state.count), v_row, v_col, v)

    return optax.GradientTransformation(init, update)


def _is_box(x) -> bool:
    return isinstance(x, nn.meta.AxisMetadata)


def _is_stacked(path) -> bool:
    return any(getattr(key, "key", None) == "layers" for key in path)


def _init_array(rule, stacked: bool, param) -> tuple:
    """Gives (v_row, v_col, v) of one parameter; `v` is boxed like the parameter where it has its shape."""
    array = (param.unbox(apply_constraint=False) if _is_box(param) else param).astype(jnp.float32)

    def init(x):
        state = rule.init(x)[0]
        return state.v_row, state.v_col, state.v

    v_row, v_col, v = (jax.vmap(init) if stacked else init)(array)
    return v_row, v_col, param.replace_boxed(v) if _is_box(param) and v.shape == array.shape else v


def _update_array(rule, stacked: bool, count, grad, v_row, v_col, v, param) -> tuple:
    """Gives (update of rate 1, v_row, v_col, v) of one parameter, layer by layer when it is stacked."""

    def update(grad, v_row, v_col, v, param):
        state = (optax.FactoredState(count, v_row, v_col, v), *rule.init(param)[1:])
        change, (factored, *_) = rule.update(grad.astype(jnp.float32), state, param.astype(jnp.float32))
        return change, factored.v_row, factored.v_col, factored.v

    return (jax.vmap(update) if stacked else update)(grad, v_row, v_col, v, param)
