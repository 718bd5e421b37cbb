"""The loop that writes an answer token by token, until every row has ended."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Integer

from flan_jax.models.array_types import Array
from flan_jax.models.decoding.decoding_start import begin, input_lengths, start_id

# The token that ends an answer, or several.
EosId = int | tuple[int, ...]
# Takes the tokens of one position, int32 [B]; 0 for a row that has ended.
OnTokens = Callable[[np.ndarray], None]


def is_eos(chosen: Integer[Array, "*shape"], eos_id: EosId) -> Bool[Array, "*shape"]:
    """Returns for each of the tokens whether it is `eos_id`, or one of several."""
    ids = eos_id if isinstance(eos_id, tuple) else (eos_id,)
    return functools.reduce(operator.or_, (chosen == i for i in ids))


def write_answers(
    model: Any,
    params: Any,
    tokens: Integer[ArrayLike, "B S"],
    max_length: int,
    eos_id: EosId,
    lengths: Integer[ArrayLike, " B"] | None,
    choose: Callable,
    on_tokens: OnTokens | None = None,
) -> Integer[Array, "B {max_length}"]:
    """Returns the answers, int32 [B, max_length], with 0 after EOS.

    Args:
      model: a `T5` or a `DecoderLM`.
      params: its parameters.
      tokens: the inputs.
      max_length: the most tokens of an answer, T.
      eos_id: what ends an answer.
      lengths: of the inputs; see `decoding_start.input_lengths`.
      choose: (index, logits [B, V]) -> the next token of each row, int32 [B].
      on_tokens: called on the host with each of them in order; needs a single device.
    """
    lengths = input_lengths(model, tokens, lengths)

    def write(index: Any, logits: Any, written: Any, ended: Any) -> tuple:
        chosen = jnp.where(ended, 0, choose(index, logits))
        if on_tokens is not None:
            jax.debug.callback(on_tokens, chosen, ordered=True)
        written = jax.lax.dynamic_update_slice(written, chosen[:, None], (0, index))
        return index + 1, chosen, written, ended | is_eos(chosen, eos_id)

    def unfinished(state: tuple) -> Array:
        index, _, _, ended, _ = state
        return (index < max_length) & ~jnp.all(ended)

    def step(state: tuple) -> tuple:
        index, last, written, ended, cache = state
        logits, cache = start.read(last, index, cache)
        return *write(index, logits, written, ended), cache

    # A row without input is padding of the batch: it has ended before it begins.
    written, ended = jnp.zeros((tokens.shape[0], max_length), jnp.int32), lengths == 0
    start = begin(model, params, tokens, lengths, max_length)
    if start.logits is None:
        first = jnp.int32(0), jnp.full_like(written[:, 0], start_id(model)), written, ended
    else:
        first = write(jnp.int32(0), start.logits, written, ended)
    return jax.lax.while_loop(unfinished, step, (*first, start.cache))[2]
