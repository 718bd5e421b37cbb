"""A decoder-only Transformer, for several families: LaMDA, Llama, Qwen2.

LaMDA-like: gated GELU, T5's relative position bias, tied logits; its parameter tree is that of
T5X's `decoder_only` example. Llama-like: rotary positions, SwiGLU, grouped heads. Inputs and
targets share a row, several examples packed as segments; padding has segment id 0, whatever its
token. Shape letters: B batch, S width of prompts or number of slots of a cache, L length, D model
width, H heads, K heads of keys and values, C head width, V vocabulary, N layers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Bool, Float, Float32, Integer, Num, PyTree

from flan_jax.config.checks import check_choice, check_number, quoted
from flan_jax.config.settings import setting
from flan_jax.errors import UserError
from flan_jax.models import kv_cache, layers
from flan_jax.models.array_types import Array
from flan_jax.models.attention import Attention
from flan_jax.models.config_checks import (
    buckets_field,
    check_and_resolve,
    layer_count,
    no_type_check,
    shared_field,
)
from flan_jax.models.layer_stack import layer_stack, run_layers
from flan_jax.models.positions import Angles, RelativePositionBias, rotary_angles

_ROPE_SCALING = (
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "original_max_position_embeddings",
)
_ROPE_LINEAR = ("factor", "rope_type")


@no_type_check
@gin.configurable(denylist=["vocab_size"])
@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Size and behavior of a decoder-only model: what files of `gin/size` set.

    `rope_scaling` is that of Llama 3.1 or the linear one, `{'rope_type': 'linear', 'factor': 4.0}`.

    Raises:
      UserError: for a value that cannot work.
    """

    vocab_size: int = shared_field("vocab_size")
    emb_dim: int = shared_field("emb_dim")
    num_heads: int = shared_field("num_heads")
    head_dim: int = shared_field("head_dim")
    mlp_dim: int = shared_field("mlp_dim")
    num_layers: int = layer_count("layers")
    num_kv_heads: int | None = setting(
        None, None, "heads of keys and values, K; None: as many as heads", least=1, below=2**16
    )
    positions: str = setting(
        None,
        "relative",
        "T5's bias, one table for all layers, or rotary positions",
        choices=("relative", "rotary"),
    )
    relpos_buckets: int = buckets_field(fewest=2)
    relpos_max_distance: int = shared_field("relpos_max_distance")
    rope_theta: float = setting(None, 10000.0, "base of rotary positions", least=1, below=1e12)
    rope_scaling: dict | None = setting(
        None, None, "of rotary positions: Llama 3.1's four numbers, or linear with a factor"
    )
    mlp_activations: tuple[str, ...] = shared_field("mlp_activations")
    logits_via_embedding: bool = setting(
        None, True, "whether logits are products with the embedding"
    )
    scale_tied_logits: bool = setting(
        None, True, "whether such logits are divided by sqrt(D), as in T5X"
    )
    scale_queries: bool = setting(
        None,
        False,
        "whether attention scores are divided by sqrt(C), which T5 has in the query kernel's "
        "initial values",
    )
    qkv_bias: bool = setting(None, False, "whether queries, keys and values have a bias")
    norm_epsilon: float = setting(
        None, 1e-6, "added to the mean square in RMSNorm", least=1e-12, below=1
    )
    prefix: str = setting(
        None,
        "causal",
        "bidirectional: the inputs of an example see each other both ways",
        choices=("causal", "bidirectional"),
    )
    dropout_rate: float = shared_field("dropout_rate")
    dtype: str = shared_field("dtype")
    scan_layers: bool = shared_field("scan_layers")
    remat: str = shared_field("remat")

    def __post_init__(self):
        check_and_resolve(self)
        if self.rope_scaling is not None:
            self._check_rope_scaling()
            # so that a model can be hashed
            object.__setattr__(self, "rope_scaling", FrozenDict(self.rope_scaling))
        self._check_heads()

    def _check_rope_scaling(self):
        scaling = self.rope_scaling
        if not isinstance(scaling, Mapping) or set(scaling) not in (
            set(_ROPE_SCALING),
            set(_ROPE_LINEAR),
        ):
            raise UserError(
                "DecoderConfig.rope_scaling must be None or a dict with exactly "
                f"{', '.join(_ROPE_SCALING)} (the scaling of Llama 3.1), or "
                f"{' and '.join(_ROPE_LINEAR)} ('linear'), not {quoted(scaling)}."
            )
        check_choice(
            "DecoderConfig.rope_scaling['rope_type']",
            scaling.get("rope_type", "linear"),
            ("linear",),
        )
        for name in scaling.keys() - {"rope_type"}:
            check_number(
                f"DecoderConfig.rope_scaling[{name!r}]", scaling[name], least=1e-3, below=1e9
            )
        if (
            "rope_type" not in scaling
            and not scaling["low_freq_factor"] < scaling["high_freq_factor"]
        ):
            raise UserError(
                "DecoderConfig.rope_scaling must have a low_freq_factor below its "
                f"high_freq_factor, not {scaling['low_freq_factor']} and "
                f"{scaling['high_freq_factor']}."
            )

    def _check_heads(self):
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise UserError(
                f"DecoderConfig.num_kv_heads is {self.kv_heads}, but must divide num_heads, which "
                f"is {self.num_heads}."
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise UserError(
                f"DecoderConfig.head_dim is {self.head_dim}, but rotary positions need an even one."
            )

    @property
    def kv_heads(self) -> int:
        """The number of heads of keys and values, K."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


# Integers of packed rows, from numpy or JAX.
Ints = Integer[Array | np.ndarray, "B L"]
Batch = Mapping[str, Num[Array | np.ndarray, "..."]]


class DecoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a norm and added to its input."""

    config: DecoderConfig

    def setup(self) -> None:
        """Makes the sub-layers, with T5X's names."""
        c = self.config
        self.pre_self_attention_layer_norm = layers.RMSNorm(c.dtype, c.norm_epsilon)
        self.self_attention = Attention(
            c.num_heads, c.head_dim, c.emb_dim, c.dtype, c.kv_heads, c.scale_queries, c.qkv_bias
        )
        self.pre_mlp_layer_norm = layers.RMSNorm(c.dtype, c.norm_epsilon)
        self.mlp = layers.FeedForward(c.mlp_dim, c.mlp_activations, c.dtype)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 L L"],
        bias: Float32[Array, "#B H L L"] | None,
        angles: Angles | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "B L D"], tuple[Float[Array, "B L K C"], Float[Array, "B L K C"]]]:
        """Returns [B, L, D], and this layer's keys and values."""
        c, (batch, length, width) = self.config, x.shape
        shapes = [(c.num_heads, 1, length), (1, width), (1, c.mlp_dim), (1, width)]
        on_weights, *on_rest = layers.dropout_factors(self, c, deterministic, batch, shapes)
        y = self.pre_self_attention_layer_norm(x)
        keys_values = self.self_attention.keys_values(y, angles)
        mixed = self.self_attention(y, keys_values, mask, bias, on_weights, angles)
        return self._after_attention(x, mixed, on_rest), keys_values

    def step(
        self,
        x: Float[Array, "B 1 D"],
        cache: tuple[Float[Array, "B K S C"], Float[Array, "B K S C"]],
        slot: Integer[Array, ""],
        mask: Bool[Array, "B 1 1 S"],
        bias: Float32[Array, "#B H 1 S"] | None,
        angles: Angles | None,
    ) -> tuple[Float[Array, "B 1 D"], tuple[Float[Array, "B K 1 C"], Float[Array, "B K 1 C"]]]:
        """Returns [B, 1, D] for one token, and its keys and values, which go to `slot`.

        `cache` holds this layer's keys and values, with room for the token's.
        """
        y = self.pre_self_attention_layer_norm(x)
        new = kv_cache.heads_first(self.self_attention.keys_values(y, angles))
        keys_values = kv_cache.put_in_cache(cache, new, slot)
        mixed = self.self_attention(y, keys_values, mask, bias, angles=angles, heads_first=True)
        return self._after_attention(x, mixed), new

    def _after_attention(self, x: Array, mixed: Array, dropout: Any = (1.0, 1.0, 1.0)) -> Array:
        on_mixed, on_hidden, on_out = dropout
        x = x + mixed * on_mixed
        x = x + self.mlp(self.pre_mlp_layer_norm(x), on_hidden) * on_out
        return layers.constrain(x, "batch", "length", "embed")


