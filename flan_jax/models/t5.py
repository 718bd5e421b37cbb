"""T5 1.1: an encoder-decoder Transformer with T5X's parameter tree.

In memory the layers of a stack are one `layers` subtree with a leading axis (`scan_layers`), so
that compile time does not grow with depth; `models/stacking.py` converts that to T5X's `layers_0`,
`layers_1`, ... and back. Shape letters: B batch, S source length, T target length, D model width, H
heads, C head width, V vocabulary, N layers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Float32, Integer, Num, PyTree

from flan_jax.models import kv_cache, layers
from flan_jax.models.array_types import Array
from flan_jax.models.attention import Attention
from flan_jax.models.layer_stack import layer_stack, run_layers
from flan_jax.models.positions import RelativePositionBias
from flan_jax.models.t5_config import T5Config

# Integers of packed rows, from numpy or JAX: tokens or segment ids.
SourceInts = Integer[Array | np.ndarray, "B S"]
TargetInts = Integer[Array | np.ndarray, "B T"]
Batch = Mapping[str, Num[Array | np.ndarray, "..."]]
# Keys and values as a cache holds them.
CrossKeysValues = tuple[Float[Array, "B H S C"], Float[Array, "B H S C"]]


def _attention(config: T5Config) -> Attention:
    return Attention(config.num_heads, config.head_dim, config.emb_dim, config.dtype)


def _feed_forward(config: T5Config) -> layers.FeedForward:
    return layers.FeedForward(config.mlp_dim, config.mlp_activations, config.dtype)


def _relpos_bias(config: T5Config, bidirectional: bool) -> RelativePositionBias:
    return RelativePositionBias(
        config.num_heads, config.relpos_buckets, config.relpos_max_distance, bidirectional
    )


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a norm and added to its input."""

    config: T5Config

    def setup(self) -> None:
        """Makes the sub-layers, with T5X's names."""
        self.pre_attention_layer_norm = layers.RMSNorm(self.config.dtype)
        self.attention = _attention(self.config)
        self.pre_mlp_layer_norm = layers.RMSNorm(self.config.dtype)
        self.mlp = _feed_forward(self.config)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        mask: Bool[Array, "B 1 S S"],
        bias: Float32[Array, "1 H S S"],
        deterministic: bool,
    ) -> Float[Array, "B S D"]:
        """Returns [B, S, D]."""
        c, (batch, length, width) = self.config, x.shape
        shapes = [(c.num_heads, 1, length), (1, width), (1, c.mlp_dim), (1, width)]
        on_weights, on_mixed, on_hidden, on_out = layers.dropout_factors(
            self, c, deterministic, batch, shapes, of_layer=True
        )
        y = self.pre_attention_layer_norm(x)
        x = x + self.attention(y, self.attention.keys_values(y), mask, bias, on_weights) * on_mixed
        x = x + self.mlp(self.pre_mlp_layer_norm(x), on_hidden) * on_out
        return layers.constrain(x, "batch", "length", "embed")


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder and feed-forward.

    Each comes after a norm and is added to its input.
    """

    config: T5Config

    def setup(self) -> None:
        """Makes the sub-layers, with T5X's names."""
        self.pre_self_attention_layer_norm = layers.RMSNorm(self.config.dtype)
        self.self_attention = _attention(self.config)
        self.pre_cross_attention_layer_norm = layers.RMSNorm(self.config.dtype)
        self.encoder_decoder_attention = _attention(self.config)
        self.pre_mlp_layer_norm = layers.RMSNorm(self.config.dtype)
        self.mlp = _feed_forward(self.config)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        encoded: Float[Array, "B S D"],
        self_mask: Bool[Array, "B 1 T T"],
        cross_mask: Bool[Array, "B 1 T S"],
        bias: Float32[Array, "1 H T T"],
        deterministic: bool,
    ) -> Float[Array, "B T D"]:
        """Returns [B, T, D]."""
        c, (batch, length, width) = self.config, x.shape
        weights = [(c.num_heads, 1, length), (c.num_heads, 1, encoded.shape[1])]
        shapes = [weights[0], (1, width), weights[1], (1, width), (1, c.mlp_dim), (1, width)]
        on_weights, on_mixed, *on_rest = layers.dropout_factors(
            self, c, deterministic, batch, shapes, of_layer=True
        )
        y = self.pre_self_attention_layer_norm(x)
        keys_values = self.self_attention.keys_values(y)
        x = x + self.self_attention(y, keys_values, self_mask, bias, on_weights) * on_mixed
        return self._after_self_attention(x, self.cross_keys_values(encoded), cross_mask, on_rest)

    def _after_self_attention(
        self,
        x: Float[Array, "B T D"],
        cross_keys_values: CrossKeysValues,
        cross_mask: Bool[Array, "B 1 T S"],
        dropout: Any = (1.0, 1.0, 1.0, 1.0),
    ) -> Float[Array, "B T D"]:
        on_weights, on_mixed, on_hidden, on_out = dropout
        y = self.pre_cross_attention_layer_norm(x)
        mixed = self.encoder_decoder_attention(
            y, cross_keys_values, cross_mask, None, on_weights, heads_first=True
        )
        x = x + mixed * on_mixed
        x = x + self.mlp(self.pre_mlp_layer_norm(x), on_hidden) * on_out
        return layers.constrain(x, "batch", "length", "embed")

    def cross_keys_values(self, encoded: Float[Array, "B S D"]) -> CrossKeysValues:
        """Returns this layer's keys and values of the encoder's output."""
        return kv_cache.heads_first(self.encoder_decoder_attention.keys_values(encoded))

    def step(
        self,
        x: Float[Array, "B 1 D"],
        cache: dict[str, Any],
        index: Integer[Array, ""],
        cross_mask: Bool[Array, "B 1 1 S"],
        bias: Float32[Array, "1 H 1 T"],
    ) -> tuple[Float[Array, "B 1 D"], tuple[Float[Array, "B H 1 C"], Float[Array, "B H 1 C"]]]:
        """Returns [B, 1, D] for one position, and its keys and values, which go to slot `index`.

        `cache` holds this layer's `self` and `cross` (keys, values).
        """
        y = self.pre_self_attention_layer_norm(x)
        new = kv_cache.heads_first(self.self_attention.keys_values(y))
        keys_values = kv_cache.put_in_cache(cache["self"], new, index)
        past = jnp.arange(keys_values[0].shape[2]) <= index
        x = x + self.self_attention(y, keys_values, past, bias, heads_first=True)
        return self._after_self_attention(x, cache["cross"], cross_mask), new


