"""T5 1.1: an encoder-decoder Transformer with T5X's parameter tree.

In memory the layers of a stack are one `layers` subtree with a leading axis (`scan_layers`), so
that compile time does not grow with depth; `models/stacking.py` turns that into T5X's `layers_0`,
`layers_1`, ... and back. Shape letters: B batch, S source length, T target length, D model width, H
heads, C head width, V vocabulary, N layers.
"""

import dataclasses

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from flan_jax.config.checks import check_number, setting_name
from flan_jax.config.settings import setting
from flan_jax.models import layers
from flan_jax.models.config_checks import (
    buckets_field,
    check_and_resolve,
    layer_count,
    shared_field,
)


@gin.configurable(denylist=["vocab_size"])
@dataclasses.dataclass(frozen=True)
class T5Config:
    """Size and behavior of a T5: what `gin/size/t5_*.gin` sets.

    Raises:
      UserError: for a value that cannot work.
    """

    vocab_size: int = shared_field("vocab_size")
    emb_dim: int = shared_field("emb_dim")
    num_heads: int = shared_field("num_heads")
    head_dim: int = shared_field("head_dim")
    mlp_dim: int = shared_field("mlp_dim")
    num_encoder_layers: int = layer_count("layers of the encoder")
    num_decoder_layers: int = layer_count("layers of the decoder")
    dropout_rate: float = shared_field("dropout_rate")
    mlp_activations: tuple[str, ...] = shared_field("mlp_activations")
    logits_via_embedding: bool = setting(
        None, False, "whether logits are products with the embedding, as in T5 1.0"
    )
    dtype: str = shared_field("dtype")
    relpos_buckets: int = buckets_field(fewest=4)
    relpos_max_distance: int = shared_field("relpos_max_distance")
    decoder_start_id: int = setting("DECODER_START_ID", 0, "", least=0)
    scan_layers: bool = shared_field("scan_layers")
    remat: str = shared_field("remat")

    def __post_init__(self):
        check_and_resolve(self)
        check_number(
            setting_name("T5Config", "decoder_start_id"),
            self.decoder_start_id,
            whole=True,
            least=0,
            below=self.vocab_size,
        )


def _attention(config: T5Config) -> layers.Attention:
    return layers.Attention(config.num_heads, config.head_dim, config.emb_dim, config.dtype)


def _feed_forward(config: T5Config) -> layers.FeedForward:
    return layers.FeedForward(config.mlp_dim, config.mlp_activations, config.dtype)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a norm and added to its input."""

    config: T5Config

    def setup(self):
        self.pre_attention_layer_norm = layers.RMSNorm(self.config.dtype)
        self.attention = _attention(self.config)
        self.pre_mlp_layer_norm = layers.RMSNorm(self.config.dtype)
        self.mlp = _feed_forward(self.config)

    def __call__(self, x, mask, bias, deterministic: bool) -> jax.Array:
        """Gives [B, S, D]; mask bool [B, 1, S, S], bias [1, H, S, S]."""
        c, (batch, length, width) = self.config, x.shape
        shapes = [(c.num_heads, 1, length), (1, width), (1, c.mlp_dim), (1, width)]
        on_weights, on_mixed, on_hidden, on_out = layers.dropout_factors(
            self, c, deterministic, batch, shapes
        )
        y = self.pre_attention_layer_norm(x)
        x = x + self.attention(y, self.attention.keys_values(y), mask, bias, on_weights) * on_mixed
        x = x + self.mlp(self.pre_mlp_layer_norm(x), on_hidden) * on_out
        return layers.constrain(x, "batch", "length", "embed")


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder and feed-forward, each after a norm and added to its
    input.
    """

    config: T5Config

    def setup(self):
        self.pre_self_attention_layer_norm = layers.RMSNorm(self.config.dtype)
        self.self_attention = _attention(self.config)
        self.pre_cross_attention_layer_norm = layers.RMSNorm(self.config.dtype)
        self.encoder_decoder_attention = _attention(self.config)
        self.pre_mlp_layer_norm = layers.RMSNorm(self.config.dtype)
        self.mlp = _feed_forward(self.config)

    def __call__(self, x, encoded, self_mask, cross_mask, bias, deterministic: bool) -> jax.Array:
        """Gives [B, T, D]; encoded [B, S, D], masks bool [B, 1, T, T] and [B, 1, T, S], bias [1, H,
        T, T].
        """
        c, (batch, length, width) = self.config, x.shape
        weights = [(c.num_heads, 1, length), (c.num_heads, 1, encoded.shape[1])]
        shapes = [weights[0], (1, width), weights[1], (1, width), (1, c.mlp_dim), (1, width)]
        on_weights, on_mixed, *on_rest = layers.dropout_factors(
            self, c, deterministic, batch, shapes
        )
        y = self.pre_self_attention_layer_norm(x)
        x = (
            x
            + self.self_attention(
                y, self.self_attention.keys_values(y), self_mask, bias, on_weights
            )
            * on_mixed
        )
        return self._after_self_attention(x, self.cross_keys_values(encoded), cross_mask, on_rest)

    def _after_self_attention(
        self, x, cross_keys_values, cross_mask, dropout=(1.0, 1.0, 1.0, 1.0)
    ) -> jax.Array:
        on_weights, on_mixed, on_hidden, on_out = dropout
        y = self.pre_cross_attention_layer_norm(x)
        mixed = self.encoder_decoder_attention(
            y, cross_keys_values, cross_mask, None, on_weights, heads_first=True
        )
        x = x + mixed * on_mixed
        x = x + self.mlp(self.pre_mlp_layer_norm(x), on_hidden) * on_out
        return layers.constrain(x, "batch", "length", "embed")

    def cross_keys_values(self, encoded) -> tuple[jax.Array, jax.Array]:
        """Gives this layer's keys and values [B, H, S, C] of the encoder's output."""
        return layers.heads_first(self.encoder_decoder_attention.keys_values(encoded))

    def step(self, x, cache: dict, index, cross_mask, bias):
        """Gives [B, 1, D] for one position, and its own keys and values [B, H, 1, C] to be put in
        the cache at `index`.

        `cache` holds this layer's `self` and `cross` (keys, values); bias [1, H, 1, T].
        """
        y = self.pre_self_attention_layer_norm(x)
        new = layers.heads_first(self.self_attention.keys_values(y))
        own = layers.put_in_cache(cache["self"], new, index)
        past = jnp.arange(own[0].shape[2]) <= index
        x = x + self.self_attention(y, own, past, bias, heads_first=True)
        return self._after_self_attention(x, cache["cross"], cross_mask), new