class Decoder(nn.Module):
    """The embedding, the layers with their positions, the last norm and the map to logits."""

    config: DecoderConfig

    def setup(self) -> None:
        """Makes the parts, with T5X's names."""
        c = self.config
        self.token_embedder = layers.Embedding(
            c.vocab_size, c.emb_dim, c.dtype, c.scale_tied_logits or not c.logits_via_embedding
        )
        if c.positions == "relative":
            self.relpos_bias = RelativePositionBias(
                c.num_heads, c.relpos_buckets, c.relpos_max_distance, False
            )
        self.layers = layer_stack(DecoderLayer, c, c.num_layers)
        self.decoder_norm = layers.RMSNorm(c.dtype, c.norm_epsilon)
        if not c.logits_via_embedding:
            self.logits_dense = layers.Dense(c.vocab_size, ("embed", "vocab"), "float32")

    def __call__(
        self,
        tokens: Ints,
        positions: Ints | None,
        mask: Bool[Array, "B 1 L L"],
        bias: Float32[Array, "#B H L L"] | None,
        deterministic: bool = True,
        keep: bool = False,
    ) -> tuple[Float[Array, "B L D"], Any]:
        """Returns the normed [B, L, D], and with `keep` all keys and values [N, B, L, K, C].

        Without `scan_layers` they are lists of N arrays. `positions` are read where they are
        rotary.
        """
        angles = self._angles(positions)

        def body(layer: DecoderLayer, x: Array, _: None) -> tuple[Array, Any]:
            x, keys_values = layer(x, mask, bias, angles, deterministic)
            return x, keys_values if keep else None

        shapes = [(1, self.config.emb_dim)] * 2
        on_input, on_output = layers.dropout_factors(
            self, self.config, deterministic, tokens.shape[0], shapes
        )
        x = self.token_embedder(jnp.asarray(tokens)) * on_input
        x, keys_values = run_layers(self.config, self.layers, self.config.num_layers, body, x)
        return self.decoder_norm(x) * on_output, keys_values

    def step(
        self,
        tokens: Integer[Array, "B 1"],
        positions: Integer[Array, "B 1"],
        cache: PyTree,
        slot: Integer[Array, ""],
        mask: Bool[Array, "B 1 1 S"],
        bias: Float32[Array, "#B H 1 S"] | None,
    ) -> tuple[Float[Array, "B 1 D"], PyTree]:
        """Returns the normed [B, 1, D] of one token in each row, and the cache with it."""
        angles = self._angles(positions)

        def body(layer: DecoderLayer, x: Array, layer_cache: tuple) -> tuple[Array, Any]:
            return layer.step(x, layer_cache, slot, mask, bias, angles)

        x = self.token_embedder(tokens)
        x, new = run_layers(self.config, self.layers, self.config.num_layers, body, x, cache)
        # Written once for all layers: inside the scan the whole cache would be copied at every
        # step.
        return self.decoder_norm(x), kv_cache.put_in_cache(cache, new, slot)

    def _angles(self, positions: Ints | None) -> Angles | None:
        c = self.config
        if c.positions == "relative":
            return None
        return rotary_angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)

    def bias_in_row(self, length: int) -> Float32[Array, "1 H L L"] | None:
        """Returns the bias where distances in the row are those in the text; None if rotary."""
        if self.config.positions != "relative":
            return None
        return self.relpos_bias(jnp.arange(length), length)

    def bias_between(
        self,
        query_positions: Integer[Array | np.ndarray, "B L"],
        key_positions: Integer[Array | np.ndarray, "B S"],
        most: int,
    ) -> Float32[Array, "B H L S"] | None:
        """Returns the bias between positions below `most`; None if rotary."""
        if self.config.positions != "relative":
            return None
        queries, keys = jnp.asarray(query_positions), jnp.asarray(key_positions)
        return self.relpos_bias.between(queries, keys, most)

    def logits(self, x: Float[Array, "B L D"]) -> Float32[Array, "B L V"]:
        """Returns the logits of the normed [B, L, D]."""
        tied = self.config.logits_via_embedding
        logits = self.token_embedder.attend(x) if tied else self.logits_dense(x)
        return layers.constrain(logits, "batch", "length", "vocab")


