"""Decoding token by token with a key/value cache; what is read, by encoder or decoder, is computed once."""

import functools

import jax
import jax.numpy as jnp

from flan_jax.models.decoder import DecoderLM


@functools.partial(jax.jit, static_argnames=("model", "max_length", "eos_id"))
def greedy(model, params, tokens, max_length: int, eos_id: int = 1, lengths=None) -> jax.Array:
    """Gives the most likely next token at every position: int32 [B, max_length], 0 after the first EOS.

    `tokens` int32 [B, S] are what a `T5` encodes or what a `DecoderLM` continues (whatever stands first included), the
    first `lengths` [B] of each row; None, for T5: those that are not 0. A row of length 0 gives 0s. Stops as soon as
    every row has ended. Compiled once per shape; call it inside `use_mesh` when `params` are sharded.
    """
    if lengths is None and isinstance(model, DecoderLM):
        raise ValueError("greedy needs the lengths of a decoder's prompts: in its vocabulary 0 may be a real token.")
    lengths = jnp.sum(tokens > 0, axis=1) if lengths is None else lengths
    apply = functools.partial(model.apply, {"params": params})

    def write(index, logits, written, ended):
        chosen = jnp.where(ended, 0, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        written = jax.lax.dynamic_update_slice(written, chosen[:, None], (0, index))
        return index + 1, chosen, written, ended | (chosen == eos_id)

    def unfinished(state):
        index, _, _, ended, _ = state
        return (index < max_length) & ~jnp.all(ended)

    def step(state):
        index, last, written, ended, cache = state
        logits, cache = read(last, index, cache)
        return *write(index, logits, written, ended), cache

    # A row without input is padding of the batch: it has ended before it begins.
    written, ended = jnp.zeros((tokens.shape[0], max_length), jnp.int32), lengths == 0
    if isinstance(model, DecoderLM):
        read, logits, cache = _begin_decoder(apply, tokens, lengths, max_length)
        start = write(jnp.int32(0), logits, written, ended)
    else:
        read, cache = _begin_t5(apply, tokens, lengths, max_length)
        start = jnp.int32(0), jnp.zeros_like(written[:, 0]), written, ended
    return jax.lax.while_loop(unfinished, step, (*start, cache))[2]


def _begin_decoder(apply, tokens, lengths, max_length: int):
    """Gives the step `(last token, how many are written, cache) -> (logits, cache)`, the first logits and the cache."""
    logits, cache = apply(tokens, lengths, max_length, method="prefill")
    return lambda last, index, cache: apply(last, index - 1, cache, method="decode_step"), logits, cache


def _begin_t5(apply, tokens, lengths, max_length: int):
    """Gives the same step and the cache; the first logits come of a step too, whose token is 0."""
    segments = (jnp.arange(tokens.shape[1]) < lengths[:, None]).astype(jnp.int32)
    cache = apply(apply(tokens, segments, method="encode"), max_length, method="start_cache")
    return lambda last, index, cache: apply(last, index, cache, segments, method="decode_step"), cache