class Encoder(nn.Module):
    """The encoder's layers, their shared position bias, and the last norm."""

    config: T5Config

    def setup(self):
        c = self.config
        self.relpos_bias = layers.RelativePositionBias(
            c.num_heads, c.relpos_buckets, c.relpos_max_distance, True
        )
        self.layers = layers.layer_stack(EncoderLayer, c, c.num_encoder_layers)
        self.encoder_norm = layers.RMSNorm(c.dtype)

    def __call__(self, x, mask, deterministic: bool) -> jax.Array:
        """Gives the encoded [B, S, D] of embedded tokens [B, S, D]; mask bool [B, 1, S, S]."""
        length = x.shape[1]
        bias = self.relpos_bias(jnp.arange(length), length)

        def body(layer, x, _):
            return layer(x, mask, bias, deterministic), None

        shapes = [(1, x.shape[2])] * 2
        on_input, on_output = layers.dropout_factors(
            self, self.config, deterministic, x.shape[0], shapes
        )
        x, _ = layers.run_layers(
            self.config, self.layers, self.config.num_encoder_layers, body, x * on_input
        )
        return self.encoder_norm(x) * on_output


class Decoder(nn.Module):
    """The decoder's layers, their shared position bias, the last norm and, when not tied, the map
    to logits.
    """

    config: T5Config

    def setup(self):
        c = self.config
        self.relpos_bias = layers.RelativePositionBias(
            c.num_heads, c.relpos_buckets, c.relpos_max_distance, False
        )
        self.layers = layers.layer_stack(DecoderLayer, c, c.num_decoder_layers)
        self.decoder_norm = layers.RMSNorm(c.dtype)
        if not c.logits_via_embedding:
            self.logits_dense = layers.Dense(c.vocab_size, ("embed", "vocab"), "float32")

    def __call__(self, x, encoded, self_mask, cross_mask, deterministic: bool) -> jax.Array:
        """Gives the normed [B, T, D] of embedded tokens [B, T, D]; masks bool [B, 1, T, T] and [B,
        1, T, S].
        """
        length = x.shape[1]
        bias = self.relpos_bias(jnp.arange(length), length)

        def body(layer, x, _):
            return layer(x, encoded, self_mask, cross_mask, bias, deterministic), None

        shapes = [(1, x.shape[2])] * 2
        on_input, on_output = layers.dropout_factors(
            self, self.config, deterministic, x.shape[0], shapes
        )
        x, _ = layers.run_layers(
            self.config, self.layers, self.config.num_decoder_layers, body, x * on_input
        )
        return self.decoder_norm(x) * on_output

    def cross_keys_values(self, encoded):
        """Gives every layer's keys and values [N, B, H, S, C], or lists of N, of the encoder's
        output.
        """

        def body(layer, encoded, _):
            return encoded, layer.cross_keys_values(encoded)

        return layers.run_layers(
            self.config, self.layers, self.config.num_decoder_layers, body, encoded
        )[1]

    def step(self, x, cache: dict, index, cross_mask):
        """Gives the normed [B, 1, D] of one position, and the cache with that position's keys and
        values in it.
        """
        bias = self.relpos_bias(index[None], jax.tree.leaves(cache["self"])[0].shape[-2])

        def body(layer, x, layer_cache):
            return layer.step(x, layer_cache, index, cross_mask, bias)

        x, new = layers.run_layers(
            self.config, self.layers, self.config.num_decoder_layers, body, x, cache
        )
        # Written once for all layers: inside the scan the whole cache would be copied at every
        # step.
        return self.decoder_norm(x), {
            **cache,
            "self": layers.put_in_cache(cache["self"], new, index),
        }

    def logits(self, x) -> jax.Array:
        """Gives float32 logits [B, T, V] of [B, T, D] through the decoder's own kernel."""
        return self.logits_dense(x)


