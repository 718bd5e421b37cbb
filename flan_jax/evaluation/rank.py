"""Rank classification: how likely the model finds each option of a row.

A row is encoded once and all its options lie in one decoder row, a segment each, so that every option sees the input
and none sees another. Rank classification: Wei et al. 2022, section 2.3.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flan_jax.evaluation import buckets

# A row whose options have more tokens than this together is spread over several decoder rows: attention costs T x T.
_MOST_OPTION_TOKENS = 512


class RankScorer:
    """Scores options with a model on a mesh.

    Attributes:
      shapes: the (B, S, T) met so far; each of them is compiled once.
    """

    def __init__(self, model, mesh: jax.sharding.Mesh | None = None, batch_tokens: int = 8192):
        """Sets up for a `T5` on a mesh (None: one device), with at most `batch_tokens` tokens a batch and device."""
        self.model, self.mesh, self.batch_tokens = model, mesh, batch_tokens
        self.shapes: set[tuple[int, int, int]] = set()

    def scores(self, params: Any, inputs: Sequence[np.ndarray],
               options: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Log-probability of each option, its EOS included: float32 [O] for each row, rows in the given order.

        Args:
          params: the model's parameters as they are in memory.
          inputs: per row, int32 token ids ending in EOS.
          options: per row, any number of options of int32 token ids ending in EOS.
        """
        # Equal options are scored once: they tie exactly, whatever their places would have done to the last digit.
        distinct = [list({option.tobytes(): option for option in choices}.values()) for choices in options]
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
                arrays = [buckets.to_devices(self.mesh, array) for array in (source, target, segments)]
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
def _option_sums(model, params, source: jax.Array, target: jax.Array, segments: jax.Array) -> jax.Array:
    """Log-probability of each segment's tokens: float32 [B, T], segment i at [:, i - 1].

    source int32 [B, S]; target and segments int32 [B, T]. There are as many sums as tokens, since no segment is empty:
    so the number of options needs no compilation of its own.
    """
    def shifted(array):
        return jnp.pad(array, ((0, 0), (1, 0)))[:, :-1]

    source_segments = (source > 0).astype(jnp.int32)
    encoded = model.apply({"params": params}, source, source_segments, method="encode")
    given = jnp.where(segments == shifted(segments), shifted(target), 0)
    every_option = (segments > 0).astype(jnp.int32)
    logits = model.apply({"params": params}, encoded, source_segments, given, segments, every_option, method="decode")
    chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    log_probabilities = chosen - jax.nn.logsumexp(logits, axis=-1)
    belongs = segments[:, :, None] == jnp.arange(1, target.shape[1] + 1)
    return jnp.where(belongs, log_probabilities[:, :, None], 0.0).sum(axis=1)
