"""Multi-head attention with grouped keys and values, and its softmax.

Shape letters: B batch, L length of the queries, S length of the keys (or slots of a cache), D model
width, H heads, K heads of keys and values, C head width.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Float32, Integer

from flan_jax.models import cpu
from flan_jax.models.array_types import Array
from flan_jax.models.fused_attention import fused_attention
from flan_jax.models.layers import Dense, RMSNorm, apply_dropout, constrain, soft_capped
from flan_jax.models.positions import Angles, rotate

# Added where attention is masked. A row with no allowed key then attends evenly, as in T5X, instead
# of giving NaN.
MASKED_SCORE = -1e10

_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Attention(nn.Module):
    """Multi-head attention; as T5 has it without biases and without 1/sqrt(C).

    T5's initial query kernel contains that factor. `num_kv_heads` (K) heads of keys and values
    serve H / K query heads each (Ainslie et al., GQA, 2023); None: H. Scores are divided by the
    root of `query_scalar` where it is given, and capped by `softcap`; `qkv_bias` adds biases to
    queries, keys and values. `qk_norm` is an RMSNorm of queries and keys, 'head' of each head or
    'all' over all together (Dehghani et al., Scaling Vision Transformers to 22 Billion Parameters,
    2023).
    """

    num_heads: int
    head_dim: int
    emb_dim: int
    dtype: str
    num_kv_heads: int | None = None
    query_scalar: float | None = None
    qkv_bias: bool = False
    qk_norm: str = "none"
    norm_epsilon: float = 1e-6
    norm_offset: bool = False
    softcap: float | None = None

    def setup(self) -> None:
        """Makes the four maps."""

        def query_init(*args: Any) -> Array:
            return _init(*args) / np.sqrt(self.head_dim)

        def dense(heads: int, init: Callable) -> Dense:
            axes = ("embed", "joined_kv")
            return Dense(heads * self.head_dim, axes, self.dtype, init, self.qkv_bias)

        kv_heads = self.num_kv_heads or self.num_heads
        self.query = dense(self.num_heads, query_init if self.query_scalar is None else _init)
        self.key = dense(kv_heads, _init)
        self.value = dense(kv_heads, _init)
        self.out = Dense(self.emb_dim, ("joined_kv", "embed"), self.dtype, _init)
        if self.qk_norm != "none":
            axis = None if self.qk_norm == "head" else "joined_kv"
            norm = functools.partial(RMSNorm, self.dtype, self.norm_epsilon, self.norm_offset, axis)
            self.query_norm, self.key_norm = norm(), norm()

    def _normed_heads(self, x: Array, norm: str) -> Float[Array, "B L heads C"]:
        """The heads of queries or keys [B, L, heads * C], normed by the sub-layer of that name."""
        if self.qk_norm == "all":
            x = getattr(self, norm)(x)
        heads = self._heads(x)
        return getattr(self, norm)(heads) if self.qk_norm == "head" else heads

    def _heads(self, x: Float[Array, "B L joined"]) -> Float[Array, "B L heads C"]:
        heads = x.reshape(*x.shape[:-1], -1, self.head_dim)
        return constrain(heads, "batch", "length", "heads", None)

    def keys_values(
        self, x: Float[Array, "B S D"], angles: Angles | None = None
    ) -> tuple[Float[Array, "B S K C"], Float[Array, "B S K C"]]:
        """Returns keys, rotated by `angles` where given, and values of [B, S, D]."""
        keys = self._normed_heads(self.key(x), "key_norm")
        return keys if angles is None else rotate(keys, angles), self._heads(self.value(x))

    def __call__(
        self,
        x: Float[Array, "B L D"],
        keys_values: tuple[Float[Array, "B _ _ C"], Float[Array, "B _ _ C"]],
        mask: Bool[Array, "..."],
        bias: Float[Array, "#B #H L S"] | None,
        dropout: Float[Array, "B H 1 S"] | float = 1.0,
        angles: Angles | None = None,
        heads_first: bool = False,
    ) -> Float[Array, "B L D"]:
        """Returns [B, L, D]; scores and softmax are float32 whatever the compute dtype.

        Args:
          x: queries are made of it.
          keys_values: [B, S, K, C] each, or with `heads_first` [B, K, S, C], as in a cache.
          mask: what may be attended to; broadcasts to [B, H, L, S].
          bias: float32, added to the scores.
          dropout: a factor on the weights.
          angles: rotate the queries.
          heads_first: see `keys_values`.
        """
        keys, values = keys_values
        scores = _scores(self._queries(x, angles), keys, heads_first)
        if self.query_scalar is not None:
            scores = scores / np.sqrt(self.query_scalar)
        if self.softcap is not None:
            scores = soft_capped(scores, self.softcap)
        if bias is not None:
            scores = cpu.add_bias(scores, bias) if bias.shape[0] == 1 else scores + bias
        weights = apply_dropout(_masked_softmax(scores, mask, self.dtype), dropout)
        mixed = _mix(weights, values, heads_first)
        return self.out(mixed.reshape(*mixed.shape[:-2], -1))

    def fused(
        self,
        x: Float[Array, "B L D"],
        keys_values: tuple[Float[Array, "B L K C"], Float[Array, "B L K C"]],
        segment_ids: Integer[Array, "B L"],
        windows: Sequence[int | None],
        kind: Any,
        angles: Angles,
    ) -> Float[Array, "B L D"]:
        """Returns [B, L, D] as a call does, of what precedes in the segment, and keeps no scores.

        Args:
          x: queries are made of it.
          keys_values: of the same rows.
          segment_ids: of packed rows; what it returns for padding has no meaning.
          windows: for each kind of layer how many keys a query sees; None: all before.
          kind: the index in `windows`, a number or traced; None: 0.
          angles: rotate the queries.
        """
        if self.query_scalar is not None:
            # With the rotation, in float32: queries of bfloat16 are rounded once, as without.
            angles = jax.tree.map(lambda part: part / np.sqrt(self.query_scalar), angles)
        query = self._queries(x, angles)
        kernels = [
            functools.partial(fused_attention, window=window, softcap=self.softcap)
            for window in windows
        ]
        arrays = (query, *keys_values, jnp.asarray(segment_ids))
        if kind is None or isinstance(kind, int):
            mixed = kernels[kind or 0](*arrays)
        else:
            mixed = jax.lax.switch(kind, kernels, *arrays)
        return self.out(mixed.reshape(*mixed.shape[:-2], -1))

    def _queries(self, x: Array, angles: Angles | None) -> Float[Array, "B L H C"]:
        query = self._normed_heads(self.query(x), "query_norm")
        return query if angles is None else rotate(query, angles)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _masked_softmax(
    scores: Float32[Array, "B H L S"], mask: Bool[Array, "..."], dtype: str
) -> Float[Array, "B H L S"]:
    """Returns, in `dtype`, the softmax over the last axis where the mask allows.

    Its gradient needs only the result, which the product with the values keeps anyway: what XLA
    would keep otherwise is three times as much, and as large as the square of the length.
    """
    return jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE)).astype(dtype)


def _masked_softmax_forward(scores: Any, mask: Any, dtype: str) -> tuple:
    weights = _masked_softmax(scores, mask, dtype)
    return weights, (weights, mask)


def _masked_softmax_backward(dtype: str, kept: tuple, grad: Any) -> tuple:
    weights, mask = kept
    weights, grad = weights.astype(jnp.float32), grad.astype(jnp.float32)
    grad = weights * (grad - jnp.sum(weights * grad, axis=-1, keepdims=True))
    return jnp.where(mask, grad, 0.0), None


_masked_softmax.defvjp(_masked_softmax_forward, _masked_softmax_backward)


def _scores(
    query: Float[Array, "B L H C"], keys: Float[Array, "B _ _ C"], heads_first: bool
) -> Float32[Array, "B H L S"]:
    """Returns the products of queries with keys [B, S, K, C] or, with `heads_first`, [B, K, S, C].

    Head h reads the keys of h // (H / K).
    """
    axes, kv_heads = ("bgkc", keys.shape[1]) if heads_first else ("bkgc", keys.shape[2])
    batch, queries, heads, width = query.shape
    if heads == kv_heads:
        return jnp.einsum(f"bqgc,{axes}->bgqk", query, keys, preferred_element_type=jnp.float32)
    query = query.reshape(batch, queries, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum(f"bqgrc,{axes}->bgrqk", query, keys, preferred_element_type=jnp.float32)
    return scores.reshape(batch, heads, queries, -1)


def _mix(
    weights: Float[Array, "B H L S"], values: Float[Array, "B _ _ C"], heads_first: bool
) -> Float[Array, "B L H C"]:
    """Returns the values, laid out as the keys of `_scores`, mixed by the weights."""
    axes, kv_heads = ("bgkc", values.shape[1]) if heads_first else ("bkgc", values.shape[2])
    batch, heads, queries, num_keys = weights.shape
    if heads == kv_heads:
        return jnp.einsum(f"bgqk,{axes}->bqgc", weights, values)
    weights = weights.reshape(batch, kv_heads, heads // kv_heads, queries, num_keys)
    return jnp.einsum(f"bgrqk,{axes}->bqgrc", weights, values).reshape(batch, queries, heads, -1)