class Encoder(nn.Module):
    """The encoder's layers, their shared position bias, and the last norm."""

    config: T5Config

    def setup(self) -> None:
        """Makes the parts, with T5X's names."""
        c = self.config
        self.relpos_bias = _relpos_bias(c, bidirectional=True)
        self.layers = layer_stack(EncoderLayer, c, c.num_encoder_layers)
        self.encoder_norm = layers.RMSNorm(c.dtype)

    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "B 1 S S"], deterministic: bool
    ) -> Float[Array, "B S D"]:
        """Returns the encoded [B, S, D] of embedded tokens."""
        c, length = self.config, x.shape[1]
        bias = self.relpos_bias(jnp.arange(length), length)

        def body(layer: EncoderLayer, x: Array, _: None) -> tuple[Array, None]:
            return layer(x, mask, bias, deterministic), None

        shapes = [(1, x.shape[2])] * 2
        on_input, on_output = layers.dropout_factors(self, c, deterministic, x.shape[0], shapes)
        x, _ = run_layers(c, self.layers, c.num_encoder_layers, body, x * on_input)
        return self.encoder_norm(x) * on_output


class Decoder(nn.Module):
    """The decoder's layers, their shared position bias, the last norm, and the map to logits.

    Tied logits need no map.
    """

    config: T5Config

    def setup(self) -> None:
        """Makes the parts, with T5X's names."""
        c = self.config
        self.relpos_bias = _relpos_bias(c, bidirectional=False)
        self.layers = layer_stack(DecoderLayer, c, c.num_decoder_layers)
        self.decoder_norm = layers.RMSNorm(c.dtype)
        if not c.logits_via_embedding:
            self.logits_dense = layers.Dense(c.vocab_size, ("embed", "vocab"), "float32")

    def __call__(
        self,
        x: Float[Array, "B T D"],
        encoded: Float[Array, "B S D"],
        self_mask: Bool[Array, "B 1 T T"],
        cross_mask: Bool[Array, "B 1 T S"],
        deterministic: bool,
    ) -> Float[Array, "B T D"]:
        """Returns the normed [B, T, D] of embedded tokens."""
        c, length = self.config, x.shape[1]
        bias = self.relpos_bias(jnp.arange(length), length)

        def body(layer: DecoderLayer, x: Array, _: None) -> tuple[Array, None]:
            return layer(x, encoded, self_mask, cross_mask, bias, deterministic), None

        shapes = [(1, x.shape[2])] * 2
        on_input, on_output = layers.dropout_factors(self, c, deterministic, x.shape[0], shapes)
        x, _ = run_layers(c, self.layers, c.num_decoder_layers, body, x * on_input)
        return self.decoder_norm(x) * on_output

    def cross_keys_values(self, encoded: Float[Array, "B S D"]) -> PyTree:
        """Returns every layer's keys and values of the encoder's output.

        They are a pair [N, B, H, S, C], or of lists of N arrays [B, H, S, C].
        """

        def body(layer: DecoderLayer, encoded: Array, _: None) -> tuple[Array, Any]:
            return encoded, layer.cross_keys_values(encoded)

        c = self.config
        return run_layers(c, self.layers, c.num_decoder_layers, body, encoded)[1]

    def step(
        self,
        x: Float[Array, "B 1 D"],
        cache: dict[str, Any],
        index: Integer[Array, ""],
        cross_mask: Bool[Array, "B 1 1 S"],
    ) -> tuple[Float[Array, "B 1 D"], dict[str, Any]]:
        """Returns the normed [B, 1, D] of one position, and the cache with its keys and values."""
        bias = self.relpos_bias(index[None], jax.tree.leaves(cache["self"])[0].shape[-2])

        def body(layer: DecoderLayer, x: Array, layer_cache: dict) -> tuple[Array, Any]:
            return layer.step(x, layer_cache, index, cross_mask, bias)

        c = self.config
        x, new = run_layers(c, self.layers, c.num_decoder_layers, body, x, cache)
        normed = self.decoder_norm(x)
        # Written once for all layers: inside the scan the whole cache would be copied at every
        # step.
        written = kv_cache.put_in_cache(cache["self"], new, index)
        return normed, {**cache, "self": written}

    def logits(self, x: Float[Array, "B T D"]) -> Float32[Array, "B T V"]:
        """Returns the logits of [B, T, D] through the decoder's own kernel."""
        return self.logits_dense(x)


