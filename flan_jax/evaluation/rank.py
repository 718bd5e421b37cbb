"""Rank classification: how likely the model finds each option of a row.

A row's input is read once, and all its options follow it in one decoder row, so that every option sees the input and
none sees another: a segment each behind a T5's encoder, a branch each after a decoder's prefix. Rank classification:
Wei et al. 2022, section 2.3.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flan_jax.evaluation import buckets
from flan_jax.models.decoder import DecoderLM

# A row whose options have more tokens than this together is spread over several decoder rows: attention costs T x T.
_MOST_OPTION_TOKENS = 512


class RankScorer:
    """Scores options with a model on a mesh.

    Attributes:
      shapes: the (B, S, T) met so far; each of them is compiled once.
    """

    def __init__(self, model, mesh: jax.sharding.Mesh | None = None, batch_tokens: int = 8192,
                 bos_id: int | None = 0):
        """Sets up for a `T5` or a `DecoderLM` on a mesh (None: one device).

        Args:
          model: the model.
          mesh: where the parameters are.
          batch_tokens: most tokens of a batch and device.
          bos_id: what a decoder reads before the input; None: nothing. A T5 is not concerned.
        """
        self.model, self.mesh, self.batch_tokens, self.bos_id = model, mesh, batch_tokens, bos_id
        self.shapes: set[tuple[int, int, int]] = set()

    def scores(self, params: Any, inputs: Sequence[np.ndarray],
               options: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Log-probability of each option, its EOS included: float32 [O] for each row, rows in the given order.

        Args:
          params: the model's parameters as they are in memory.
          inputs: per row, int32 token ids; ending in EOS for a T5, and as the text goes on for a decoder.
          options: per row, any number of options of int32 token ids ending in EOS.
        """
        # Equal options are scored once: they tie exactly, whatever their places would have done to the last digit.
        distinct = [list({option.tobytes(): option for option in choices}.values()) for choices in options]
        inputs = buckets.prompts(self.model, inputs, self.bos_id)
        parts = [(row, part) for row, choices in enumerate(distinct) for part in _parts(choices)]
        sums = self._scores_of_parts(params, [inputs[row] for row, _ in parts], [part for _, part in parts])
        found: list[dict[bytes, np.float32]] = [{} for _ in inputs]
        for (row, part), of in zip(parts, sums):
            found[row].update((option.tobytes(), score) for option, score in zip(part, of))
        return [np.array([of[option.tobytes()] for option in choices], np.float32)
                for of, choices in zip(found, options)]

    def _scores_of_parts(self, params, inputs, options) -> list[np.ndarray]:
        lengths = [len(row) for row in inputs], [sum(map(len, part)) for part in options]
        running = []
        with buckets.on_mesh(self.mesh):
            for batch in buckets.batches(*lengths, self.batch_tokens, buckets.row_multiple(self.mesh)):
                self.shapes.add(batch[1:])
                source = buckets.padded([inputs[row] for row in batch.rows], batch.size, batch.source_width)
                target, segments = _pack([options[row] for row in batch.rows], batch.size, batch.target_width)
                source_lengths = buckets.lengths([inputs[row] for row in batch.rows], batch.size)
                arrays = [buckets.to_devices(self.mesh, array) for array in (source, source_lengths, target, segments)]
                # Fetched below: the device works on while the next batches are packed.
                running.append((batch, _option_sums(self.model, params, *arrays)))
            found = {row: of[:len(options[row])] for batch, sums in running
                     for row, of in zip(batch.rows.tolist(), buckets.to_host(self.mesh, sums))}
        return [found[row] for row in range(len(inputs))]


def _parts(options: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Runs of options with at most `_MOST_OPTION_TOKENS` tokens, or a single option."""
    parts: list[list[np.ndarray]] = []
    room = 0
    for option in options:
        room -= len(option)
        if not parts or room < 0:
            parts.append([])
            room = _MOST_OPTION_TOKENS - len(option)
        parts[-1].append(option)
    return parts


def _pack(options: Sequence[Sequence[np.ndarray]], size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The options of each row one after another, and which one a token is of (1..O; 0 is padding): int32 [B, T]."""
    segments = [np.repeat(np.arange(1, len(part) + 1), [len(option) for option in part]) for part in options]
    return (buckets.padded([np.concatenate(part) for part in options], size, width),
            buckets.padded(segments, size, width))


@functools.partial(jax.jit, static_argnames="model")
def _option_sums(model, params, source: jax.Array, lengths: jax.Array, target: jax.Array,
                 segments: jax.Array) -> jax.Array:
    """Log-probability of each segment's tokens: float32 [B, T], segment i at [:, i - 1].

    source int32 [B, S], lengths int32 [B]; target and segments int32 [B, T]. There are as many sums as tokens, since no
    segment is empty: so the number of options needs no compilation of its own.
    """
    logits_of = _decoder_logits if isinstance(model, DecoderLM) else _t5_logits
    logits = logits_of(functools.partial(model.apply, {"params": params}), source, lengths, target, segments)
    chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    log_probabilities = chosen - jax.nn.logsumexp(logits, axis=-1)
    belongs = segments[:, :, None] == jnp.arange(1, target.shape[1] + 1)
    return jnp.where(belongs, log_probabilities[:, :, None], 0.0).sum(axis=1)


def _shifted(array: jax.Array) -> jax.Array:
    return jnp.pad(array, ((0, 0), (1, 0)))[:, :-1]


def _t5_logits(apply, source, lengths, target, segments) -> jax.Array:
    """The logits [B, T, V] of which each target token is one, from an encoder that reads the source."""
    source_segments = (jnp.arange(source.shape[1]) < lengths[:, None]).astype(jnp.int32)
    encoded = apply(source, source_segments, method="encode")
    given = jnp.where(segments == _shifted(segments), _shifted(target), 0)
    every_option = (segments > 0).astype(jnp.int32)
    return apply(encoded, source_segments, given, segments, every_option, method="decode")


def _decoder_logits(apply, source, lengths, target, segments) -> jax.Array:
    """The same from a decoder: rows of S + T tokens, a prefix and its branches."""
    (batch, width), places = source.shape, jnp.arange(target.shape[1])
    prefix = jnp.broadcast_to(jnp.arange(width), (batch, width))
    begins = segments != _shifted(segments)
    within = places - jax.lax.cummax(jnp.where(begins, places, 0), axis=1)
    # The first token of an option is told at the end of the prefix, the others by the token before them.
    told_at = jnp.where(begins, lengths[:, None] - 1, width + places - 1)
    return apply(
        jnp.concatenate([source, target], axis=1),
        positions=jnp.concatenate([prefix, lengths[:, None] + within], axis=1),
        segment_ids=jnp.concatenate([prefix < lengths[:, None], segments > 0], axis=1).astype(jnp.int32),
        branch_ids=jnp.concatenate([jnp.zeros_like(prefix), segments], axis=1),
        at=jnp.maximum(told_at, 0), method="branch_logits")
