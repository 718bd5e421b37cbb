"""Logits of every place of given token ids, on a mesh."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float32, Int32

from flan_jax.evaluation import batching
from flan_jax.models.adapters import prompt_length_of
from flan_jax.models.decoder import DecoderLM
from flan_jax.models.decoding.decoding_start import start_id


def all_logits(
    model: nn.Module,
    params: Any,
    mesh: jax.sharding.Mesh,
    arrays: Sequence[Int32[np.ndarray, "B _"]],
    prefix_length: int = 0,
) -> Float32[jax.Array, "B L V"]:
    """Returns the logits that follow each token.

    The vectors of a tuned prompt are in front of what the model reads.

    Args:
      model: a T5 or a decoder.
      params: its parameters as they are in memory.
      mesh: where they are.
      arrays: of a decoder, ids [B, L]; of a T5, inputs [B, S], in which 0 is padding, and targets
        [B, T], which its decoder reads shifted right.
      prefix_length: how many tokens at the beginning of a decoder's rows see each other both ways.

    Returns:
      float32 [B, L, V], of a T5 [B, T, V].
    """
    rows, prompt_length = len(arrays[0]), prompt_length_of(params)
    prompt = model.config.vocab_size + np.arange(prompt_length, dtype=np.int32)
    read = np.concatenate([np.tile(prompt, (rows, 1)), arrays[0]], axis=1)
    multiple = batching.row_multiple(mesh)
    padded = [
        np.resize(array, (-(-rows // multiple) * multiple, array.shape[1]))
        for array in (read, *arrays[1:])
    ]
    with batching.on_mesh(mesh):
        on_devices = [batching.to_devices(mesh, array) for array in padded]
        if isinstance(model, DecoderLM):
            return _of_decoder(model, params, *on_devices, prompt_length, jnp.int32(prefix_length))[
                :rows
            ]
        return _of_t5(model, params, *on_devices)[:rows]


@functools.partial(jax.jit, static_argnames=("model", "prompt_length"))
def _of_decoder(
    model: nn.Module, params: Any, ids: jax.Array, prompt_length: int, prefix_length: jax.Array
) -> jax.Array:
    places = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    batch = {
        "decoder_input_tokens": ids,
        "decoder_segment_ids": jnp.ones_like(ids),
        "decoder_positions": places,
        "decoder_causal_attention": (places < prompt_length + prefix_length).astype(jnp.int32),
    }
    return model.apply({"params": params}, batch)[:, prompt_length:]


@functools.partial(jax.jit, static_argnames="model")
def _of_t5(model: nn.Module, params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    begin = jnp.broadcast_to(start_id(model), (len(targets), 1)).astype(targets.dtype)
    batch = {
        "encoder_input_tokens": inputs,
        "encoder_segment_ids": (inputs != 0).astype(jnp.int32),
        "decoder_input_tokens": jnp.concatenate([begin, targets[:, :-1]], axis=1),
        "decoder_segment_ids": jnp.ones_like(targets),
    }
    return model.apply({"params": params}, batch)
