"""Where decoding begins: the input is read once, and the cache has room for the answer.

Shape letters: B batch, S width of what is read, H heads of keys and values, C head width,
V vocabulary, N layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Integer

from flan_jax.models import cpu
from flan_jax.models.array_types import Array
from flan_jax.models.decoder import DecoderLM


class DecodingStart(NamedTuple):
    """The state before the first step of decoding.

    Attributes:
      read: (last token [B], how many are written, cache) -> (logits [B, V] that follow, cache).
      logits: those of the first token, float32 [B, V]; None where a step makes them too, from
        `start_id`.
      cache: keys and values, arrays [N, B, H, slots, C] or lists of N.
      answer_name: the part of the cache that grows with the answer.
      answer_slot: its first slot for the answer.
    """

    read: Callable
    logits: Array | None
    cache: dict[str, Any]
    answer_name: str
    answer_slot: int


def start_id(model: Any) -> Integer[Array, ""]:
    """Returns the id that a T5's decoder reads first.

    A decoder-only model's prompt includes its own.
    """
    return jnp.int32(getattr(model.config, "decoder_start_id", 0))


def input_lengths(
    model: Any, tokens: Integer[ArrayLike, "B S"], lengths: Integer[ArrayLike, " B"] | None
) -> Integer[Array, " B"]:
    """Returns `lengths`, or for a T5 without them how many tokens of each row are not 0.

    Raises:
      ValueError: if a decoder's lengths are None.
    """
    if lengths is not None:
        return jnp.asarray(lengths)
    if isinstance(model, DecoderLM):
        raise ValueError(
            "A decoder's prompts need their lengths: in its vocabulary 0 may be a real token."
        )
    return jnp.sum(tokens > 0, axis=1)


def begin(
    model: Any,
    params: Any,
    tokens: Integer[Array, "B S"],
    lengths: Integer[Array, " B"],
    max_length: int,
    copies: int = 1,
) -> DecodingStart:
    """Reads the inputs once, and returns the start of `copies` answers to each.

    The answers to a row are next to each other.
    """
    is_cpu = jax.default_backend() == "cpu"
    unstacks = is_cpu and model.config.scan_layers
    # The input is read once, by one layer in a scan: unstacked, as the steps are, it would take as
    # long to compile as these (30 layers: 29 CPU seconds to the first answer in place of 21).
    read = functools.partial(model.apply, {"params": params})
    step_model, step_params = cpu.unstack_layers(model, params) if unstacks else (model, params)
    if is_cpu and tokens.shape[0] * copies <= cpu.FEW_ROWS:
        step_params = cpu.with_transposed_kernels(step_params)
    step = functools.partial(step_model.apply, {"params": step_params}, method="decode_step")
    begin_model = _begin_decoder if isinstance(model, DecoderLM) else _begin_t5
    start = begin_model(read, step, tokens, lengths, max_length, copies)
    return start._replace(cache=_unstacked(start.cache)) if unstacks else start


def _unstacked(cache: dict[str, Any]) -> dict[str, Any]:
    """Returns a cache whose keys and values are lists of N arrays in place of stacks of N."""
    is_stack = {name: isinstance(part, tuple) for name, part in cache.items()}
    return {
        name: tuple(map(list, part)) if is_stack[name] else part for name, part in cache.items()
    }


def _begin_decoder(
    read: Callable,
    step: Callable,
    tokens: Array,
    lengths: Array,
    max_length: int,
    copies: int,
) -> DecodingStart:
    logits, cache = read(tokens, lengths, max_length, method="prefill")
    cache = {
        **cache,
        "keys_values": _repeated(cache["keys_values"], copies, axis=-4),
        "lengths": _repeated(cache["lengths"], copies, axis=0),
    }

    def read_token(last: Array, index: Array, cache: dict) -> tuple[Array, dict]:
        # The prompt gave the first token: what follows it is of step 0.
        return step(last, index - 1, cache)

    logits = _repeated(logits, copies, axis=0)
    return DecodingStart(read_token, logits, cache, "keys_values", tokens.shape[1])


def _begin_t5(
    read: Callable,
    step: Callable,
    tokens: Array,
    lengths: Array,
    max_length: int,
    copies: int,
) -> DecodingStart:
    segments = (jnp.arange(tokens.shape[1]) < lengths[:, None]).astype(jnp.int32)
    encoded = read(tokens, segments, method="encode")
    cache = _repeated(read(encoded, max_length, method="start_cache"), copies, axis=-4)
    segments = _repeated(segments, copies, axis=0)

    def read_token(last: Array, index: Array, cache: dict) -> tuple[Array, dict]:
        return step(last, index, cache, segments)

    return DecodingStart(read_token, None, cache, "self", 0)


def _repeated(tree: Any, copies: int, axis: int) -> Any:
    return jax.tree.map(lambda x: jnp.repeat(x, copies, axis=axis), tree)
