"""The layers of T5 1.1 and of decoder-only models: dense, norm, embedding, positions, attention,
feed-forward.

Parameter names, shapes and initial distributions are those of T5X's example networks, so that their
checkpoints load; what other families change is a field that T5 leaves alone. Parameters are
float32; they are cast to the compute dtype where they are used. Shape letters: B batch, L, Q and K
lengths (Q of the queries, K of the keys), D model width, H heads, C head width, F feed-forward
width, V vocabulary; G is the number of heads of keys and values.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from flan_jax.models.cpu import sum_first

# Added where attention is masked. A row with no allowed key then attends evenly, as in T5X, instead
# of giving NaN.
MASKED_SCORE = -1e10

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

# The name of a kernel that stands turned, [F, D], beside the usual one: `decoding` puts it there
# for few rows.
TURNED = "turned"

attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Gives `x` with the sharding that the logical rules have for these activation axes (no-op
    without a mesh).
    """
    return nn.with_logical_constraint(x, tuple(name and f"activation_{name}" for name in names))


def dropout_factors(
    module: nn.Module, config, deterministic: bool, batch: int, shapes: Sequence[tuple[int, ...]]
) -> list:
    """Gives per shape a factor [B, *shape] in the compute dtype: 0 at the dropout rate, else 1 / (1
    - rate).

    All are 1.0 when `deterministic`. They are cut from one draw, because every draw costs compile
    time. Shapes have a 1 where T5 shares a mask: over the length of activations, and over the
    queries of attention weights.
    """
    rate = config.dropout_rate
    if deterministic or rate == 0.0:
        return [1.0] * len(shapes)
    sizes = [math.prod(shape) for shape in shapes]
    kept = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, (batch, sum(sizes)))
    factors = constrain(
        jnp.where(kept, 1.0 / (1.0 - rate), 0.0).astype(config.dtype), "batch", None
    )
    parts = jnp.split(factors, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(batch, *shape) for part, shape in zip(parts, shapes)]


def _dropped(x: jax.Array, factor) -> jax.Array:
    """Gives `x` times a factor of `dropout_factors`; without dropout `x` itself, so that no copy is
    kept for it.
    """
    return x if isinstance(factor, float) else x * factor


def layer_stack(layer_class, config, num_layers: int):
    """Gives one layer to scan over, or a list of layers; assigned to `layers` in `setup` both get
    T5X's names.
    """
    return (
        layer_class(config)
        if config.scan_layers
        else [layer_class(config) for _ in range(num_layers)]
    )


def run_layers(config, stack, num_layers: int, body, carry, scanned=None):
    """Runs `carry, out = body(layer, carry, scanned[i])` over the layers of a `layer_stack`.

    `scanned` is a tree of arrays with a leading axis N, or None; gives the last carry and the outs
    stacked likewise, or without `scan_layers` lists of N outs, and `scanned` may have lists of N
    arrays, too: they are taken apart for free.
    """
    if config.remat != "none":
        body = nn.remat(body, prevent_cse=not config.scan_layers, policy=REMATS[config.remat])
    if config.scan_layers:
        scan = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(stack, carry, scanned)
    outs = []
    for i, layer in enumerate(stack):
        own = jax.tree.map(lambda x, i=i: x[i], scanned, is_leaf=lambda x: isinstance(x, list))
        carry, out = body(layer, carry, own)
        outs.append(out)
    return carry, jax.tree.map(lambda *xs: list(xs), *outs)


def heads_first(keys_values):
    """Gives a tree of keys and values [..., slots, K, C] as a cache holds them: [..., K, slots,
    C].
    """
    return jax.tree.map(lambda of: jnp.swapaxes(of, -3, -2), keys_values)


