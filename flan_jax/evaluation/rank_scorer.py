"""Rank classification: the log-probability of each option of a row.

A row's input is read once, and all its options follow it, so that every option sees the input and
none sees another: a segment each behind a T5's encoder, a branch each after a decoder's prefix.
Several rows lie in one row of a batch, so that hardly any padding is computed. Rank classification:
Wei et al. 2022, section 2.3.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Integer

from flan_jax.evaluation import batching
from flan_jax.models.adapters import prompt_length_of
from flan_jax.models.array_types import Array, TokenIds
from flan_jax.models.decoder import DecoderLM
from flan_jax.models.decoding.decoding_start import start_id

# A row whose options have more tokens than this together is spread over several decoder rows:
# attention costs T x T.
_MOST_OPTION_TOKENS = 512
# Targets of options that are scored apart.
_WIDTHS_APART = (16, 64, 256, 512)
# Option tokens whose logits are held at a time: 66 MB with T5's vocabulary.
_LOGITS_AT_ONCE = 512


class OptionScores(NamedTuple):
    """The scores of a row's options, O of them.

    Attributes:
      sums: log-probability of each option's tokens together, float64 [O]: float32 would hold -300
        to 3e-5 only.
      is_greedy: whether each token of an option is the most likely one in its place, bool [O]:
        greedy decoding would write it.
    """

    sums: Float[np.ndarray, " O"]
    is_greedy: Bool[np.ndarray, " O"]


class RankScorer:
    """Scores options with a model on a mesh.

    Attributes:
      shapes: the (B, S, T) so far; each of them is compiled once. S holds a decoder's inputs and
        options.
      tokens: how many tokens were computed so far, and how many positions they and padding took:
        int64 [2].
    """

    def __init__(
        self,
        model: nn.Module,
        mesh: jax.sharding.Mesh | None = None,
        batch_tokens: int | None = None,
        bos_id: int | None = 0,
    ):
        """Sets up for a `T5` or a `DecoderLM` on a mesh (None: one device).

        Args:
          model: the model.
          mesh: where the parameters are.
          batch_tokens: most tokens of a batch and device; None: 8,192, and on a CPU 2,048, which
            its cache holds.
          bos_id: what a decoder reads before the input; None: nothing. It has no effect on a T5.
        """
        self.model, self.mesh, self.bos_id = model, mesh, bos_id
        self.batch_tokens = batch_tokens or (2048 if jax.default_backend() == "cpu" else 8192)
        self.shapes: set[tuple[int, int, int]] = set()
        self.tokens = np.zeros(2, np.int64)

    def scores(
        self, params: Any, inputs: Sequence[TokenIds], options: Sequence[Sequence[TokenIds]]
    ) -> list[Float[np.ndarray, " _"]]:
        """Returns the log-probability of each option, its EOS included: float64 [O] for each row.

        Args:
          params: the model's parameters as they are in memory.
          inputs: per row, int32 token ids; ending in EOS for a T5, and as the text goes on for a
            decoder.
          options: per row, any number of options of int32 token ids ending in EOS.
        """
        return [scores.sums for scores in self.option_scores(params, inputs, options)]

    def option_scores(
        self, params: Any, inputs: Sequence[TokenIds], options: Sequence[Sequence[TokenIds]]
    ) -> list[OptionScores]:
        """Returns the same, and whether an option is what greedy decoding would write.

        The arguments are those of `scores`.
        """
        # Equal options are scored once: they tie exactly, whatever their positions would have done
        # to the last digit.
        inputs, parts = self._read(inputs, prompt_length_of(params)), _distinct_parts(options)
        by_option: list[dict[bytes, tuple[float, np.bool_]]] = [{} for _ in inputs]
        of_parts = self._parts_scores(params, [(inputs[row], part) for row, part in parts])
        for (row, part), scores in zip(parts, of_parts):
            for option, pair in zip(part, zip(*scores)):
                by_option[row][option.tobytes()] = pair
        return [_in_order(choices, known) for choices, known in zip(options, by_option)]

    def scores_apart(
        self, params: Any, source: TokenIds, options: Sequence[TokenIds]
    ) -> Float[np.ndarray, " O"]:
        """Returns the log-probability of each option after one input, float64 [O].

        It does not depend on what was scored before: the widths are a few fixed ones, where they
        fit; those of other rows are neither used nor changed.

        Args:
          params: the model's parameters as they are in memory.
          source: int32 token ids; see `scores`.
          options: int32 token ids each, ending in EOS.
        """
        width = batching.source_width(prompt_length_of(params) + len(source))
        if isinstance(self.model, DecoderLM):  # its inputs and options lie in one row
            widths = [(width + target, target) for target in _WIDTHS_APART]
        else:
            widths = [(width, target) for target in _WIDTHS_APART]
        shapes, self.shapes = self.shapes, {(0, *width) for width in widths}
        try:
            return self.scores(params, [source], [options])[0]
        finally:
            self.shapes = shapes

    def pass_over(
        self,
        inputs: Sequence[TokenIds],
        options: Sequence[Sequence[TokenIds]],
        prompt_length: int = 0,
    ) -> None:
        """Notes the shapes of rows that were scored before a restart.

        The rows after them get the same widths as then. Another width is another program, whose
        sums may differ in the last digit.

        Args:
          inputs: see `scores`.
          options: see `scores`.
          prompt_length: vectors of the prompt in the parameters.
        """
        parts, inputs = _distinct_parts(options), self._read(inputs, prompt_length)
        collections.deque(
            self._batches(self._sizes([(inputs[row], part) for row, part in parts])), maxlen=0
        )

    def _read(self, inputs: Sequence[TokenIds], prompt_length: int) -> Sequence[TokenIds]:
        return batching.prompts(self.model, inputs, self.bos_id, prompt_length)

    def _sizes(
        self, parts: Sequence[tuple[TokenIds, list[TokenIds]]]
    ) -> Integer[np.ndarray, "N 2"]:
        size = _decoder_size if isinstance(self.model, DecoderLM) else _t5_size
        return np.array([size(*part) for part in parts], np.int64).reshape(-1, 2)

    def _batches(self, sizes: Integer[np.ndarray, "N 2"]) -> Iterator[batching.PackedBatch]:
        for batch in batching.packed_batches(
            sizes,
            self.batch_tokens,
            batching.row_multiple(self.mesh),
            {shape[1:] for shape in self.shapes},
        ):
            self.shapes.add(batch[1:])
            yield batch

    def _parts_scores(
        self, params: Any, parts: Sequence[tuple[TokenIds, list[TokenIds]]]
    ) -> list[OptionScores]:
        layout = _decoder_row if isinstance(self.model, DecoderLM) else _t5_row
        sizes = self._sizes(parts)
        running: list[tuple] = []
        scores: dict[int, OptionScores] = {}
        with batching.on_mesh(self.mesh):
            for batch in self._batches(sizes):
                self.tokens += [sizes[sum(batch.rows, [])].sum(), batch.size * sum(batch[2:])]
                rows = [layout([parts[part] for part in row]) for row in batch.rows]
                arrays = [
                    batching.padded(columns, batch.size, batch[2 + on_target])
                    for on_target, side in enumerate(zip(*rows))
                    for columns in zip(*side)
                ]
                # Fetched below: the device works on while the next batches are packed.
                on_devices = [batching.to_devices(self.mesh, array) for array in arrays]
                running.append((batch.rows, _target_tokens(self.model, params, *on_devices)))
            for rows, results in running:
                log_probabilities, is_highest = (
                    batching.to_host(self.mesh, array) for array in results
                )
                for row, *tokens in zip(rows, log_probabilities, is_highest):
                    scores.update(zip(row, _split([parts[part][1] for part in row], *tokens)))
        return [scores[part] for part in range(len(parts))]


def _in_order(
    options: Sequence[TokenIds], known: Mapping[bytes, tuple[float, np.bool_]]
) -> OptionScores:
    """The scores of options, each looked up by its tokens."""
    pairs = [known[option.tobytes()] for option in options]
    sums = np.array([total for total, _ in pairs], np.float64)
    return OptionScores(sums, np.array([is_greedy for _, is_greedy in pairs], bool))


def _distinct_parts(options: Sequence[Sequence[TokenIds]]) -> list[tuple[int, list[TokenIds]]]:
    """(row, some of its options) of all rows, each option of a row once."""
    distinct = [
        list({option.tobytes(): option for option in choices}.values()) for choices in options
    ]
    return [(row, part) for row, choices in enumerate(distinct) for part in _parts(choices)]


def _parts(options: Sequence[TokenIds]) -> list[list[TokenIds]]:
    """Runs of options with at most `_MOST_OPTION_TOKENS` tokens, or a single option."""
    parts: list[list[TokenIds]] = []
    room = 0
    for option in options:
        room -= len(option)
        if not parts or room < 0:
            parts.append([])
            room = _MOST_OPTION_TOKENS - len(option)
        parts[-1].append(option)
    return parts


def _split(
    options: Sequence[Sequence[TokenIds]],
    log_probabilities: Float[np.ndarray, " T"],
    is_highest: Bool[np.ndarray, " T"],
) -> list[OptionScores]:
    """The scores of each part, from the tokens [T] of the row that their options share."""
    ends = np.cumsum([len(option) for part in options for option in part])
    begins = np.concatenate([[0], ends[:-1]])
    # In float64: an option of a hundred tokens is as exact as one of two.
    sums = np.add.reduceat(log_probabilities[: ends[-1]].astype(np.float64), begins)
    is_greedy = np.logical_and.reduceat(is_highest[: ends[-1]], begins)
    places = np.cumsum([len(part) for part in options])[:-1]
    by_part = zip(np.split(sums, places), np.split(is_greedy, places))
    return [OptionScores(*arrays) for arrays in by_part]


# How parts (input, options) lie in one row of a batch: the arrays [S] and the arrays [T] that
# `_target_tokens` takes, as long as they are filled, and the two lengths of one part.


def _t5_size(source: TokenIds, options: Sequence[TokenIds]) -> tuple[int, int]:
    return len(source), sum(map(len, options))


def _t5_row(
    parts: Sequence[tuple[TokenIds, list[TokenIds]]],
) -> tuple[list[TokenIds], list[TokenIds]]:
    """Source tokens and their parts; target tokens, their options and their parts, from 1 on."""
    numbers = np.arange(1, len(parts) + 1)
    options = [option for _, part in parts for option in part]
    return (
        [
            np.concatenate([source for source, _ in parts]),
            np.repeat(numbers, [len(source) for source, _ in parts]),
        ],
        [
            np.concatenate(options),
            np.repeat(np.arange(1, len(options) + 1), list(map(len, options))),
            np.repeat(numbers, [sum(map(len, part)) for _, part in parts]),
        ],
    )


def _decoder_size(source: TokenIds, options: Sequence[TokenIds]) -> tuple[int, int]:
    tokens = sum(map(len, options))
    return len(source) + tokens - len(options), tokens


def _decoder_row(
    parts: Sequence[tuple[TokenIds, list[TokenIds]]],
) -> tuple[list[TokenIds], list[TokenIds]]:
    """Tokens, positions, part and branch of prefixes and options; target tokens and their places.

    The place of a target token is where the model predicts it: of the first token of an option the
    end of the prefix, of the others the token before them, so that the last one is not read.
    """
    columns, target, places, end = [], [], [], 0
    for number, (source, options) in enumerate(parts, 1):
        pieces = [source, *(option[:-1] for option in options)]
        sizes = list(map(len, pieces))
        within = [np.arange(sizes[0]), *(sizes[0] + np.arange(size) for size in sizes[1:])]
        columns.append(
            (
                np.concatenate(pieces),
                np.concatenate(within),
                np.full(sum(sizes), number),
                np.repeat(np.arange(len(pieces)), sizes),
            )
        )
        begins = end + np.cumsum(sizes)
        for begin, option in zip(begins, options):
            target.append(option)
            places.append(
                np.concatenate([[end + sizes[0] - 1], np.arange(begin, begin + len(option) - 1)])
            )
        end += sum(sizes)
    return (
        [np.concatenate(column) for column in zip(*columns)],
        [np.concatenate(target), np.concatenate(places)],
    )


@functools.partial(jax.jit, static_argnames="model")
def _target_tokens(
    model: nn.Module, params: Any, *arrays: Integer[Array, "B _"]
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """Log-probability of each target token, float32, and whether it is the highest.

    The arrays are those of `_t5_row` or `_decoder_row`, int32 [B, S] and [B, T].
    """
    apply = functools.partial(model.apply, {"params": params})
    t5_hidden = functools.partial(_t5_hidden, start_id(model))
    hidden, target = (_decoder_hidden if isinstance(model, DecoderLM) else t5_hidden)(
        apply, *arrays
    )

    def score_chunk(chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden, target = chunk
        logits = apply(hidden, method="logits")
        chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
        highest = logits.max(axis=-1)
        log_z = highest + jnp.log(jnp.exp(logits - highest[..., None]).sum(axis=-1))
        return chosen - log_z, chosen >= highest

    batch, width = target.shape
    chunk = max(n for n in range(1, max(_LOGITS_AT_ONCE // batch, 1) + 1) if width % n == 0)

    def chunked(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(batch, -1, chunk, *x.shape[2:]), 1, 0)

    chunks = jax.lax.map(score_chunk, (chunked(hidden), chunked(target)))
    return tuple(jnp.moveaxis(array, 0, 1).reshape(batch, width) for array in chunks)


def _t5_hidden(
    start_id: Integer[Array, ""],
    apply: Callable,
    source: Integer[Array, "B S"],
    source_segments: Integer[Array, "B S"],
    target: Integer[Array, "B T"],
    segments: Integer[Array, "B T"],
    cross_segments: Integer[Array, "B T"],
) -> tuple[Float[Array, "B T D"], Integer[Array, "B T"]]:
    """The vectors that predict the target tokens, and these tokens.

    The decoder of each option begins with `start_id`.
    """
    encoded = apply(source, source_segments, method="encode")

    def shifted(array: jax.Array) -> jax.Array:
        return jnp.pad(array, ((0, 0), (1, 0)))[:, :-1]

    given = jnp.where(segments == shifted(segments), shifted(target), start_id)
    return apply(
        encoded, source_segments, given, segments, cross_segments, method="decode_hidden"
    ), target


def _decoder_hidden(
    apply: Callable,
    tokens: Integer[Array, "B S"],
    positions: Integer[Array, "B S"],
    segments: Integer[Array, "B S"],
    branches: Integer[Array, "B S"],
    target: Integer[Array, "B T"],
    places: Integer[Array, "B T"],
) -> tuple[Float[Array, "B T D"], Integer[Array, "B T"]]:
    """The same from a decoder."""
    return apply(tokens, positions, segments, branches, places, method="branch_hidden"), target
