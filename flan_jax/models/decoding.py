"""Decoding token by token with a key/value cache; the encoder and its keys and values are computed once."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("model", "max_length", "eos_id"))
def greedy(model, params, encoder_tokens, max_length: int, eos_id: int = 1) -> jax.Array:
    """Gives the most likely next token at every position: int32 [B, max_length], 0 after the first EOS.

    `encoder_tokens` int32 [B, S] is padded with 0. Stops as soon as every row has ended. Compiled once per shape; call
    it inside `use_mesh` when `params` are sharded.
    """
    apply = functools.partial(model.apply, {"params": params})
    segments = (encoder_tokens > 0).astype(jnp.int32)
    encoded = apply(encoder_tokens, segments, method="encode")
    cache = apply(encoded, max_length, method="start_cache")
    batch = encoder_tokens.shape[0]

    def unfinished(state):
        index, _, _, ended, _ = state
        return (index < max_length) & ~jnp.all(ended)

    def step(state):
        index, last, tokens, ended, cache = state
        logits, cache = apply(last, index, cache, segments, method="decode_step")
        chosen = jnp.where(ended, 0, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        tokens = jax.lax.dynamic_update_slice(tokens, chosen[:, None], (0, index))
        return index + 1, chosen, tokens, ended | (chosen == eos_id), cache

    # A row without input is padding of the batch: it has ended before it begins.
    ended = ~jnp.any(segments, axis=1)
    start = jnp.zeros((batch,), jnp.int32)
    state = (jnp.int32(0), start, jnp.zeros((batch, max_length), jnp.int32), ended, cache)
    return jax.lax.while_loop(unfinished, step, state)[2]
