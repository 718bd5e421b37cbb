"""What optax's rules have in common here: clipping, decay, learning rate, and dtypes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flan_jax.optim.schedules import Schedule
from flan_jax.optim.weight_decay import decayed


def clipping(clip_norm: float | None) -> Callable[[Any], Any]:
    """Returns the function that scales gradients to a norm of at most `clip_norm`, in float32.

    For None it returns gradients as they are.
    """
    if clip_norm is None:
        return lambda grads: grads
    clip = optax.clip_by_global_norm(clip_norm)
    return lambda grads: clip.update(_cast(grads, "float32"), optax.EmptyState())[0]


def composed(
    rule: optax.GradientTransformation,
    rate: Schedule,
    weight_decay: float,
    clip_norm: float | None,
    moment_dtype: str,
) -> optax.GradientTransformation:
    """Returns the optimizer: clipping, the rule, decoupled weight decay, then the learning rate.

    Its state is that of the rule alone, so that schedule, decay and clipping may change on a
    resume. It computes in float32 and returns float32 updates, whatever the dtypes of parameters
    and gradients. `init` takes plain parameters, or ones boxed with logical axes, and then boxes
    the moments likewise.

    Args:
      rule: such as `optax.scale_by_adam()`; its state has `count`, the first moment `mu`, and
        perhaps others.
      rate: the learning rate by step.
      weight_decay: see `weight_decay.decayed`.
      clip_norm: see `clipping`.
      moment_dtype: of `mu`.
    """
    clip, decay = clipping(clip_norm), optax.add_decayed_weights(weight_decay, mask=decayed)

    def init(params: Any) -> Any:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
        state = rule.init(zeros)
        return state._replace(mu=_cast(state.mu, moment_dtype))

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        grads, params = clip(_cast(grads, "float32")), _cast(params, "float32")
        # Optax multiplies a moment in its own dtype, which would round it twice a step.
        state = state._replace(mu=_cast(state.mu, "float32"))
        updates, after = rule.update(grads, state, params)
        updates, _ = decay.update(updates, decay.init(params), params)
        factor = -rate(state.count)
        updates = jax.tree.map(lambda x: factor * x, updates)
        return updates, after._replace(mu=_cast(after.mu, moment_dtype))

    return optax.GradientTransformation(init, update)


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), tree)