def put_in_cache(cache, new, slot):
    """Gives a tree of keys and values [..., K, slots, C] with the `new` ones [..., K, 1, C] at
    `slot`.
    """
    return jax.tree.map(
        lambda old, one: jax.lax.dynamic_update_slice_in_dim(old, one, slot, old.ndim - 2),
        cache,
        new,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    """Gives [..., F] in `dtype` of [..., D] and [D, F].

    Over flat rows, because XLA on a CPU transposes the gradient of more axes before the kernel's
    gradient: with a vocabulary of 32,128 the three products took 1.6 times as long. For its
    gradient it keeps what it was given: maps of the same input share it, and no kernel is kept a
    second time in another dtype.
    """
    return (_flat(x, dtype) @ kernel.astype(dtype)).reshape(*x.shape[:-1], kernel.shape[-1])


def _flat(x: jax.Array, dtype: str) -> jax.Array:
    return x.astype(dtype).reshape(-1, x.shape[-1])


def _product_forward(x, kernel, dtype):
    return _product(x, kernel, dtype), (x, kernel)


def _product_backward(dtype, kept, grad):
    (x, kernel), grad = kept, _flat(grad, dtype)
    to_x = jax.lax.dot_general(grad, kernel.astype(dtype), (((1,), (1,)), ((), ())))
    to_kernel = jax.lax.dot_general(_flat(x, dtype), grad, (((0,), (0,)), ((), ())))
    return to_x.reshape(x.shape).astype(x.dtype), to_kernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def _turned_product(x: jax.Array, turned: jax.Array, dtype: str) -> jax.Array:
    """Gives [..., F] in `dtype` of a few rows [..., D] and a turned kernel [F, D].

    XLA's products on a CPU copy their right operand into an order of their own, which costs more
    than 16 rows are worth of multiplying: here the rows are on the right. The barrier keeps XLA
    from turning the product again.
    """
    product = jax.lax.dot_general(turned.astype(dtype), _flat(x, dtype), (((1,), (1,)), ((), ())))
    return jax.lax.optimization_barrier(product).T.reshape(*x.shape[:-1], turned.shape[0])


class Dense(nn.Module):
    """A linear map over the last axis, without bias as T5 has it: [..., D] -> [..., features] in
    `dtype`.
    """

    features: int
    axes: tuple[str, str]
    dtype: str
    init: Callable = dense_init
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.has_variable("params", TURNED):
            y = _turned_product(x, self.get_variable("params", TURNED), self.dtype)
        else:
            init = nn.with_logical_partitioning(self.init, self.axes)
            kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
            y = checkpoint_name(_product(x, kernel, self.dtype), "product")
        if self.use_bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:])
            y = y + self.param("bias", init, (self.features,), jnp.float32).astype(self.dtype)
        return y


# Computed again in the backward pass, as `_gated` below: on two cores a step of small T5 took 0.89
# of the CPU time and 0.7 of the memory that it took when the numbers in between were kept.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2, 3))
def _normed(x: jax.Array, scale: jax.Array, epsilon: float, dtype: str) -> jax.Array:
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
    return x.astype(dtype) * scale.astype(dtype)


class RMSNorm(nn.Module):
    """T5's layer norm: divides by the root mean square, no mean and no bias; computed in float32,
    given in `dtype`.

    Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """

    dtype: str
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        return _normed(x, scale, self.epsilon, self.dtype)


