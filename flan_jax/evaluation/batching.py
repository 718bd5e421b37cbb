"""Rows of any length in batches of few shapes, onto a mesh and back.

Rows whose options are scored are packed, several in one row of a batch; rows that are answered are
not. Widths come from a ladder, those of an earlier batch are used again where they fit, and a
width has two batch sizes: an evaluation compiles a handful of programs whatever its rows are. What
a row scores does not depend on what it shares a batch with.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import ArrayLike

from flan_jax.data.packing import pack_window
from flan_jax.errors import UserError
from flan_jax.models.decoder import DecoderLM
from flan_jax.parallel import partitioning

# The smaller batch size, as a part of the full one: what is left over is padded to it.
_SMALL_BATCH = 8
# Packed rows may be that much smaller: they are wide, and there are few of them.
_SMALL_PACKED_BATCH = 16
# In a packed row of this width, attention costs as much as everything else. For T5 1.1 tiny on a
# CPU the width is 200, for small 2,500, and more for larger models.
_COSTLY_ATTENTION = 4096
# How many rows are packed with each width to choose one, and how many at most are packed together.
_SAMPLE, _WINDOW = 128, 4096
# A width that is compiled already is used for rows that need this part of it: with 64 tokens to
# write, the wider batch costs small T5 on a CPU at most 0.2 s more, and another program takes 2 s.
_NEAR = 0.8
# The share of rows that a width must hold; the others get one of their own.
_MOST = 0.95


class Batch(NamedTuple):
    """Rows that share a shape.

    Attributes:
      rows: which of the given rows these are, int64 [at most B].
      size: B, the number of rows after padding.
      source_width, target_width: S and T, the tokens of a row after padding.
    """

    rows: np.ndarray
    size: int
    source_width: int
    target_width: int


class PackedBatch(NamedTuple):
    """Rows of a batch that hold several of the given rows each.

    Attributes:
      rows: which of the given rows lie in each row of the batch, at most B.
      size: B, the number of rows after padding.
      source_width, target_width: S and T, the tokens of a row after padding.
    """

    rows: list[list[int]]
    size: int
    source_width: int
    target_width: int


def packed_batches(
    sizes: np.ndarray, batch_tokens: int, multiple: int, known: Collection[tuple[int, int]] = ()
) -> Iterator[PackedBatch]:
    """Yields batches of packed rows, widest first, so that a lack of memory shows at once.

    Args:
      sizes: tokens of each row in encoder and decoder, int [N, 2].
      batch_tokens: most tokens (B / multiple) (S + T) of a batch, unless a single row has more.
      multiple: B is a multiple of it: the number of devices over which rows are split.
      known: the (S, T) that are compiled already, and are taken if others are hardly better.
    """
    packings, left = [], np.lexsort(sizes.T[::-1])
    while len(left):
        widths = _best_widths(sizes[left], set(known), batch_tokens)
        fits = (sizes[left] <= widths).all(axis=1)
        rows, left = left[fits], left[~fits]
        windows = -(-len(rows) // _WINDOW)
        packings.append(
            (
                widths,
                [
                    part[row].tolist()
                    for part in (rows[begin::windows] for begin in range(windows))
                    for row in pack_window(sizes[part], widths)
                ],
            )
        )
    for widths, rows in sorted(packings, reverse=True):
        full = multiple * _power_of_two_below(max(batch_tokens // sum(widths), 1))
        small = multiple * max(full // multiple // _SMALL_PACKED_BATCH, 1)
        while rows:
            size = full if len(rows) > full - small else small
            yield PackedBatch(rows[:size], size, *widths)
            rows = rows[size:]


def _best_widths(
    sizes: np.ndarray, known: set[tuple[int, int]], batch_tokens: int
) -> tuple[int, int]:
    """The (S, T) in which rows of these sizes [N, 2], in the order of their inputs, cost least."""
    sample = sizes[np.linspace(0, len(sizes) - 1, min(len(sizes), _SAMPLE)).astype(int)]
    best, least = None, np.inf
    for widths in sorted({*_candidates(sample), *known}):
        fits = (sample <= widths).all(axis=1)
        if fits.mean() < _MOST:
            continue
        # What does not fit is packed later, less well.
        tokens = (
            len(pack_window(sample[fits], widths)) * _cost(*widths)
            + 1.5 * _cost(*sample[~fits].T).sum()
        )
        cost = tokens * len(sizes) / len(sample) + (
            0 if widths in known else batch_tokens / _SMALL_PACKED_BATCH
        )
        if cost < least:
            best, least = widths, cost
    return best


def _candidates(sample: np.ndarray) -> Iterator[tuple[int, int]]:
    """Widths for one to about six of these rows, with targets as they need or a little more."""
    (source, target), most = sample.mean(axis=0), np.quantile(sample, 0.9, axis=0, method="higher")
    last = max(sample[:, 0].max(), int(6 * source))
    width = _step_up(max(int(np.median(sample[:, 0])), 1), 16)
    while width <= _step_up(last, 16):
        for room in (1.0, 1.1):
            yield (
                width,
                max(
                    _step_up(int(np.ceil(room * width * target / source)), 8),
                    _step_up(int(most[1]), 8),
                ),
            )
        width = _step_up(width + 1, 16)
    yield _step_up(int(sample[:, 0].max()), 16), _step_up(int(sample[:, 1].max()), 8)


def _cost(source: ArrayLike, target: ArrayLike) -> ArrayLike:
    """The cost of a row, in tokens that attend to nothing."""
    return (source + target) * (1 + np.maximum(source, target) / _COSTLY_ATTENTION)


def _step_up(length: int, step: int) -> int:
    """The least width for `length` tokens.

    Widths are multiples of `step`, from 16 steps on in 8 steps to each power of two.
    """
    step = max(step, _power_of_two_above(length) // 16)
    return -(-length // step) * step


def batches(
    source_lengths: Sequence[int],
    target_lengths: Sequence[int],
    batch_tokens: int,
    multiple: int,
    known: Collection[int] = (),
) -> Iterator[Batch]:
    """Yields batches of rows by length, longest first, so that a lack of memory shows at once.

    A batch is as wide as its longest row needs, or as an earlier one if that is at most a quarter
    wider. What is left at the end fills up a batch as well: a step takes about as long for one row
    as for all.

    Args:
      source_lengths: tokens of each row in the encoder.
      target_lengths: tokens of each row in the decoder.
      batch_tokens: most tokens (B / multiple) (S + T) of a batch, unless a single row has more.
      multiple: B is a multiple of it: the number of devices over which rows are split.
      known: the S that are compiled already.
    """
    known, sources = set(known), np.asarray(source_lengths)
    targets = np.array([target_width(int(length)) for length in target_lengths])
    for target in sorted(set(targets.tolist()), reverse=True):
        rows = np.flatnonzero(targets == target)
        rows = rows[np.argsort(-sources[rows], kind="stable")]
        while len(rows):
            needed = source_width(int(sources[rows[0]]))
            source = min(
                (width for width in known if _NEAR * width <= needed <= width), default=needed
            )
            known.add(source)
            full = multiple * _power_of_two_below(max(batch_tokens // (source + target), 1))
            small = multiple * max(full // multiple // _SMALL_BATCH, 1)
            size = full if len(rows) > small else small
            yield Batch(rows[:size], size, source, target)
            rows = rows[size:]


def source_width(length: int) -> int:
    """Returns the width for `length` input tokens.

    Widths are 32, 48, 64 and so on to 256, then in 8 steps to each power of two.
    """
    return _step_up(max(length, 32), 16)


def target_width(length: int) -> int:
    """Returns the width for `length` decoder tokens: 16, 32, 64, 128, ..."""
    return _power_of_two_above(max(length, 16))


def padded(rows: Sequence[np.ndarray], size: int, width: int) -> np.ndarray:
    """Returns rows of token ids as one int32 array [size, width], padded with 0."""
    array = np.zeros((size, width), np.int32)
    for place, row in enumerate(rows):
        array[place, : len(row)] = row
    return array


def lengths(rows: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Returns how many tokens each row has: int32 [size], 0 for the rows that pad a batch."""
    return np.array([*map(len, rows), *[0] * (size - len(rows))], np.int32)


