"""An array in a file of a bucket, read by byte ranges: the rows that are indexed, and no others."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from flan_jax.checkpoints.formats.freed_memory import return_memory
from flan_jax.errors import UserError
from flan_jax.storage.bucket_errors import bucket_errors
from flan_jax.storage.remote import Remote

# Ranges of so many bytes, so many at a time: the memory that reading needs beside the array.
_RANGE_BYTES, _AT_ONCE = 16 * 2**20, 4


@dataclasses.dataclass(frozen=True)
class RangedArray:
    """What can be sliced like a memory map of a file on the disk.

    Attributes:
      file: the object.
      begin: its first byte in the object.
      shape: as it is stored, in C order.
      dtype: of its numbers.
      generation: of the object when its header was read.
      is_transposed: whether the axes are exchanged when it is read; of a matrix.
    """

    file: Remote
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype
    generation: bytes
    is_transposed: bool = False

    @property
    def T(self) -> RangedArray | np.ndarray:
        """The array with its axes exchanged; read only if it is no matrix."""
        if len(self.shape) != 2:
            return self[...].T
        return dataclasses.replace(self, is_transposed=not self.is_transposed)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Returns a part; of the stored rows, only those between its first and last are read."""
        parts = index if isinstance(index, tuple) else (index,)
        axis = 1 if self.is_transposed else 0
        rows = parts[axis] if axis < len(parts) else None
        if Ellipsis in parts or not isinstance(rows, slice) or rows.step not in (None, 1):
            return self._rows(0, self.shape[0] if self.shape else 1)[index]
        first, last, _ = rows.indices(self.shape[0])
        read = self._rows(first, max(first, last))
        rest = tuple(slice(None) if i == axis else part for i, part in enumerate(parts))
        return read[rest]

    def reshape(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the whole array in another shape."""
        return self[...].reshape(shape)

    def _rows(self, first: int, last: int) -> np.ndarray:
        """Rows, as they are stored, or the columns that they are, in C order."""
        rows = self._read_rows(first, last)
        return_memory(rows.nbytes)
        return rows

    def _read_rows(self, first: int, last: int) -> np.ndarray:
        within = self.shape[1:]
        row = math.prod(within) * self.dtype.itemsize
        if self.is_transposed:
            result = np.empty((*within, last - first), self.dtype)
            # as many whole rows as fit into a range, so that no second matrix is needed
            step = max(1, _RANGE_BYTES // max(row, 1))
            for at, data in self._read(first, last, step, row):
                result[:, at : at + len(data) // row] = (
                    np.frombuffer(data, self.dtype).reshape(-1, *within).T
                )
                del data  # before the next range comes
            return result
        result = np.empty((last - first, *within) if self.shape else (), self.dtype)
        flat = result.reshape(-1).view(np.uint8)
        size = flat.size
        for at, data in self._read_bytes(self.begin + first * row, size):
            flat[at : at + len(data)] = np.frombuffer(data, np.uint8)
            del data
        return result

    def _read(self, first: int, last: int, step: int, row: int) -> Iterator[tuple[int, bytes]]:
        """Yields (row after `first`, bytes of whole rows)."""
        begin, size = self.begin + first * row, (last - first) * row
        for at, data in self._read_bytes(begin, size, step * row):
            yield at // row, data
            del data

    def _read_bytes(
        self, begin: int, size: int, most: int = _RANGE_BYTES
    ) -> Iterator[tuple[int, bytes]]:
        """Yields (place after `begin`, bytes) in order; the next ranges are on their way."""
        store, waiting = self.file.parent.kvstore(), collections.deque()
        starts = iter(range(0, size, max(most, 1)))
        while True:
            for at in itertools.islice(starts, _AT_ONCE - len(waiting)):
                span = slice(begin + at, begin + min(at + most, size))
                waiting.append((at, store.read(self.file.name, byte_range=span)))
            if not waiting:
                return
            at, future = waiting.popleft()
            data = self._finished(future)
            del future
            yield at, data
            del data

    def _finished(self, future: Any) -> bytes:
        with bucket_errors(self.file.scheme, self.file.bucket, "read"):
            result = future.result()
        if result.stamp.generation != self.generation:
            raise UserError(f"{self.file} changed while it was read; run the same command again.")
        return result.value


def read_range(file: Remote, begin: int, end: int) -> tuple[bytes, bytes] | None:
    """Returns the bytes of a range and the generation; None if the object ends before.

    Raises:
      FileNotFoundError: if there is no such object.
      UserError: if it cannot be read.
    """
    with bucket_errors(file.scheme, file.bucket, "read"):
        try:
            result = file.parent.kvstore().read(file.name, byte_range=slice(begin, end)).result()
        except ValueError as error:
            if "OUT_OF_RANGE" in str(error):
                return None
            raise
    if result.state == "missing":
        raise FileNotFoundError(2, "no such object", str(file))
    return result.value, result.stamp.generation
