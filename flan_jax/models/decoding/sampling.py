"""Sampling: each token drawn from the model's distribution, or from its likeliest tokens."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float, Integer, Key

from flan_jax.models.array_types import Array
from flan_jax.models.decoding.token_loop import EosId, OnTokens, write_answers


@functools.partial(
    jax.jit, static_argnames=("model", "max_length", "top_k", "top_p", "eos_id", "on_tokens")
)
def sample(
    model: Any,
    params: Any,
    tokens: Integer[ArrayLike, "B S"],
    max_length: int,
    seed: Integer[ArrayLike, ""],
    places: Integer[ArrayLike, " B"],
    temperature: Float[ArrayLike, ""] | Integer[ArrayLike, ""] = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_id: EosId = 1,
    lengths: Integer[ArrayLike, " B"] | None = None,
    on_tokens: OnTokens | None = None,
) -> Integer[Array, "B {max_length}"]:
    """Returns tokens drawn from the model's distribution, int32, with 0 after the first EOS.

    A draw depends on `seed`, on the row's place and on the position in the answer alone: rows may
    share a batch with any others. `greedy.greedy` describes the arguments that both have, and
    `method.Decoding` `temperature`, `top_k` and `top_p`.

    Args:
      model: see `greedy`.
      params: see `greedy`.
      tokens: see `greedy`.
      max_length: see `greedy`.
      seed: of all draws.
      places: the place of each row in the whole list of inputs.
      temperature: see `Decoding`.
      top_k: see `Decoding`.
      top_p: see `Decoding`.
      eos_id: see `greedy`.
      lengths: see `greedy`.
      on_tokens: see `greedy`.

    Raises:
      ValueError: if a decoder's lengths are None.
    """
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(places)

    def choose(index: Array, logits: Float[Array, "B V"]) -> Integer[Array, " B"]:
        keys_of_token = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        return draw(keys_of_token, logits / temperature, top_k, top_p)

    return write_answers(model, params, tokens, max_length, eos_id, lengths, choose, on_tokens)


def draw(
    keys: Key[Array, " B"], logits: Float[Array, "B V"], top_k: int, top_p: float
) -> Integer[Array, " B"]:
    """Returns int32 [B], one token for each row, drawn with its own key."""
    categorical = jax.vmap(jax.random.categorical)
    if not top_k and top_p == 1:
        return categorical(keys, logits).astype(jnp.int32)
    likeliest, ids = jax.lax.top_k(logits, min(top_k or logits.shape[-1], logits.shape[-1]))
    if top_p < 1:
        probabilities = jax.nn.softmax(likeliest)
        of_likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
        likeliest = jnp.where(of_likelier < top_p, likeliest, -jnp.inf)
    chosen = categorical(keys, likeliest)[:, None]
    return jnp.take_along_axis(ids, chosen, axis=1)[:, 0].astype(jnp.int32)
