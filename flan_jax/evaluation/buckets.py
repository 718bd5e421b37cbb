"""Rows of any length in batches of few shapes, and their way onto a mesh and back.

Widths come from a short ladder and a width has two batch sizes, so an evaluation compiles a handful of programs
whatever its rows are. What a row scores does not depend on the batch or width that it falls into.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flan_jax.errors import UserError
from flan_jax.models.decoder import DecoderLM
from flan_jax.training import partitioning

# The smaller batch size, as a part of the full one: what is left over is padded to it.
_SMALL_BATCH = 8


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


def batches(source_lengths: Sequence[int], target_lengths: Sequence[int], batch_tokens: int,
            multiple: int) -> Iterator[Batch]:
    """Groups rows by width, widest first, so that a lack of memory shows at once.

    Args:
      source_lengths, target_lengths: tokens of each row in encoder and decoder.
      batch_tokens: most tokens (B / multiple) (S + T) of a batch, unless a single row has more.
      multiple: B is a multiple of it: the number of devices over which rows are split.
    """
    widths = [(source_width(int(s)), target_width(int(t))) for s, t in zip(source_lengths, target_lengths)]
    for width in sorted(set(widths), reverse=True):
        rows = np.array([row for row, of in enumerate(widths) if of == width])
        full = multiple * _power_of_two_below(max(batch_tokens // sum(width), 1))
        small = multiple * max(full // multiple // _SMALL_BATCH, 1)
        while len(rows):
            size = full if len(rows) > full - small else small
            yield Batch(rows[:size], size, *width)
            rows = rows[size:]


def source_width(length: int) -> int:
    """The width for `length` input tokens: 32, 64, 128, 192, 256, 384, 512, 768, ..."""
    width = _power_of_two_above(max(length, 32))
    return width * 3 // 4 if width >= 256 and length <= width * 3 // 4 else width


def target_width(length: int) -> int:
    """The width for `length` decoder tokens: 16, 32, 64, 128, ..."""
    return _power_of_two_above(max(length, 16))


def padded(rows: Sequence[np.ndarray], size: int, width: int) -> np.ndarray:
    """Rows of token ids as one int32 array [size, width], filled up with 0."""
    array = np.zeros((size, width), np.int32)
    for place, row in enumerate(rows):
        array[place, :len(row)] = row
    return array


def lengths(rows: Sequence[np.ndarray], size: int) -> np.ndarray:
    """How many tokens each row has: int32 [size], 0 for the rows that fill up a batch."""
    return np.array([*map(len, rows), *[0] * (size - len(rows))], np.int32)


def prompts(model, inputs: Sequence[np.ndarray], bos_id: int | None) -> Sequence[np.ndarray]:
    """What a model reads: a decoder `bos_id` first (None: nothing), a T5 the inputs as they are.

    Raises:
      UserError: if a decoder would read nothing.
    """
    if not isinstance(model, DecoderLM):
        return inputs
    if bos_id is not None:
        return [np.concatenate([[bos_id], row]).astype(np.int32) for row in inputs]
    if not all(map(len, inputs)):
        raise UserError("An input has no token, and a decoder that begins without a BOS token needs at least one; "
                        "give the input a word or the model a bos_id.")
    return inputs


def row_multiple(mesh: jax.sharding.Mesh | None) -> int:
    """The number of devices over which the rows of a batch are split."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def on_mesh(mesh: jax.sharding.Mesh | None):
    """The context in which a program for the mesh is traced and run; nothing for one device (None)."""
    return contextlib.nullcontext() if mesh is None else partitioning.use_mesh(mesh)


def to_devices(mesh: jax.sharding.Mesh | None, array: np.ndarray) -> jax.Array:
    """An array [B, ...] that every host holds whole, with B split over the mesh."""
    if mesh is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, partitioning.batch_sharding(mesh), lambda index: array[index])


def to_host(mesh: jax.sharding.Mesh | None, array: jax.Array) -> np.ndarray:
    """The whole of a device array, on every host."""
    if mesh is None or array.is_fully_addressable:
        return np.asarray(array)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return np.asarray(_identity(whole)(array).addressable_data(0))


@functools.cache
def _identity(sharding: jax.sharding.NamedSharding):
    return jax.jit(lambda x: x, out_shardings=sharding)


def _power_of_two_above(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _power_of_two_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)
