"""Adafactor as T5X has it, on the unstacked tree and on the stacked one alike.

Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018. A leaf under
`layers` holds N layers, each of which is factored, clipped and scaled separately, as if it were
unstacked. Optax has the same rule, but writes a copy of every parameter on the way: for T5 small on
two cores it took 1.5 times as long.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from flan_jax.models.cpu import sum_first
from flan_jax.optim.schedules import Schedule
from flan_jax.optim.weight_decay import decays

_MIN_FACTORED = 128  # the least size of both axes of a factored matrix
_EPSILON = 1e-30  # added to squared gradients
_MIN_SCALE = 1e-3  # of the root mean square by which a parameter's updates are scaled


class AdafactorState(NamedTuple):
    """The steps taken, and the second moments of each parameter, all float32.

    A factored parameter uses `v_row` and `v_col`, any other `v`. The slots that a parameter does
    not use are zeros of shape (1,), as in T5X.
    """

    count: Any
    v_row: Any
    v_col: Any
    v: Any


def adafactor_rule(
    rate: Schedule,
    clip: Callable[[Any], Any],
    decay_rate: float,
    scaled: bool,
    weight_decay: float,
    weight_decay_rate: float,
) -> optax.GradientTransformation:
    """Returns T5X's Adafactor, without momentum; see `adafactor.adafactor`.

    Args:
      rate: the learning rate by step.
      clip: what gradients pass through first.
      decay_rate: second moments decay by 1 - (step + 1)^-decay_rate.
      scaled: whether updates are relative to the root mean square of each parameter.
      weight_decay: see `weight_decay.decays`; times the learning rate.
      weight_decay_rate: the share of every parameter that each step takes.
    """

    def init(params: Any) -> AdafactorState:
        moments = jax.tree_util.tree_map_with_path(
            lambda path, param: _init_array(_is_stacked(path), param), params, is_leaf=_is_box
        )
        outer = jax.tree.structure(params, is_leaf=_is_box)
        v_row, v_col, v = (
            jax.tree.unflatten(outer, column) for column in zip(*outer.flatten_up_to(moments))
        )
        return AdafactorState(jnp.zeros([], jnp.int32), v_row, v_col, v)

    def update(grads: Any, state: AdafactorState, params: Any) -> tuple[Any, AdafactorState]:
        decay = 1.0 - (state.count + 1.0) ** -decay_rate
        step_rate = rate(state.count)

        def update_one(path: tuple, grad: jax.Array, *slots_and_param: jax.Array) -> tuple:
            change, *slots = _update_array(
                _is_stacked(path),
                scaled,
                step_rate,
                decay,
                grad,
                *slots_and_param,
            )
            decoupled = step_rate * weight_decay if weight_decay and decays(path) else 0.0
            if weight_decay or weight_decay_rate:
                param = slots_and_param[-1].astype(jnp.float32)
                change = change - (weight_decay_rate + decoupled) * param
            return change, *slots

        grads = clip(grads)
        results = jax.tree_util.tree_map_with_path(
            update_one, grads, state.v_row, state.v_col, state.v, params
        )
        outer = jax.tree.structure(grads)
        updates, v_row, v_col, v = (
            jax.tree.unflatten(outer, column) for column in zip(*outer.flatten_up_to(results))
        )
        return updates, AdafactorState(optax.safe_increment(state.count), v_row, v_col, v)

    return optax.GradientTransformation(init, update)


def _is_box(x: Any) -> bool:
    return isinstance(x, nn.meta.AxisMetadata)


def _is_stacked(path: tuple) -> bool:
    return any(getattr(key, "key", None) == "layers" for key in path)


def _factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Returns the second largest and the largest axis of a layer's parameter; None: too small.

    Axes are counted from the end.
    """
    order = np.argsort(shape)
    if len(shape) < 2 or shape[order[-2]] < _MIN_FACTORED:
        return None
    return int(order[-2]) - len(shape), int(order[-1]) - len(shape)


def _init_array(stacked: bool, param: Any) -> tuple[Any, Any, Any]:
    """Returns (v_row, v_col, v) of a parameter; `v` is boxed like it where it has its shape."""
    shape = (param.unbox(apply_constraint=False) if _is_box(param) else param).shape
    layers, shape = (shape[:1], shape[1:]) if stacked else ((), shape)
    axes = _factored_axes(shape)
    if axes is None:
        v = jnp.zeros((*layers, *shape))
        # One buffer for both could not be donated.
        v_row, v_col = jnp.zeros((*layers, 1)), jnp.zeros((*layers, 1))
        return v_row, v_col, param.replace_boxed(v) if _is_box(param) else v
    second, largest = axes
    v_row = jnp.zeros((*layers, *np.delete(shape, largest)))
    v_col = jnp.zeros((*layers, *np.delete(shape, second)))
    return v_row, v_col, jnp.zeros((*layers, 1))


def _update_array(
    stacked: bool,
    scaled: bool,
    rate: jax.Array,
    decay: jax.Array,
    grad: jax.Array,
    v_row: jax.Array,
    v_col: jax.Array,
    v: jax.Array,
    param: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns (update, v_row, v_col, v) of a parameter [...], or of the N of a stack [N, ...]."""
    grad, param = grad.astype(jnp.float32), param.astype(jnp.float32)
    first_axis = int(stacked)
    layer_axes = tuple(range(first_axis, grad.ndim))
    axes = _factored_axes(grad.shape[first_axis:])
    square = jnp.square(grad)
    if axes is None:
        v = decay * v + (1.0 - decay) * (square + _EPSILON)
        change = grad * jax.lax.rsqrt(v)
    else:
        second, largest = axes
        v_row = decay * v_row + (1.0 - decay) * (_mean(square, largest) + _EPSILON)
        v_col = decay * v_col + (1.0 - decay) * (_mean(square, second) + _EPSILON)
        # `v_row` lacks the largest axis: the second largest moves where it came before.
        second_in_rows = second + (second < largest)
        rows = jax.lax.rsqrt(v_row / v_row.mean(second_in_rows, keepdims=True))
        change = grad * jnp.expand_dims(rows, largest)
        change = change * jnp.expand_dims(jax.lax.rsqrt(v_col), second)
    clip = jnp.maximum(1.0, _root_mean_square(change, layer_axes))
    if scaled:
        rate = rate * jnp.maximum(_MIN_SCALE, _root_mean_square(param, layer_axes))
    return change * (-rate / clip), v_row, v_col, v


def _mean(x: jax.Array, axis: int) -> jax.Array:
    """Returns the mean over one axis, counted from the end."""
    return sum_first(x) / x.shape[0] if axis == -x.ndim else x.mean(axis)


def _root_mean_square(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))