def prompts(
    model: nn.Module,
    inputs: Sequence[np.ndarray],
    bos_id: int | None,
    prompt_length: int = 0,
) -> Sequence[np.ndarray]:
    """Returns what a model reads: for a decoder `bos_id` and the input, for a T5 the input.

    Args:
      model: a T5 or a decoder.
      inputs: int32 token ids.
      bos_id: None: nothing before the input.
      prompt_length: vectors of a tuned prompt, whose ids are in front of all else; 0: none.

    Raises:
      UserError: if a decoder would read nothing.
    """
    before = [model.config.vocab_size + place for place in range(prompt_length)]
    if isinstance(model, DecoderLM) and bos_id is not None:
        before.append(bos_id)
    if before:
        return [np.concatenate([before, row]).astype(np.int32) for row in inputs]
    if isinstance(model, DecoderLM) and not all(map(len, inputs)):
        raise UserError(
            "An input has no token, and a decoder that begins without a BOS token needs at least "
            "one; give the input a word or the model a bos_id."
        )
    return inputs


def row_multiple(mesh: jax.sharding.Mesh | None) -> int:
    """Returns the number of devices over which the rows of a batch are split."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def on_mesh(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Returns the context in which a program for the mesh is traced and run.

    It does nothing for one device (None).
    """
    return contextlib.nullcontext() if mesh is None else partitioning.use_mesh(mesh)


def to_devices(mesh: jax.sharding.Mesh | None, array: np.ndarray) -> jax.Array:
    """Returns an array [B, ...] that every host holds whole, with B split over the mesh."""
    if mesh is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(
        array.shape, partitioning.batch_sharding(mesh), lambda index: array[index]
    )


def to_host(mesh: jax.sharding.Mesh | None, array: jax.Array) -> np.ndarray:
    """Returns the whole of a device array, on every host."""
    if mesh is None or array.is_fully_addressable:
        return np.asarray(array)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return np.asarray(_identity(whole)(array).addressable_data(0))


@functools.cache
def _identity(sharding: jax.sharding.NamedSharding):
    return jax.jit(lambda x: x, out_shardings=sharding)


def _power_of_two_above(number: int) -> int:
    return 1 << (int(number) - 1).bit_length()


def _power_of_two_below(number: int) -> int:
    return 1 << (int(number).bit_length() - 1)
