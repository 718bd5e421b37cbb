"""A decoder-only Transformer for several families: LaMDA, and those of `families`.

LaMDA-like: gated GELU, T5's relative position bias, tied logits; its parameter tree is that of
T5X's `decoder_only` example. Llama-like: rotary positions, SwiGLU, grouped heads; what else a
family has (windows, norms, caps) is a field of `DecoderConfig`. Inputs and
targets share a row, several examples packed as segments; padding has segment id 0, whatever its
token. Shape letters: B batch, S width of prompts or number of slots of a cache, L length, D model
width, H heads, K heads of keys and values, C head width, V vocabulary, N layers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Float32, Integer, Num, PyTree, Shaped

from flan_jax.errors import UserError
from flan_jax.models import fused_attention, kv_cache, layers
from flan_jax.models.array_types import Array
from flan_jax.models.attention import Attention
from flan_jax.models.decoder_config import LOCAL, NO_POSITIONS, DecoderConfig
from flan_jax.models.layer_stack import layer_stack, run_layers
from flan_jax.models.positions import Angles, RelativePositionBias, rotary_angles

# Integers of packed rows, from numpy or JAX.
Ints = Integer[Array | np.ndarray, "B L"]
Batch = Mapping[str, Num[Array | np.ndarray, "..."]]


class View(NamedTuple):
    """What the attention of a kind of layer sees.

    Attributes:
      mask: bool [B, 1, L, S], the keys that each query sees; None with fused attention.
      angles: of rotary positions; None without them.
    """

    mask: Bool[Array, "B 1 L S"] | None
    angles: Angles | None


class PackedRows(NamedTuple):
    """What fused attention is given in place of masks.

    Attributes:
      segment_ids: int32 [B, L]; a token sees its segment up to itself.
      kind: of the layer, an index in `config.kinds`, a number or traced; None: 0.
    """

    segment_ids: Ints
    kind: Any = None


class DecoderLayer(nn.Module):
    """Self-attention and feed-forward, each with norms and added to its input."""

    config: DecoderConfig

    def setup(self) -> None:
        """Makes the sub-layers, with T5X's names."""
        c = self.config
        if c.norms != "after":
            self.pre_self_attention_layer_norm = _norm(c)
            self.pre_mlp_layer_norm = _norm(c)
        if c.norms != "before":
            self.post_self_attention_layer_norm = _norm(c)
            self.post_mlp_layer_norm = _norm(c)
        self.self_attention = Attention(
            c.num_heads,
            c.head_dim,
            c.emb_dim,
            c.dtype,
            c.kv_heads,
            float(c.query_scalar or c.head_dim) if c.scale_queries else None,
            c.qkv_bias,
            c.qk_norm,
            c.norm_epsilon,
            c.norm_offset,
            c.attention_softcap,
        )
        self.mlp = layers.FeedForward(c.mlp_dim, c.mlp_activations, c.dtype)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        view: View,
        bias: Float32[Array, "#B H L L"] | None,
        deterministic: bool,
        packed: PackedRows | None = None,
    ) -> tuple[Float[Array, "B L D"], tuple[Float[Array, "B L K C"], Float[Array, "B L K C"]]]:
        """Returns [B, L, D], and this layer's keys and values; fused attention if `packed`."""
        c, (batch, length, width) = self.config, x.shape
        shapes = [(c.num_heads, 1, length), (1, width), (1, c.mlp_dim), (1, width)]
        on_weights, *on_rest = layers.dropout_factors(
            self, c, deterministic, batch, shapes, of_layer=True
        )
        y = self._attention_input(x)
        keys_values = self.self_attention.keys_values(y, view.angles)
        if packed is None:
            mixed = self.self_attention(y, keys_values, view.mask, bias, on_weights, view.angles)
        else:
            mixed = self.self_attention.fused(
                y, keys_values, packed.segment_ids, c.windows, packed.kind, view.angles
            )
        return self._after_attention(x, mixed, on_rest), keys_values

    def step(
        self,
        x: Float[Array, "B 1 D"],
        cache: tuple[Float[Array, "B K S C"], Float[Array, "B K S C"]],
        slot: Integer[Array, ""],
        view: View,
        bias: Float32[Array, "#B H 1 S"] | None,
    ) -> tuple[Float[Array, "B 1 D"], tuple[Float[Array, "B K 1 C"], Float[Array, "B K 1 C"]]]:
        """Returns [B, 1, D] for one token, and its keys and values, which go to `slot`.

        `cache` holds this layer's keys and values, with room for the token's.
        """
        y = self._attention_input(x)
        new = kv_cache.heads_first(self.self_attention.keys_values(y, view.angles))
        keys_values = kv_cache.put_in_cache(cache, new, slot)
        mixed = self.self_attention(
            y, keys_values, view.mask, bias, angles=view.angles, heads_first=True
        )
        return self._after_attention(x, mixed), new

    def _attention_input(self, x: Array) -> Array:
        return x if self.config.norms == "after" else self.pre_self_attention_layer_norm(x)

    def _after_attention(self, x: Array, mixed: Array, dropout: Any = (1.0, 1.0, 1.0)) -> Array:
        on_mixed, on_hidden, on_out = dropout
        has_post_norms = self.config.norms != "before"
        if has_post_norms:
            mixed = self.post_self_attention_layer_norm(mixed)
        x = x + mixed * on_mixed
        y = x if self.config.norms == "after" else self.pre_mlp_layer_norm(x)
        y = self.mlp(y, on_hidden)
        if has_post_norms:
            y = self.post_mlp_layer_norm(y)
        x = x + y * on_out
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
        self.decoder_norm = _norm(c)
        if not c.logits_via_embedding:
            self.logits_dense = layers.Dense(c.vocab_size, ("embed", "vocab"), "float32")

    def __call__(
        self,
        tokens: Ints,
        positions: Ints | None,
        mask: Bool[Array, "B 1 L L"] | PackedRows,
        bias: Float32[Array, "#B H L L"] | None,
        deterministic: bool = True,
        keep: bool = False,
    ) -> tuple[Float[Array, "B L D"], Any]:
        """Returns the normed [B, L, D], and with `keep` all keys and values [N, B, L, K, C].

        Without `scan_layers` they are lists of N arrays. `positions` are read where they are
        rotary. `PackedRows` in place of a mask are for fused attention.
        """
        packed = mask if isinstance(mask, PackedRows) else None
        views = self._views(positions, positions, None if packed else mask)

        def body(layer: DecoderLayer, x: Array, kind: Any) -> tuple[Array, Any]:
            rows = packed and packed._replace(kind=kind)
            x, keys_values = layer(x, _view(views, kind), bias, deterministic, rows)
            return x, keys_values if keep else None

        shapes = [(1, self.config.emb_dim)] * 2
        on_input, on_output = layers.dropout_factors(
            self, self.config, deterministic, tokens.shape[0], shapes
        )
        x = self._embedded(jnp.asarray(tokens)) * on_input
        x, keys_values = run_layers(
            self.config, self.layers, self.config.num_layers, body, x, self._kinds()
        )
        return self.decoder_norm(x) * on_output, keys_values

    def step(
        self,
        tokens: Integer[Array, "B 1"],
        positions: Integer[Array, "B 1"],
        key_positions: Integer[Array, "B S"],
        cache: PyTree,
        slot: Integer[Array, ""],
        mask: Bool[Array, "B 1 1 S"],
        bias: Float32[Array, "#B H 1 S"] | None,
    ) -> tuple[Float[Array, "B 1 D"], PyTree]:
        """Returns the normed [B, 1, D] of one token in each row, and the cache with it."""
        views = self._views(positions, key_positions, mask)

        def body(layer: DecoderLayer, x: Array, scanned: tuple) -> tuple[Array, Any]:
            layer_cache, kind = scanned
            return layer.step(x, layer_cache, slot, _view(views, kind), bias)

        x, scanned = self._embedded(tokens), (cache, self._kinds())
        x, new = run_layers(self.config, self.layers, self.config.num_layers, body, x, scanned)
        # Written once for all layers: inside the scan the whole cache would be copied at every
        # step.
        return self.decoder_norm(x), kv_cache.put_in_cache(cache, new, slot)

    def _embedded(self, tokens: Ints) -> Float[Array, "B L D"]:
        x, c = self.token_embedder(tokens), self.config
        return x * jnp.asarray(np.sqrt(c.emb_dim), x.dtype) if c.scale_embeddings else x

    def _kinds(self) -> Any:
        """The index in `views` for each layer, [N]; None where all layers are alike."""
        kinds = self.config.kind_of_layer
        if len(self.config.kinds) == 1:
            return None
        return jnp.array(kinds, jnp.int32) if self.config.scan_layers else kinds

    def _views(
        self,
        positions: Ints | None,
        key_positions: Integer[Array | np.ndarray, "B S"] | None,
        mask: Bool[Array, "B 1 L S"] | None,
    ) -> list[View]:
        """What each of `config.kinds` sees; positions are read where they are rotary."""
        return [self._view_of(kind, positions, key_positions, mask) for kind in self.config.kinds]

    def _view_of(
        self, kind: str, positions: Any, key_positions: Any, mask: Bool[Array, "B 1 L S"] | None
    ) -> View:
        c = self.config
        if c.positions == "relative":
            return View(mask, None)
        theta, scaling = c.rope_theta, c.rope_scaling
        if kind == LOCAL:
            if mask is not None:
                distances = positions[:, None, :, None] - key_positions[:, None, None, :]
                mask = mask & (distances < c.window)
            if c.local_rope_theta is not None:
                theta, scaling = c.local_rope_theta, None
        cos, sin = rotary_angles(positions, c.head_dim, theta, scaling)
        if kind == NO_POSITIONS:
            cos, sin = jnp.ones_like(cos), jnp.zeros_like(sin)
        return View(mask, (cos, sin))

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
        if self.config.logits_softcap is not None:
            logits = layers.soft_capped(logits, self.config.logits_softcap)
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
            positions = _without_padding(batch["decoder_positions"], segments)
        bias = self.decoder.bias_in_row(tokens.shape[1])
        seen = self._seen(segments, prefix)
        return self.decoder(tokens, positions, seen, bias, deterministic)[0]

    def _seen(
        self, segment_ids: Ints, prefix: Bool[Array | np.ndarray, "B L"] | None
    ) -> Bool[Array, "B 1 L L"] | PackedRows:
        """What the tokens of packed rows see, as the attention needs it."""
        if self.config.is_fused(fused_attention.platform()):
            return PackedRows(segment_ids)
        return _visible(segment_ids, prefix)

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
        positions = _without_padding(positions, segment_ids)
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
        width = tokens.shape[1]
        given = jnp.arange(width) < lengths[:, None]
        prefix = given if self.config.prefix == "bidirectional" else None
        mask = self._seen(given.astype(jnp.int32), prefix)
        positions = _without_padding(jnp.arange(width), given)
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
            key_positions,
            cache["keys_values"],
            start + index,
            mask[:, None, None, :],
            bias,
        )
        return self.decoder.logits(x)[:, 0], {**cache, "keys_values": keys_values}


def _norm(config: DecoderConfig) -> layers.RMSNorm:
    return layers.RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset)


def _view(views: list[View], kind: Any) -> View:
    """The view of a layer: `kind` is None, a number, or traced where layers are scanned."""
    if kind is None:
        return views[0]
    if isinstance(kind, int):
        return views[kind]
    return jax.tree.map(lambda *arrays: jax.lax.select_n(kind, *arrays), *views)


def _without_padding(
    positions: Integer[Array | np.ndarray, "..."], kept: Shaped[Array | np.ndarray, "B L"]
) -> Integer[Array, "B L"]:
    """Returns positions that are 0 on padding, where `kept` is 0.

    Some rotary positions depend on the largest position of an example.
    """
    return jnp.where(jnp.asarray(kept) > 0, positions, 0)


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
