"""Greedy decoding: the most likely token at every position."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jaxtyping import ArrayLike, Float, Integer

from flan_jax.models import cpu
from flan_jax.models.array_types import Array
from flan_jax.models.decoding.token_loop import EosId, OnTokens, write_answers


@functools.partial(jax.jit, static_argnames=("model", "max_length", "eos_id", "on_tokens"))
def greedy(
    model: Any,
    params: Any,
    tokens: Integer[ArrayLike, "B S"],
    max_length: int,
    eos_id: EosId = 1,
    lengths: Integer[ArrayLike, " B"] | None = None,
    on_tokens: OnTokens | None = None,
) -> Integer[Array, "B {max_length}"]:
    """Returns the most likely token at every position, int32, with 0 after the first EOS.

    It stops as soon as every row has ended. Compiled once for each shape; call it inside `use_mesh`
    when `params` are sharded.

    Args:
      model: a `T5` or a `DecoderLM`.
      params: its parameters.
      tokens: what a `T5` encodes or what a `DecoderLM` continues, its first token included.
      max_length: the most tokens of an answer, T.
      eos_id: the token that ends an answer, or several.
      lengths: how many tokens of each row count; None, for T5: those that are not 0. A row of
        length 0 gives zeros.
      on_tokens: see `token_loop.write_answers`.

    Raises:
      ValueError: if a decoder's lengths are None.
    """

    def choose(_: Array, logits: Float[Array, "B V"]) -> Integer[Array, " B"]:
        return cpu.first_argmax(logits)

    return write_answers(model, params, tokens, max_length, eos_id, lengths, choose, on_tokens)
