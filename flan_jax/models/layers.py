"""Layers that T5 1.1 and decoder-only models share: dense, norm, embedding, feed-forward, dropout.

Parameter names, shapes and initial distributions are those of T5X's example networks, so that their
checkpoints load; what other families change is a field that T5 leaves alone. Parameters are
float32; they are cast to the compute dtype where they are used. Shape letters: B batch, L length,
D model width, F feed-forward width, V vocabulary.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Integer, Shaped

from flan_jax.models import adapters, cpu
from flan_jax.models.array_types import Array

ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=True),
    "linear": lambda x: x,
    "relu": nn.relu,
    "silu": nn.silu,
}

# What the backward pass keeps of a layer; the rest is computed again.
REMATS = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names("product"),
}

dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def constrain(x: Shaped[Array, "..."], *names: str | None) -> Shaped[Array, "..."]:
    """Returns `x` with the sharding that the logical rules have for these activation axes.

    Without a mesh it returns `x` as it is.
    """
    return nn.with_logical_constraint(x, tuple(name and f"activation_{name}" for name in names))


def dropout_factors(
    module: nn.Module,
    config: Any,
    deterministic: bool,
    batch: int,
    shapes: Sequence[tuple[int, ...]],
    of_layer: bool = False,
) -> list[Float[Array, "B ..."] | float]:
    """Returns for each shape a factor [B, *shape] in the compute dtype.

    It is 0 at the dropout rate, else 1 / (1 - rate); without dropout (`deterministic`, or a rate of
    0) it is the number 1.0. All are cut from one draw, because every draw costs compile time.
    Shapes have a 1 where T5 shares a mask: over the length of activations, and over the queries of
    attention weights.

    A layer (`of_layer`) that is scanned takes the second key of its scope: masks of a seed stay
    those of the time when each layer was traced twice (`run_layers`).
    """
    rate = config.dropout_rate
    if deterministic or rate == 0.0:
        return [1.0] * len(shapes)
    sizes = [math.prod(shape) for shape in shapes]
    key = module.make_rng("dropout")
    if of_layer and config.scan_layers:
        key = module.make_rng("dropout")
    kept = jax.random.bernoulli(key, 1.0 - rate, (batch, sum(sizes)))
    factors = jnp.where(kept, 1.0 / (1.0 - rate), 0.0).astype(config.dtype)
    factors = constrain(factors, "batch", None)
    parts = jnp.split(factors, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(batch, *shape) for part, shape in zip(parts, shapes)]


def apply_dropout(
    x: Float[Array, "..."], factor: Float[Array, "..."] | float
) -> Float[Array, "..."]:
    """Returns `x` times a factor of `dropout_factors`; without dropout `x`, not a copy."""
    return x if isinstance(factor, float) else x * factor


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(
    x: Float[Array, "... D"], kernel: Float[Array, "D F"], dtype: str
) -> Float[Array, "... F"]:
    """Returns the product in `dtype`.

    It multiplies flat rows, because XLA on a CPU transposes the gradient of more axes before the
    kernel's gradient: with a vocabulary of 32,128 the three products took 1.6 times as long. For
    its gradient it keeps its arguments: maps of the same input share it, and no kernel is kept a
    second time in another dtype.
    """
    return (_flat(x, dtype) @ kernel.astype(dtype)).reshape(*x.shape[:-1], kernel.shape[-1])


def _flat(x: Float[Array, "... D"], dtype: str) -> Float[Array, "rows D"]:
    return x.astype(dtype).reshape(-1, x.shape[-1])


def _product_forward(x: Any, kernel: Any, dtype: str) -> tuple:
    return _product(x, kernel, dtype), (x, kernel)


def _product_backward(dtype: str, kept: tuple, grad: Any) -> tuple:
    (x, kernel), grad = kept, _flat(grad, dtype)
    to_x = jax.lax.dot_general(grad, kernel.astype(dtype), (((1,), (1,)), ((), ())))
    to_kernel = cpu.kernel_gradient(_flat(x, dtype), grad)
    return to_x.reshape(x.shape).astype(x.dtype), to_kernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
    """A linear map over the last axis, as T5 has it without bias: [..., D] -> [..., features].

    Attributes:
      features: the width of the result, F.
      axes: the logical axes of the kernel [D, F].
      dtype: the dtype of the product and of the result.
      init: the initial distribution of the kernel.
      use_bias: adds a bias [F].
    """

    features: int
    axes: tuple[str, str]
    dtype: str
    init: Callable = dense_init
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """Returns [..., F] of [..., D], with the adapters that are among the parameters."""
        x = adapters.scaled_by(x, adapters.added(self, adapters.SCALE_IN))
        if self.has_variable("params", cpu.TRANSPOSED):
            kernel = self.get_variable("params", cpu.TRANSPOSED)
            y = self._with_lora(x, cpu.transposed_product(x, kernel, self.dtype))
        else:
            init = nn.with_logical_partitioning(self.init, self.axes)
            kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
            y = checkpoint_name(self._with_lora(x, _product(x, kernel, self.dtype)), "product")
        if self.use_bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:])
            y = y + self.param("bias", init, (self.features,), jnp.float32).astype(self.dtype)
        return adapters.scaled_by(y, adapters.added(self, adapters.SCALE_OUT))

    def _with_lora(self, x: Float[Array, "... D"], y: Float[Array, "... F"]) -> Any:
        """Returns y plus the low-rank product of x, if there is one. Hu et al., LoRA, 2021."""
        a = adapters.added(self, adapters.LORA_A)
        if a is None:
            return y
        b = adapters.added(self, adapters.LORA_B)
        return y + _product(_product(x, a, self.dtype), b, self.dtype)


# Computed again in the backward pass, as `_gated` below: on two cores a step of small T5 took 0.89
# of the CPU time and 0.7 of the memory that it took when the numbers in between were kept.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2, 3, 4))
def _normed(
    x: Float[Array, "... D"],
    scale: Float[Array, " D"],
    epsilon: float,
    dtype: str,
    has_offset: bool = False,
) -> Float[Array, "... D"]:
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
    if has_offset:  # in float32, as Gemma has it
        return (x * (1.0 + scale.astype(jnp.float32))).astype(dtype)
    return x.astype(dtype) * scale.astype(dtype)


class RMSNorm(nn.Module):
    """T5's layer norm: divides by the root mean square, without mean or bias.

    It computes in float32 and returns `dtype`. With `has_offset` it multiplies by 1 + scale, as
    Gemma does. `axis` is the logical axis of the scale. Zhang and Sennrich, Root Mean Square Layer
    Normalization, 2019.
    """

    dtype: str
    epsilon: float = 1e-6
    has_offset: bool = False
    axis: str | None = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Returns the normed [..., D]."""
        init = nn.initializers.zeros if self.has_offset else nn.initializers.ones
        init = nn.with_logical_partitioning(init, (self.axis,))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        return _normed(x, scale, self.epsilon, self.dtype, self.has_offset)


