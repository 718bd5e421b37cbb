"""The layers of T5 1.1: dense, norm, embedding, relative position bias, attention, feed-forward.

Parameter names, shapes and initial distributions are those of T5X's `t5` example network, so that its checkpoints
load. Parameters are float32; they are cast to the compute dtype where they are used. Shape letters: B batch, L, Q and
K lengths (Q of the queries, K of the keys), D model width, H heads, C head width, F feed-forward width, V vocabulary.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# Added where attention is masked. A row with no allowed key then attends evenly, as in T5X, instead of giving NaN.
MASKED_SCORE = -1e10

ACTIVATIONS = {"gelu": functools.partial(nn.gelu, approximate=True), "linear": lambda x: x, "relu": nn.relu}

attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Gives `x` with the sharding that the logical rules have for these activation axes (no-op without a mesh)."""
    return nn.with_logical_constraint(x, tuple(name and f"activation_{name}" for name in names))


def dropout_factors(
    module: nn.Module, config, deterministic: bool, batch: int, shapes: Sequence[tuple[int, ...]]
) -> list:
    """Gives per shape a factor [B, *shape] in the compute dtype: 0 at the dropout rate, else 1 / (1 - rate).

    All are 1.0 when `deterministic`. They are cut from one draw, because every draw costs compile time. Shapes have a 1
    where T5 shares a mask: over the length of activations, and over the queries of attention weights.
    """
    rate = config.dropout_rate
    if deterministic or rate == 0.0:
        return [1.0] * len(shapes)
    sizes = [math.prod(shape) for shape in shapes]
    kept = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, (batch, sum(sizes)))
    factors = constrain(jnp.where(kept, 1.0 / (1.0 - rate), 0.0).astype(config.dtype), "batch", None)
    parts = jnp.split(factors, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(batch, *shape) for part, shape in zip(parts, shapes)]


class Dense(nn.Module):
    """A linear map without bias over the last axis: [..., D] -> [..., features] in `dtype`."""

    features: int
    axes: tuple[str, str]
    dtype: str
    init: Callable = dense_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(self.init, self.axes)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        return jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))


class RMSNorm(nn.Module):
    """T5's layer norm: divides by the root mean square, no mean and no bias; computed in float32, given in `dtype`.

    Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return x.astype(self.dtype) * scale.astype(self.dtype)


class Embedding(nn.Module):
    """The token table [V, D], shared by encoder and decoder."""

    vocab_size: int
    emb_dim: int
    dtype: str

    def setup(self):
        init = nn.with_logical_partitioning(nn.initializers.normal(stddev=1.0), ("vocab", "embed"))
        self.embedding = self.param("embedding", init, (self.vocab_size, self.emb_dim), jnp.float32)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Gives the vectors [B, L, D] of int32 tokens [B, L]."""
        # Its width is gathered first: XLA cannot look up well in a table that shares a mesh axis with the batch.
        table = constrain(self.embedding.astype(self.dtype), "vocab", "embed")
        return constrain(jnp.take(table, tokens, axis=0), "batch", "length", "embed")

    def attend(self, x: jax.Array) -> jax.Array:
        """Gives float32 logits [B, L, V] through the table itself, scaled by 1/sqrt(D) as tied T5 models have it."""
        return jnp.dot(x.astype(jnp.float32), self.embedding.T) / np.sqrt(self.emb_dim)


def relative_buckets(distances: np.ndarray, bidirectional: bool, num_buckets: int, max_distance: int) -> np.ndarray:
    """Gives the int32 bucket of each distance (key position minus query position).

    Half of the buckets count single positions, the other half grow as the logarithm up to `max_distance`, beyond which
    all distances share the last one. In both directions each sign has its half of the buckets; causally, distances to
    the future count as 0. Raffel et al., Exploring the Limits of Transfer Learning, 2020, section 2.1.
    """
    buckets = np.zeros_like(distances)
    back = -distances
    if bidirectional:
        num_buckets //= 2
        buckets += (back < 0) * num_buckets
        back = np.abs(back)
    else:
        back = np.maximum(back, 0)
    exact = num_buckets // 2
    # float32 and the epsilon as in the reference: they decide the bucket of distances on a boundary.
    log_ratio = np.log(back.astype(np.float32) / exact + np.finfo(np.float32).eps) / np.log(max_distance / exact)
    far = np.minimum(exact + (log_ratio * (num_buckets - exact)).astype(np.int32), num_buckets - 1)
    return (buckets + np.where(back < exact, back, far)).astype(np.int32)


