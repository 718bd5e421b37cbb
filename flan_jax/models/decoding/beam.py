"""Beam search with a length penalty, as Hugging Face's `generate` does it (`early_stopping` False).

Shape letters: B batch, S width of the input, W beams (hypotheses of a row), T length of answers,
V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float, Float32, Integer, Num, Shaped

from flan_jax.models.array_types import Array
from flan_jax.models.decoding.decoding_start import DecodingStart, begin, input_lengths, start_id
from flan_jax.models.decoding.token_loop import EosId, is_eos

# The score of a hypothesis that does not exist; finite, so that differences of such scores are
# numbers.
_NO_SCORE = -1e9


class _State(NamedTuple):
    """A search under way.

    Attributes:
      index: how many tokens are written.
      last: the latest token of each live hypothesis, int32 [B W].
      live: the hypotheses that go on, best first, int32 [B, W, T].
      live_scores: their log-probabilities [B, W].
      done: the answers, best first, int32 [B, W, T].
      done_scores: their scores [B, W].
      is_done: which of the answers exist, bool [B, W].
      improvable: rows in which a live hypothesis may still become one of the W best, bool [B].
      cache: keys and values.
    """

    index: Array
    last: Array
    live: Array
    live_scores: Array
    done: Array
    done_scores: Array
    is_done: Array
    improvable: Array
    cache: dict[str, Any]


@functools.partial(jax.jit, static_argnames=("model", "max_length", "beams", "eos_id"))
def beam_search(
    model: Any,
    params: Any,
    tokens: Integer[ArrayLike, "B S"],
    max_length: int,
    beams: int = 4,
    length_penalty: Num[ArrayLike, ""] = 1.0,
    eos_id: EosId = 1,
    lengths: Integer[ArrayLike, " B"] | None = None,
) -> tuple[Integer[Array, "B {beams} {max_length}"], Float32[Array, "B {beams}"]]:
    """Returns the best answers, int32 with 0 after EOS, and their scores, best first.

    A score is the sum of the tokens' log-probabilities / n**length_penalty, for n tokens with EOS.
    An answer ends with EOS, or at `max_length`. A row's search ends when it has `beams` answers and
    the best live hypothesis, were it to end now, would be worse than the worst of them; with one
    beam at the first answer, which makes it greedy. As in T5X and Hugging Face the 2 * beams best
    continuations are considered, so that `beams` of them go on even if the others end; with several
    `eos_id` as many more as may end.

    Args:
      model: see `greedy.greedy`.
      params: see `greedy.greedy`.
      tokens: see `greedy.greedy`.
      max_length: see `greedy.greedy`.
      beams: how many hypotheses are kept.
      length_penalty: see above.
      eos_id: see `greedy.greedy`.
      lengths: see `greedy.greedy`.

    Raises:
      ValueError: if a decoder's lengths are None.
    """
    lengths = input_lengths(model, tokens, lengths)
    start = begin(model, params, tokens, lengths, max_length, beams)
    extend = functools.partial(_extend, length_penalty=length_penalty, eos_id=eos_id, start=start)

    def unfinished(state: _State) -> Array:
        return (state.index < max_length) & jnp.any(state.improvable)

    def step(state: _State) -> _State:
        logits, cache = start.read(state.last, state.index, state.cache)
        return extend(state._replace(cache=cache), logits)

    shape = (tokens.shape[0], beams)
    no_tokens = jnp.zeros((*shape, max_length), jnp.int32)
    no_scores = jnp.full(shape, _NO_SCORE)
    last = jnp.full(shape[0] * beams, start_id(model))
    state = _State(
        index=jnp.int32(0),
        last=last,
        live=no_tokens,
        # All copies of a row begin alike: only the first may be continued.
        live_scores=no_scores.at[:, 0].set(0.0),
        done=no_tokens,
        done_scores=no_scores,
        is_done=jnp.zeros(shape, bool),
        improvable=lengths > 0,
        cache=start.cache,
    )
    if start.logits is not None:
        state = extend(state, start.logits)
    state = jax.lax.while_loop(unfinished, step, state)
    return state.done, state.done_scores


def _extend(
    state: _State,
    logits: Float[Array, "rows V"],
    length_penalty: Num[ArrayLike, ""],
    eos_id: EosId,
    start: DecodingStart,
) -> _State:
    """Returns the state after one more token, whose logits are [B W, V]."""
    beams, max_length = state.live.shape[1:]
    considered = beams * (1 + (len(eos_id) if isinstance(eos_id, tuple) else 1))
    scores, origins, chosen = _best_continuations(logits, state.live_scores, considered)
    sequences = _take(state.live, origins)
    sequences = jax.lax.dynamic_update_slice_in_dim(
        sequences, chosen[..., None], state.index, axis=2
    )
    written = state.index + 1
    ends = is_eos(chosen, eos_id) | (written == max_length)

    # What ends joins the answers, unless it is only there to keep enough hypotheses alive.
    joins = ends & (jnp.arange(considered) < beams) & state.improvable[:, None]
    penalty = written.astype(jnp.float32) ** length_penalty
    joining_scores = jnp.where(joins, scores / penalty, _NO_SCORE)
    all_scores = jnp.concatenate([state.done_scores, joining_scores], axis=1)
    done_scores, kept = jax.lax.top_k(all_scores, beams)
    done = _take(jnp.concatenate([state.done, sequences], axis=1), kept)
    is_done = _take(jnp.concatenate([state.is_done, joins], axis=1), kept)

    live_scores, goes_on = jax.lax.top_k(jnp.where(ends, _NO_SCORE, scores), beams)
    last = _take(chosen, goes_on).reshape(-1)
    cache = _reorder(state.cache, _take(origins, goes_on), start)

    complete = jnp.all(is_done, axis=1)
    worse = live_scores[:, 0] / penalty <= jnp.min(done_scores, axis=1)
    improvable = state.improvable & ~(complete & (worse | (beams == 1)))
    live = _take(sequences, goes_on)
    return _State(written, last, live, live_scores, done, done_scores, is_done, improvable, cache)


def _best_continuations(
    logits: Float[Array, "rows V"], live_scores: Float[Array, "B W"], count: int
) -> tuple[Float[Array, "B {count}"], Integer[Array, "B {count}"], Integer[Array, "B {count}"]]:
    """Returns the best: log-probability, which of the W hypotheses it continues, and the token."""
    (batch, beams), vocab_size = live_scores.shape, logits.shape[-1]
    log_probs = jax.nn.log_softmax(logits).reshape(batch, beams, vocab_size)
    log_probs = log_probs + live_scores[..., None]
    # The best of each hypothesis first: a sort of W V numbers is the slow part on a CPU.
    scores, tokens = jax.lax.top_k(log_probs, min(count, vocab_size))
    width = scores.shape[-1]
    scores, places = jax.lax.top_k(scores.reshape(batch, -1), count)
    return scores, places // width, _take(tokens.reshape(batch, -1), places)


def _reorder(
    cache: dict[str, Any], origins: Integer[Array, "B W"], start: DecodingStart
) -> dict[str, Any]:
    """Returns the cache in which each hypothesis has the keys and values of its origin.

    Those of the input are the same for all hypotheses of a row.
    """
    batch, beams = origins.shape
    places = (origins + beams * jnp.arange(batch)[:, None]).reshape(-1)
    first = start.answer_slot

    def reordered(x: Array) -> Array:
        return x.at[..., first:, :].set(jnp.take(x[..., first:, :], places, axis=-4))

    answers = jax.tree.map(reordered, cache[start.answer_name])
    return {**cache, start.answer_name: answers}


def _take(x: Shaped[Array, "B M ..."], places: Integer[Array, "B W"]) -> Shaped[Array, "B W ..."]:
    """Returns `x` at `places` of its second axis."""
    return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)