class T5(nn.Module):
    """T5 1.1: tokens in, float32 logits out. Dropout needs the rng `dropout` when `deterministic`
    is False.
    """

    config: T5Config

    def setup(self):
        c = self.config
        self.token_embedder = layers.Embedding(c.vocab_size, c.emb_dim, c.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)

    def __call__(self, batch: dict[str, jax.Array], deterministic: bool = True) -> jax.Array:
        """Gives logits [B, T, V] of a packed batch: int32 `encoder_input_tokens` and
        `encoder_segment_ids` [B, S], `decoder_input_tokens` (already shifted) and
        `decoder_segment_ids` [B, T]. Other keys are not read.
        """
        return self.logits(self.hidden(batch, deterministic))

    def hidden(self, batch: dict[str, jax.Array], deterministic: bool = True) -> jax.Array:
        """Gives the normed [B, T, D] of a packed batch, of which `logits` makes logits."""
        encoder_segments, decoder_segments = (
            batch["encoder_segment_ids"],
            batch["decoder_segment_ids"],
        )
        encoded = self.encode(batch["encoder_input_tokens"], encoder_segments, deterministic)
        return self.decode_hidden(
            encoded,
            encoder_segments,
            batch["decoder_input_tokens"],
            decoder_segments,
            decoder_segments,
            deterministic,
        )

    def encode(self, tokens, segment_ids, deterministic: bool = True) -> jax.Array:
        """Gives [B, S, D] of int32 tokens [B, S]; a token attends to tokens of its own segment (0
        is padding).
        """
        return self.encoder(
            self.token_embedder(tokens), _same_segment(segment_ids, segment_ids), deterministic
        )

    def decode_hidden(
        self,
        encoded,
        encoder_segment_ids,
        decoder_input_tokens,
        decoder_segment_ids,
        cross_segment_ids,
        deterministic: bool = True,
    ) -> jax.Array:
        """Gives the normed [B, T, D] of int32 tokens [B, T], given encoded [B, S, D].

        A position attends to itself and earlier ones with the same `decoder_segment_ids` [B, T],
        and to the encoder where `cross_segment_ids` [B, T] equals `encoder_segment_ids` [B, S]; 0
        is padding. Both are the decoder's segments in packed training; several options of one input
        have segments 1..O and cross segments that are all 1.
        """
        length = decoder_input_tokens.shape[1]
        causal = jnp.arange(length)[:, None] >= jnp.arange(length)
        self_mask = _same_segment(decoder_segment_ids, decoder_segment_ids) & causal
        cross_mask = _same_segment(cross_segment_ids, encoder_segment_ids)
        x = self.token_embedder(decoder_input_tokens)
        return self.decoder(x, encoded, self_mask, cross_mask, deterministic)

    def logits(self, x) -> jax.Array:
        """Gives float32 logits [B, T, V] of the normed [B, T, D]."""
        tied = self.config.logits_via_embedding
        logits = self.token_embedder.attend(x) if tied else self.decoder.logits(x)
        return layers.constrain(logits, "batch", "length", "vocab")

    def start_cache(self, encoded, max_length: int) -> dict:
        """Gives the cache for decoding up to `max_length` tokens: `self` and `cross` pairs of keys
        and values.

        They are [N, B, H, max_length, C] (zeros) and [N, B, H, S, C] in the compute dtype; without
        `scan_layers` each is a list of N arrays.
        """
        cross = self.decoder.cross_keys_values(encoded)
        own = jax.tree.map(
            lambda x: jnp.zeros((*x.shape[:-2], max_length, x.shape[-1]), x.dtype), cross
        )
        return {"self": own, "cross": cross}

    def decode_step(
        self, tokens, index, cache: dict, encoder_segment_ids
    ) -> tuple[jax.Array, dict]:
        """Gives the logits [B, V] that follow int32 tokens [B] at position `index` (a scalar), and
        the new cache.
        """
        cross_mask = _same_segment(jnp.ones_like(tokens)[:, None], encoder_segment_ids)
        x, cache = self.decoder.step(self.token_embedder(tokens[:, None]), cache, index, cross_mask)
        return self.logits(x)[:, 0], cache


def _same_segment(query_segments, key_segments) -> jax.Array:
    """Gives the bool mask [B, 1, Q, K]: same segment, and not padding."""
    queries, keys = query_segments[:, None, :, None], key_segments[:, None, None, :]
    return (queries == keys) & (keys > 0)