class RelativePositionBias(nn.Module):
    """Learned attention bias per head and bucket of distance; one table serves all layers of a stack."""

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    @nn.compact
    def __call__(self, query_positions: jax.Array, num_keys: int) -> jax.Array:
        """Gives the float32 bias [1, H, Q, K] of queries at int positions [Q] (all < K) to the keys 0..K-1."""
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        init = nn.with_logical_partitioning(init, ("heads", "relpos_buckets"))
        table = self.param("rel_embedding", init, (self.num_heads, self.num_buckets), jnp.float32)
        distances = np.arange(-(num_keys - 1), num_keys)
        by_distance = relative_buckets(distances, self.bidirectional, self.num_buckets, self.max_distance)
        index = jnp.arange(num_keys)[None, :] - query_positions[:, None] + (num_keys - 1)
        buckets = jnp.asarray(by_distance)[index]
        # A contraction, because the gradient of a gather is a slow scatter.
        one_hot = jax.nn.one_hot(buckets, self.num_buckets, dtype=jnp.float32)
        return jnp.einsum("hn,qkn->hqk", table, one_hot)[None]


class Attention(nn.Module):
    """Multi-head attention without bias terms and without 1/sqrt(C): T5 folds that into the query's initial values."""

    num_heads: int
    head_dim: int
    emb_dim: int
    dtype: str

    def setup(self):
        def query_init(*args):
            return attention_init(*args) / np.sqrt(self.head_dim)

        joined = self.num_heads * self.head_dim
        self.query = Dense(joined, ("embed", "joined_kv"), self.dtype, query_init)
        self.key = Dense(joined, ("embed", "joined_kv"), self.dtype, attention_init)
        self.value = Dense(joined, ("embed", "joined_kv"), self.dtype, attention_init)
        self.out = Dense(self.emb_dim, ("joined_kv", "embed"), self.dtype, attention_init)

    def _heads(self, x: jax.Array) -> jax.Array:
        return constrain(x.reshape(*x.shape[:-1], self.num_heads, self.head_dim), "batch", "length", "heads", None)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Gives keys and values, both [B, K, H, C], of [B, K, D]."""
        return self._heads(self.key(x)), self._heads(self.value(x))

    def __call__(self, x, keys_values, mask, bias, dropout=1.0) -> jax.Array:
        """Gives [B, Q, D] for queries from x [B, Q, D].

        `mask` is a bool that broadcasts to [B, H, Q, K], `bias` a float32 [1, H, Q, K] or None, `dropout` a factor
        [B, H, 1, K] on the weights. Scores and softmax are float32 whatever the compute dtype.
        """
        keys, values = keys_values
        query = self._heads(self.query(x))
        scores = jnp.einsum("bqhc,bkhc->bhqk", query, keys, preferred_element_type=jnp.float32)
        if bias is not None:
            scores = scores + bias
        weights = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE)).astype(self.dtype)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights * dropout, values)
        return self.out(mixed.reshape(*mixed.shape[:-2], -1))


class FeedForward(nn.Module):
    """The product of one dense map per activation, then a map back: ('gelu', 'linear') is T5 1.1's gated GELU.

    Shazeer, GLU Variants Improve Transformer, 2020.
    """

    mlp_dim: int
    activations: tuple[str, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, dropout=1.0) -> jax.Array:
        """Gives [B, L, D] of [B, L, D] through a hidden [B, L, F]; `dropout` is a factor [B, 1, F] on the hidden."""
        names = ["wi"] if len(self.activations) == 1 else [f"wi_{i}" for i in range(len(self.activations))]
        gates = [
            ACTIVATIONS[activation](Dense(self.mlp_dim, ("embed", "mlp"), self.dtype, name=name)(x))
            for name, activation in zip(names, self.activations)
        ]
        hidden = functools.reduce(operator.mul, gates) * dropout
        hidden = constrain(hidden, "batch", "length", "mlp")
        return Dense(x.shape[-1], ("mlp", "embed"), self.dtype, name="wo")(hidden)
