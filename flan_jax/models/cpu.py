"""What only a CPU gains from: other ways to compute the same, where XLA's own are slow there.

On another device each function here does the plain thing, or is not called.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer, Num

from flan_jax.models import stacking
from flan_jax.models.array_types import Array

# The name of a transposed kernel, [F, D], beside the usual one; `layers.Dense` looks for it.
TRANSPOSED = "transposed"
# From this many numbers in a row on, a product with ones is faster than a reduction: for
# 512 x 32,128 float32 it took two cores 6 ms, and XLA's sum 34.
_WIDE_ROW = 16384
# The most rows of a decoding step, and the least height and width of a kernel, for which a
# transposed kernel is faster.
FEW_ROWS = 32
_LEAST_TRANSPOSED = 256
# From which multiple of the width on a result is wide for `kernel_gradient`.
_LEAST_WIDENING = 2


def sum_first(x: Num[Array, "N ..."]) -> Num[Array, "..."]:
    """Returns the sum over the first axis of x, in its dtype."""
    if x[0].size < _WIDE_ROW:
        return x.sum(axis=0)
    return jax.lax.platform_dependent(x, cpu=_sum_by_product, default=lambda x: x.sum(axis=0))


def _sum_by_product(x: Num[Array, "N ..."]) -> Num[Array, "..."]:
    ones = jnp.ones(x.shape[0], x.dtype)
    return jnp.einsum("i,i...->...", ones, x, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def add_bias(
    scores: Float[Array, "B H L S"], bias: Float[Array, "1 H L S"]
) -> Float[Array, "B H L S"]:
    """Returns scores plus a bias that all rows share, whose gradient is summed by `sum_first`."""
    return scores + bias


def _add_bias_forward(scores: Any, bias: Any) -> tuple:
    return scores + bias, None


def _add_bias_backward(_: None, grad: Any) -> tuple:
    return grad, sum_first(grad)[None]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def kernel_gradient(x: Float[Array, "N D"], grad: Float[Array, "N F"]) -> Float[Array, "D F"]:
    """Returns the product of x transposed with the gradient of a product, in their dtype.

    XLA's product of columns with columns is slow on a CPU for a wide result: with x transposed
    before, products of 512 rows from 512 to 1,024 took 0.62 of the time, of 768 rows from 576 to
    1,536 0.79 and to 49,152 0.45; to narrower results 1.1 to 1.3, and those are left.
    """
    if grad.shape[1] < _LEAST_WIDENING * x.shape[1]:
        return _columns_product(x, grad)
    return jax.lax.platform_dependent(x, grad, cpu=_transposed_first, default=_columns_product)


def _columns_product(x: Any, grad: Any) -> Any:
    return jax.lax.dot_general(x, grad, (((0,), (0,)), ((), ())))


def _transposed_first(x: Any, grad: Any) -> Any:
    return jax.lax.optimization_barrier(x.T) @ grad


def first_argmax(logits: Float[Array, "B V"]) -> Integer[Array, " B"]:
    """Returns int32 [B], the first of the largest logits.

    It is what `argmax` returns, which on a CPU is as slow as making the logits.
    """
    places = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    is_largest = logits == logits.max(axis=-1, keepdims=True)
    return jnp.where(is_largest, places, places[-1]).min(axis=-1)


def transposed_product(
    x: Float[Array, "... D"], transposed: Float[Array, "F D"], dtype: str
) -> Float[Array, "... F"]:
    """Returns the product of few rows with a transposed kernel, in `dtype`.

    XLA's products on a CPU copy their right operand into an order of their own, which costs more
    than 16 rows are worth of multiplying: here the rows are on the right. The barrier keeps XLA
    from transposing the product again.
    """
    rows = x.astype(dtype).reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(transposed.astype(dtype), rows, (((1,), (1,)), ((), ())))
    return jax.lax.optimization_barrier(product).T.reshape(*x.shape[:-1], transposed.shape[0])


def with_transposed_kernels(params: Any) -> Any:
    """Returns parameters that have each large kernel [D, F] transposed, as [F, D], too.

    They are transposed once, while the input is read, for all steps: with 16 rows small T5 took
    32 ms a step, and takes 24. An accelerator has no memory to spare for the copy.
    """
    if not isinstance(params, Mapping):
        return params
    result = {name: with_transposed_kernels(child) for name, child in params.items()}
    if "kernel" in params and min(params["kernel"].shape) >= _LEAST_TRANSPOSED:
        result[TRANSPOSED] = params["kernel"].T
    # The table of an embedding, [V, D], is the transposed kernel of the tied logits.
    if "embedding" in params and min(params["embedding"].shape) >= _LEAST_TRANSPOSED:
        result[TRANSPOSED] = params["embedding"]
    return result


def unstack_layers(model: Any, params: Any) -> tuple[Any, Any]:
    """Returns the model without `scan_layers`, and its parameters copied out of the stacks.

    On a CPU a scan copies every layer's parameters, keys and values out of the stacked arrays at
    each step: small T5 took 30 ms a step with 16 rows, and takes 22 without. The copy is made once.
    An accelerator has no memory to spare for it.
    """
    config = dataclasses.replace(model.config, scan_layers=False, remat="none")
    return type(model)(config), stacking.unstack(params)