class T5(nn.Module):
    """T5 1.1: tokens in, float32 logits out.

    Dropout needs the rng `dropout` if not `deterministic`.
    """

    config: T5Config

    def setup(self) -> None:
        """Makes the parts, with T5X's names."""
        c = self.config
        self.token_embedder = layers.Embedding(c.vocab_size, c.emb_dim, c.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)

    def __call__(self, batch: Batch, deterministic: bool = True) -> Float32[Array, "B T V"]:
        """Returns the logits of a packed batch.

        Args:
          batch: int32 `encoder_input_tokens` and `encoder_segment_ids` [B, S],
            `decoder_input_tokens` (already shifted) and `decoder_segment_ids` [B, T]. Other keys
            are not read.
          deterministic: no dropout.
        """
        return self.logits(self.hidden(batch, deterministic))

    def hidden(self, batch: Batch, deterministic: bool = True) -> Float[Array, "B T D"]:
        """Returns the normed [B, T, D] of a packed batch, of which `logits` makes logits."""
        encoder_segments = batch["encoder_segment_ids"]
        decoder_segments = batch["decoder_segment_ids"]
        encoded = self.encode(batch["encoder_input_tokens"], encoder_segments, deterministic)
        return self.decode_hidden(
            encoded,
            encoder_segments,
            batch["decoder_input_tokens"],
            decoder_segments,
            decoder_segments,
            deterministic,
        )

    def encode(
        self, tokens: SourceInts, segment_ids: SourceInts, deterministic: bool = True
    ) -> Float[Array, "B S D"]:
        """Returns the encoded [B, S, D]; tokens attend within their segment (0 is padding)."""
        x = self.token_embedder(jnp.asarray(tokens))
        return self.encoder(x, _same_segment(segment_ids, segment_ids), deterministic)

    def decode_hidden(
        self,
        encoded: Float[Array, "B S D"],
        encoder_segment_ids: SourceInts,
        decoder_input_tokens: TargetInts,
        decoder_segment_ids: TargetInts,
        cross_segment_ids: TargetInts,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """Returns the normed [B, T, D] of the decoder's inputs.

        A position attends to itself and earlier ones with the same `decoder_segment_ids`, and to
        the encoder where `cross_segment_ids` equals `encoder_segment_ids`; 0 is padding. Both are
        the decoder's segments in packed training; several options of one input have segments 1..O
        and cross segments that are all 1.
        """
        length = decoder_input_tokens.shape[1]
        causal = jnp.arange(length)[:, None] >= jnp.arange(length)
        self_mask = _same_segment(decoder_segment_ids, decoder_segment_ids) & causal
        cross_mask = _same_segment(cross_segment_ids, encoder_segment_ids)
        x = self.token_embedder(jnp.asarray(decoder_input_tokens))
        return self.decoder(x, encoded, self_mask, cross_mask, deterministic)

    def logits(self, x: Float[Array, "B T D"]) -> Float32[Array, "B T V"]:
        """Returns the logits of the normed [B, T, D]."""
        tied = self.config.logits_via_embedding
        logits = self.token_embedder.attend(x) if tied else self.decoder.logits(x)
        return layers.constrain(logits, "batch", "length", "vocab")

    def start_cache(self, encoded: Float[Array, "B S D"], max_length: int) -> dict[str, Any]:
        """Returns the cache for decoding up to `max_length` tokens.

        Its `self` and `cross` are pairs of keys and values in the compute dtype, [N, B, H,
        max_length, C] (zeros) and [N, B, H, S, C]; without `scan_layers` each is a list of N
        arrays.
        """
        cross = self.decoder.cross_keys_values(encoded)

        def empty(x: Array) -> Array:
            return jnp.zeros((*x.shape[:-2], max_length, x.shape[-1]), x.dtype)

        return {"self": jax.tree.map(empty, cross), "cross": cross}

    def decode_step(
        self,
        tokens: Integer[Array, " B"],
        index: Integer[Array, ""],
        cache: dict[str, Any],
        encoder_segment_ids: SourceInts,
    ) -> tuple[Float32[Array, "B V"], dict[str, Any]]:
        """Returns the logits that follow `tokens` at position `index`, and the new cache."""
        cross_mask = _same_segment(jnp.ones_like(tokens)[:, None], encoder_segment_ids)
        x, cache = self.decoder.step(self.token_embedder(tokens[:, None]), cache, index, cross_mask)
        return self.logits(x)[:, 0], cache


def _same_segment(query_segments: TargetInts, key_segments: SourceInts) -> Bool[Array, "B 1 T S"]:
    """Returns the mask: same segment, and not padding."""
    queries = jnp.asarray(query_segments)[:, None, :, None]
    keys = jnp.asarray(key_segments)[:, None, None, :]
    return (queries == keys) & (keys > 0)