class DecoderLM(nn.Module):
    """A decoder-only model: tokens in, float32 logits out.

    Dropout needs the rng `dropout` if not `deterministic`.
    """

    config: DecoderConfig

    def setup(self) -> None:
        """Checks that the heads divide over the mesh, and makes the decoder."""
        _check_mesh(self.config)
        self.decoder = Decoder(self.config)

    def __call__(self, batch: Batch, deterministic: bool = True) -> Float32[Array, "B L V"]:
        """Returns the logits of a packed batch.

        Args:
          batch: int32 [B, L] each. `decoder_input_tokens` are shifted already,
            `decoder_segment_ids` are 0 on padding, `decoder_positions` (read for rotary positions)
            begin at 0 in each segment; `decoder_causal_attention` (read for a bidirectional prefix)
            is 1 on what reads the inputs: the first token and the inputs' own. Other keys are not
            read.
          deterministic: no dropout.
        """
        return self.logits(self.hidden(batch, deterministic))

    def hidden(self, batch: Batch, deterministic: bool = True) -> Float[Array, "B L D"]:
        """Returns the normed [B, L, D] of a packed batch, of which `logits` makes logits."""
        tokens, segments = batch["decoder_input_tokens"], batch["decoder_segment_ids"]
        prefix = positions = None
        if self.config.prefix == "bidirectional":
            prefix = batch["decoder_causal_attention"] > 0
        if self.config.positions == "rotary":
            positions = batch["decoder_positions"]
        bias = self.decoder.bias_in_row(tokens.shape[1])
        return self.decoder(tokens, positions, _visible(segments, prefix), bias, deterministic)[0]

    def logits(self, x: Float[Array, "B L D"]) -> Float32[Array, "B L V"]:
        """Returns the logits of the normed [B, L, D]."""
        return self.decoder.logits(x)

    def branch_hidden(
        self,
        tokens: Ints,
        positions: Ints,
        segment_ids: Ints,
        branch_ids: Ints,
        at: Integer[Array | np.ndarray, "B P"] | None = None,
    ) -> Float[Array, "B _ D"]:
        """Returns the normed [B, L, D] of rows in which several continuations follow one prefix.

        A token attends to itself and to earlier tokens of its segment that have branch 0, the
        prefix, or its own. `positions` (below L) continue from the prefix in each branch. With
        `at`, P places in each row, only these are returned: [B, P, D].
        """
        prefix = branch_ids == 0
        mask = _visible(segment_ids, prefix if self.config.prefix == "bidirectional" else None)
        same_branch = branch_ids[:, None, :, None] == branch_ids[:, None, None, :]
        mask &= same_branch | prefix[:, None, None, :]
        bias = self.decoder.bias_between(positions, positions, tokens.shape[1])
        x, _ = self.decoder(tokens, positions, mask, bias)
        return x if at is None else jnp.take_along_axis(x, at[..., None], axis=1)

    def prefill(
        self,
        tokens: Integer[Array, "B S"],
        lengths: Integer[Array, " B"],
        max_length: int,
    ) -> tuple[Float32[Array, "B V"], dict[str, Any]]:
        """Returns the logits that follow each prompt, and the cache for `max_length` more tokens.

        Args:
          tokens: the prompts, the first `lengths` of each row.
          lengths: numbers of tokens.
          max_length: how many tokens may follow.

        Returns:
          Logits, and the cache: `keys_values`, a pair [N, B, K, S + max_length, C] in the compute
          dtype (without `scan_layers` each is a list of N arrays), `lengths`, and `start`, the slot
          S of the first token to come.
        """
        batch, width = tokens.shape
        given = jnp.arange(width) < lengths[:, None]
        prefix = given if self.config.prefix == "bidirectional" else None
        mask = _visible(given.astype(jnp.int32), prefix)
        positions = jnp.broadcast_to(jnp.arange(width), (batch, width))
        bias = self.decoder.bias_in_row(width)
        x, keys_values = self.decoder(tokens, positions, mask, bias, keep=True)
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        keys_values = kv_cache.heads_first(keys_values)
        cache = {
            "keys_values": kv_cache.with_free_slots(keys_values, max_length),
            "lengths": lengths,
            "start": jnp.int32(width),
        }
        return self.decoder.logits(jnp.take_along_axis(x, last, axis=1))[:, 0], cache

    def decode_step(
        self, tokens: Integer[Array, " B"], index: Integer[Array, ""], cache: dict[str, Any]
    ) -> tuple[Float32[Array, "B V"], dict[str, Any]]:
        """Returns the logits that follow `tokens`, and the cache with their keys and values.

        The tokens are the `index`-th after the prompts: they are in slot S + index and have
        position `lengths` + index.
        """
        lengths, start = cache["lengths"][:, None], cache["start"]
        num_slots = jax.tree.leaves(cache["keys_values"])[0].shape[-2]
        slots = jnp.arange(num_slots)
        mask = (slots < lengths) | ((slots >= start) & (slots <= start + index))
        key_positions = jnp.where(slots < start, slots, lengths + slots - start)
        positions = lengths + index
        bias = self.decoder.bias_between(positions, key_positions, num_slots)
        x, keys_values = self.decoder.step(
            tokens[:, None],
            positions,
            cache["keys_values"],
            start + index,
            mask[:, None, None, :],
            bias,
        )
        return self.decoder.logits(x)[:, 0], {**cache, "keys_values": keys_values}


def _visible(
    segment_ids: Ints, prefix: Bool[Array | np.ndarray, "B L"] | None = None
) -> Bool[Array, "B 1 L L"]:
    """Returns the mask: earlier or the same place in one segment, and within a `prefix` later."""
    length = segment_ids.shape[1]
    seen = jnp.arange(length)[:, None] >= jnp.arange(length)
    if prefix is not None:
        seen = seen | (prefix[:, None, :, None] & prefix[:, None, None, :])
    segments = jnp.asarray(segment_ids)
    queries, keys = segments[:, None, :, None], segments[:, None, None, :]
    return (queries == keys) & (keys > 0) & seen


def _check_mesh(config: DecoderConfig) -> None:
    """Checks that heads, which no parameter has as an axis, divide over the mesh.

    Raises:
      UserError: if they do not.
    """
    parts = dict(jax.sharding.get_abstract_mesh().shape).get("model", 1)
    for heads, kind in [(config.num_heads, "heads"), (config.kv_heads, "heads of keys and values")]:
        if heads % parts:
            raise UserError(
                f"The model has {heads} {kind}, which do not divide over model={parts}; give the "
                f"mesh an axis model that divides {heads}, and fsdp the rest."
            )