def soft_capped(x: Float[Array, "..."], cap: float) -> Float[Array, "..."]:
    """Returns cap tanh(x / cap), which stays between -cap and cap. Gemma Team, Gemma 2, 2024."""
    return cap * jnp.tanh(x / cap)


class Embedding(nn.Module):
    """The token table [V, D], shared by encoder and decoder."""

    vocab_size: int
    emb_dim: int
    dtype: str
    scale_logits: bool = True

    def setup(self) -> None:
        """Makes the table."""
        # Where logits are not scaled, the table is: fresh logits are of the same size.
        stddev = 1.0 if self.scale_logits else self.emb_dim**-0.5
        init = nn.initializers.normal(stddev=stddev)
        init = nn.with_logical_partitioning(init, ("vocab", "embed"))
        self.embedding = self.param("embedding", init, (self.vocab_size, self.emb_dim), jnp.float32)

    def __call__(self, tokens: Integer[Array, "B L"]) -> Float[Array, "B L D"]:
        """Returns the vectors of int32 tokens, in the compute dtype.

        Ids from V on are those of a prompt, if one is among the parameters.
        """
        # Its width is gathered first: XLA cannot look up well in a table that shares a mesh axis
        # with the batch. And looked up in float32: in bfloat16 the gradients of a frequent token
        # would be lost in their sum.
        table = constrain(self.embedding.astype(jnp.float32), "vocab", "embed")
        prompt = adapters.added(self, adapters.PROMPT)
        if prompt is None:
            vectors = jnp.take(table, tokens, axis=0)
        else:
            vectors = adapters.looked_up(table, constrain(prompt, None, "embed"), tokens)
        return constrain(vectors.astype(self.dtype), "batch", "length", "embed")

    def attend(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Returns float32 logits through the table, scaled by 1/sqrt(D) as tied T5 models do."""
        if self.has_variable("params", cpu.TRANSPOSED):
            logits = cpu.transposed_product(x, self.embedding, "float32")
        else:
            logits = _product(x, self.embedding.T, "float32")
        return logits / np.sqrt(self.emb_dim) if self.scale_logits else logits


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
def _gated(gates: list, activations: tuple[str, ...]) -> Float[Array, "B L F"]:
    activated = [ACTIVATIONS[name](gate) for name, gate in zip(activations, gates)]
    return functools.reduce(operator.mul, activated)


class FeedForward(nn.Module):
    """The product of one dense map for each activation, then a map back.

    ('gelu', 'linear') is T5 1.1's gated GELU. Shazeer, GLU Variants Improve Transformer, 2020.
    """

    mlp_dim: int
    activations: tuple[str, ...]
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], dropout: Float[Array, "B 1 F"] | float = 1.0
    ) -> Float[Array, "B L D"]:
        """Returns [B, L, D], through a hidden [B, L, F] times `dropout`."""
        count = len(self.activations)
        names = ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]
        gates = [Dense(self.mlp_dim, ("embed", "mlp"), self.dtype, name=name)(x) for name in names]

        # The hidden activations, which the gradient of `wo` reads, are not kept: they are made of
        # the gates again. That took 50 of 815 MB of a step of T5 small, and no time was measured.
        def product_of_hidden(module: nn.Module, gates: list) -> Float[Array, "B L D"]:
            hidden = apply_dropout(_gated(gates, module.activations), dropout)
            hidden = constrain(hidden, "batch", "length", "mlp")
            return Dense(x.shape[-1], ("mlp", "embed"), module.dtype, name="wo")(hidden)

        y = nn.remat(product_of_hidden, prevent_cse=False)(self, gates)
        return checkpoint_name(y, "product")  # where REMATS looks for it