class Embedding(nn.Module):
    """The token table [V, D], shared by encoder and decoder."""

    vocab_size: int
    emb_dim: int
    dtype: str
    scale_logits: bool = True

    def setup(self):
        # Where logits are not scaled, the table is: fresh logits are of the same size.
        stddev = 1.0 if self.scale_logits else self.emb_dim**-0.5
        init = nn.with_logical_partitioning(
            nn.initializers.normal(stddev=stddev), ("vocab", "embed")
        )
        self.embedding = self.param("embedding", init, (self.vocab_size, self.emb_dim), jnp.float32)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Gives the vectors [B, L, D] of int32 tokens [B, L]."""
        # Its width is gathered first: XLA cannot look up well in a table that shares a mesh axis
        # with the batch. And looked up in float32: in bfloat16 the gradients of a frequent token
        # would be lost in their sum.
        table = constrain(self.embedding.astype(jnp.float32), "vocab", "embed")
        return constrain(
            jnp.take(table, tokens, axis=0).astype(self.dtype), "batch", "length", "embed"
        )

    def attend(self, x: jax.Array) -> jax.Array:
        """Gives float32 logits [B, L, V] through the table itself, scaled by 1/sqrt(D) as tied T5
        models have it.
        """
        if self.has_variable("params", TURNED):
            logits = _turned_product(x, self.embedding, "float32")
        else:
            logits = _product(x, self.embedding.T, "float32")
        return logits / np.sqrt(self.emb_dim) if self.scale_logits else logits


def relative_buckets(
    distances: np.ndarray, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Gives the int32 bucket of each distance (key position minus query position).

    Half of the buckets count single positions, the other half grow as the logarithm up to
    `max_distance`, beyond which all distances share the last one. In both directions each sign has
    its half of the buckets; causally, distances to the future count as 0. Raffel et al., Exploring
    the Limits of Transfer Learning, 2020, section 2.1.
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
    # float32 and the epsilon as in the reference: they decide the bucket of distances on a
    # boundary.
    log_ratio = np.log(back.astype(np.float32) / exact + np.finfo(np.float32).eps) / np.log(
        max_distance / exact
    )
    far = np.minimum(exact + (log_ratio * (num_buckets - exact)).astype(np.int32), num_buckets - 1)
    return (buckets + np.where(back < exact, back, far)).astype(np.int32)


class RelativePositionBias(nn.Module):
    """Learned attention bias per head and bucket of distance; one table serves all layers of a
    stack.
    """

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    def setup(self):
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        init = nn.with_logical_partitioning(init, ("heads", "relpos_buckets"))
        self.rel_embedding = self.param(
            "rel_embedding", init, (self.num_heads, self.num_buckets), jnp.float32
        )

    def _by_distance(self, num_keys: int) -> jax.Array:
        """Gives the bucket of each distance -(num_keys - 1) .. num_keys - 1."""
        distances = np.arange(-(num_keys - 1), num_keys)
        return jnp.asarray(
            relative_buckets(distances, self.bidirectional, self.num_buckets, self.max_distance)
        )

    def __call__(self, query_positions: jax.Array, num_keys: int) -> jax.Array:
        """Gives the float32 bias [1, H, Q, K] of queries at int positions [Q] (all < K) to the keys
        0..K-1.
        """
        index = jnp.arange(num_keys)[None, :] - query_positions[:, None] + (num_keys - 1)
        # A contraction, because the gradient of a gather is a slow scatter.
        one_hot = jax.nn.one_hot(
            self._by_distance(num_keys)[index], self.num_buckets, dtype=jnp.float32
        )
        return jnp.einsum("hn,qkn->hqk", self.rel_embedding, one_hot)[None]

    def between(self, query_positions: jax.Array, key_positions: jax.Array, most: int) -> jax.Array:
        """Gives the float32 bias [B, H, Q, K] between int positions [B, Q] and [B, K], all <
        `most`.

        For rows whose positions are not the places in the row; as large as the scores, and a
        gather: not to train with.
        """
        index = key_positions[:, None, :] - query_positions[:, :, None] + (most - 1)
        return jnp.moveaxis(
            jnp.take(self.rel_embedding, self._by_distance(most)[index], axis=1), 0, 1
        )


def rotary_angles(
    positions, head_dim: int, theta: float, scaling=None
) -> tuple[jax.Array, jax.Array]:
    """Gives the cosines and sines, float32 [B, L, C/2], by which `rotate` turns heads at int
    positions [B, L].

    Su et al., RoFormer, 2021. `scaling` is Llama 3.1's, which slows the turns that are slower than
    the original context by `factor`, leaves the fast ones and goes smoothly between: a dict with
    `factor`, `low_freq_factor`, `high_freq_factor` and `original_max_position_embeddings`. Or it is
    linear, with `rope_type` and `factor`, by which all turns are slowed (Chen et al., Extending
    Context Window of Large Language Models, 2023).
    """
    frequencies = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    if scaling is not None and "rope_type" in scaling:
        frequencies = frequencies / scaling["factor"]
    elif scaling is not None:
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        frequencies = frequencies * (kept + (1.0 - kept) / scaling["factor"])
    angles = positions[..., None].astype(jnp.float32) * frequencies.astype(np.float32)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Gives [B, L, H, C] with the halves of each head's width turned against each other, as Hugging
    Face pairs them.
    """
    cos, sin = (of[:, :, None, :] for of in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    ).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head attention; as T5 has it without biases and without 1/sqrt(C), which its initial
    query kernel holds.

    `num_kv_heads` (G) heads of keys and values serve H / G query heads each (Ainslie et al., GQA,
    2023); None: H. `scale_queries` divides scores by sqrt(C), `qkv_bias` adds biases to queries,
    keys and values.
    """

    num_heads: int
    head_dim: int
    emb_dim: int
    dtype: str
    num_kv_heads: int | None = None
    scale_queries: bool = False
    qkv_bias: bool = False

    def setup(self):
        def query_init(*args):
            return attention_init(*args) / np.sqrt(self.head_dim)

        def dense(heads, init):
            return Dense(
                heads * self.head_dim, ("embed", "joined_kv"), self.dtype, init, self.qkv_bias
            )

        kv_heads = self.num_kv_heads or self.num_heads
        self.query = dense(self.num_heads, attention_init if self.scale_queries else query_init)
        self.key = dense(kv_heads, attention_init)
        self.value = dense(kv_heads, attention_init)
        self.out = Dense(self.emb_dim, ("joined_kv", "embed"), self.dtype, attention_init)

    def _heads(self, x: jax.Array) -> jax.Array:
        return constrain(
            x.reshape(*x.shape[:-1], -1, self.head_dim), "batch", "length", "heads", None
        )

    def keys_values(self, x: jax.Array, angles=None) -> tuple[jax.Array, jax.Array]:
        """Gives keys and values, both [B, K, G, C], of [B, K, D]; `angles` of `rotary_angles` turn
        the keys.
        """
        keys = self._heads(self.key(x))
        return keys if angles is None else rotate(keys, angles), self._heads(self.value(x))

    def __call__(
        self, x, keys_values, mask, bias, dropout=1.0, angles=None, heads_first: bool = False
    ) -> jax.Array:
        """Gives [B, Q, D] for queries from x [B, Q, D].

        With `heads_first` keys and values are [B, G, K, C]: those that are read at every step are
        turned only once.

        `mask` is a bool that broadcasts to [B, H, Q, K], `bias` a float32 that does or None,
        `dropout` a factor [B, H, 1, K] on the weights; `angles` turn the queries. Scores and
        softmax are float32 whatever the compute dtype.
        """
        keys, values = keys_values
        query = self._heads(self.query(x))
        if angles is not None:
            query = rotate(query, angles)
        scores = _scores(query, keys, heads_first)
        if self.scale_queries:
            scores = scores / np.sqrt(self.head_dim)
        if bias is not None:
            scores = _biased(scores, bias) if bias.shape[0] == 1 else scores + bias
        weights = _dropped(_masked_softmax(scores, mask, self.dtype), dropout)
        mixed = _mix(weights, values, heads_first)
        return self.out(mixed.reshape(*mixed.shape[:-2], -1))


@jax.custom_vjp
def _biased(scores: jax.Array, bias: jax.Array) -> jax.Array:
    """Gives scores [B, H, Q, K] plus a bias [1, H, Q, K], whose gradient is summed by
    `sum_first`.
    """
    return scores + bias


_biased.defvjp(
    lambda scores, bias: (scores + bias, None), lambda _, grad: (grad, sum_first(grad)[None])
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _masked_softmax(scores: jax.Array, mask: jax.Array, dtype: str) -> jax.Array:
    """Gives, in `dtype`, the softmax over the last axis where the mask allows.

    Its gradient needs nothing but the result, which the product with the values keeps anyway: what
    XLA would keep otherwise is three times as much, and as large as the square of the length.
    """
    return jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE)).astype(dtype)


def _masked_softmax_forward(scores, mask, dtype):
    weights = _masked_softmax(scores, mask, dtype)
    return weights, (weights, mask)


def _masked_softmax_backward(dtype, kept, grad):
    weights, mask = kept
    weights, grad = weights.astype(jnp.float32), grad.astype(jnp.float32)
    grad = weights * (grad - jnp.sum(weights * grad, axis=-1, keepdims=True))
    return jnp.where(mask, grad, 0.0), None


_masked_softmax.defvjp(_masked_softmax_forward, _masked_softmax_backward)


def _scores(query: jax.Array, keys: jax.Array, heads_first: bool) -> jax.Array:
    """Gives float32 [B, H, Q, K] of [B, Q, H, C] and [B, K, G, C] or, with `heads_first`, [B, G, K,
    C].

    Head h reads the keys of h // (H / G).
    """
    axes, kv_heads = ("bgkc", keys.shape[1]) if heads_first else ("bkgc", keys.shape[2])
    batch, queries, heads, width = query.shape
    if heads == kv_heads:
        return jnp.einsum(f"bqgc,{axes}->bgqk", query, keys, preferred_element_type=jnp.float32)
    query = query.reshape(batch, queries, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum(f"bqgrc,{axes}->bgrqk", query, keys, preferred_element_type=jnp.float32)
    return scores.reshape(batch, heads, queries, -1)


def _mix(weights: jax.Array, values: jax.Array, heads_first: bool) -> jax.Array:
    """Gives [B, Q, H, C]: values as the keys of `_scores` mixed by weights [B, H, Q, K]."""
    axes, kv_heads = ("bgkc", values.shape[1]) if heads_first else ("bkgc", values.shape[2])
    batch, heads, queries, num_keys = weights.shape
    if heads == kv_heads:
        return jnp.einsum(f"bgqk,{axes}->bqgc", weights, values)
    weights = weights.reshape(batch, kv_heads, heads // kv_heads, queries, num_keys)
    return jnp.einsum(f"bgrqk,{axes}->bqgrc", weights, values).reshape(batch, queries, heads, -1)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
def _gated(gates: list[jax.Array], activations: tuple[str, ...]) -> jax.Array:
    return functools.reduce(
        operator.mul, [ACTIVATIONS[name](gate) for name, gate in zip(activations, gates)]
    )


class FeedForward(nn.Module):
    """The product of one dense map per activation, then a map back: ('gelu', 'linear') is T5 1.1's
    gated GELU.

    Shazeer, GLU Variants Improve Transformer, 2020.
    """

    mlp_dim: int
    activations: tuple[str, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, dropout=1.0) -> jax.Array:
        """Gives [B, L, D] of [B, L, D] through a hidden [B, L, F]; `dropout` is a factor [B, 1, F]
        on the hidden.
        """
        names = (
            ["wi"]
            if len(self.activations) == 1
            else [f"wi_{i}" for i in range(len(self.activations))]
        )
        gates = [Dense(self.mlp_dim, ("embed", "mlp"), self.dtype, name=name)(x) for name in names]
        hidden = _dropped(_gated(gates, self.activations), dropout)
        hidden = constrain(hidden, "batch", "length", "mlp")
        return Dense(x.shape[-1], ("mlp", "embed"), self.dtype, name="wo")(hidden)
