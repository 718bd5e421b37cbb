"""Beam search with a length penalty, as Hugging Face's `generate` does it (`early_stopping` False).

Shape letters: B batch, K beams, T length of answers, V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flan_jax.models.decoding import greedy

# The score of a hypothesis that does not exist; finite, so that differences of such scores are
# numbers.
_NONE = -1e9


class _State(NamedTuple):
    """A search under way.

    Attributes:
      index: tokens written; last: the latest of each live hypothesis, int32 [B K].
      live, live_scores: int32 [B, K, T] and log-probabilities [B, K] of the hypotheses that go on,
        best first.
      done, done_scores, is_done: int32 [B, K, T], scores [B, K] and which of them exist, bool [B,
        K], best first.
      improvable: rows in which a live hypothesis may still become one of the K best, bool [B].
    """

    index: jax.Array
    last: jax.Array
    live: jax.Array
    live_scores: jax.Array
    done: jax.Array
    done_scores: jax.Array
    is_done: jax.Array
    improvable: jax.Array
    cache: dict


@functools.partial(jax.jit, static_argnames=("model", "max_length", "beams", "eos_id"))
def beam_search(
    model,
    params,
    tokens,
    max_length: int,
    beams: int = 4,
    length_penalty=1.0,
    eos_id: greedy.EosId = 1,
    lengths=None,
) -> tuple[jax.Array, jax.Array]:
    """Gives the best answers, int32 [B, beams, max_length] with 0 after EOS, and their scores
    float32, best first.

    A score is the sum of the tokens' log-probabilities / n**length_penalty, for n tokens with EOS.
    An answer ends with EOS, or where there is no more room. A row's search ends when it has `beams`
    answers and the best live hypothesis, were it to end now, would be worse than the worst of them;
    with one beam at the first answer, which makes it greedy. The other arguments, and rows of
    length 0, are those of `decoding.greedy`. As in T5X and Hugging Face the 2 * beams best
    continuations are looked at, so that `beams` of them go on even if the others end; with several
    `eos_id` as many more as may end.
    """
    lengths = greedy.given_lengths(model, tokens, lengths)
    start = greedy.begin(model, params, tokens, lengths, max_length, beams)
    extend = functools.partial(_extend, length_penalty=length_penalty, eos_id=eos_id, start=start)

    def unfinished(state):
        return (state.index < max_length) & jnp.any(state.improvable)

    def step(state):
        logits, cache = start.read(state.last, state.index, state.cache)
        return extend(state._replace(cache=cache), logits)

    shape = (tokens.shape[0], beams)
    nothing, none = jnp.zeros((*shape, max_length), jnp.int32), jnp.full(shape, _NONE)
    # All copies of a row begin alike: only the first may be continued.
    last = jnp.full(shape[0] * beams, greedy.start_id(model))
    state = _State(
        jnp.int32(0),
        last,
        nothing,
        none.at[:, 0].set(0.0),
        nothing,
        none,
        jnp.zeros(shape, bool),
        lengths > 0,
        start.cache,
    )
    if start.logits is not None:
        state = extend(state, start.logits)
    state = jax.lax.while_loop(unfinished, step, state)
    return state.done, state.done_scores


def _extend(
    state: _State, logits, length_penalty, eos_id: greedy.EosId, start: greedy.Start
) -> _State:
    """Gives the state after one more token, whose logits are [B K, V]."""
    beams, max_length = state.live.shape[1:]
    looked_at = beams * (1 + (len(eos_id) if isinstance(eos_id, tuple) else 1))
    scores, origins, chosen = _best_continuations(logits, state.live_scores, looked_at)
    sequences = _take(state.live, origins)
    sequences = jax.lax.dynamic_update_slice_in_dim(
        sequences, chosen[..., None], state.index, axis=2
    )
    written = state.index + 1
    ends = greedy.is_eos(chosen, eos_id) | (written == max_length)

    # What ends joins the answers, unless it is only looked at to keep enough hypotheses alive.
    joins = ends & (jnp.arange(looked_at) < beams) & state.improvable[:, None]
    penalty = written.astype(jnp.float32) ** length_penalty
    all_scores = jnp.concatenate(
        [state.done_scores, jnp.where(joins, scores / penalty, _NONE)], axis=1
    )
    done_scores, kept = jax.lax.top_k(all_scores, beams)
    done = _take(jnp.concatenate([state.done, sequences], axis=1), kept)
    is_done = _take(jnp.concatenate([state.is_done, joins], axis=1), kept)

    live_scores, goes_on = jax.lax.top_k(jnp.where(ends, _NONE, scores), beams)
    last = _take(chosen, goes_on).reshape(-1)
    cache = _reorder(state.cache, _take(origins, goes_on), start)

    complete = jnp.all(is_done, axis=1)
    worse = live_scores[:, 0] / penalty <= jnp.min(done_scores, axis=1)
    improvable = state.improvable & ~(complete & (worse | (beams == 1)))
    return _State(
        written,
        last,
        _take(sequences, goes_on),
        live_scores,
        done,
        done_scores,
        is_done,
        improvable,
        cache,
    )


def _best_continuations(logits, live_scores, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gives the `count` best, [B, count] each: log-probability, which of the K it continues, the
    token.
    """
    (batch, beams), vocab_size = live_scores.shape, logits.shape[-1]
    log_probs = (
        jax.nn.log_softmax(logits).reshape(batch, beams, vocab_size) + live_scores[..., None]
    )
    # The best of each hypothesis first: a sort of K V numbers is the slow part on a CPU.
    scores, tokens = jax.lax.top_k(log_probs, min(count, vocab_size))
    width = scores.shape[-1]
    scores, places = jax.lax.top_k(scores.reshape(batch, -1), count)
    return scores, places // width, _take(tokens.reshape(batch, -1), places)


def _reorder(cache: dict, origins, start: greedy.Start) -> dict:
    """Gives the cache in which hypothesis k has the keys and values of `origins` [B, K]; the
    input's are all alike.
    """
    batch, beams = origins.shape
    places = (origins + beams * jnp.arange(batch)[:, None]).reshape(-1)

    def reordered(x):
        return x.at[..., start.own :, :].set(jnp.take(x[..., start.own :, :], places, axis=-4))

    return {**cache, start.own_name: jax.tree.map(reordered, cache[start.own_name])}


def _take(x, places) -> jax.Array:
    """Gives `x` [B, M, ...] at `places` [B, K] of its second axis."""
    return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)
