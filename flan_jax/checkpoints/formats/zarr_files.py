"""One zarr array per tensor, as T5X and Orbax keep them, through tensorstore."""

from __future__ import annotations

import collections
import itertools
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorstore

from flan_jax.checkpoints.formats.freed_memory import return_memory
from flan_jax.checkpoints.reader import Tensor
from flan_jax.storage.copies import origin
from flan_jax.storage.files import readable

T5X_CHUNK_BYTES = 64 * 2**20
# Chunks that are written at once: they need up to twice these bytes, in the order of the file and
# compressed, beside the array.
_BYTES_AT_ONCE = 32 * 2**20
# Kept in memory of the index of a database of arrays; larger than that of 10,000 arrays.
_INDEX_BYTES = 4 * 2**20


def file_store(path: pathlib.Path) -> dict[str, Any]:
    """Returns the tensorstore `kvstore` of one array's directory, or of where it is a copy of."""
    remote = origin(path)
    return remote.store_spec() if remote else {"driver": "file", "path": f"{path.resolve()}/"}


def open_arrays(
    arrays: dict[str, tuple[dict[str, Any], object]], driver: str = "zarr"
) -> dict[str, Tensor]:
    """Returns stored arrays; reading one reads only the chunks that the index needs.

    They are opened at once, and the index of a database that they share is read once: in a bucket
    each request takes its time.

    Args:
      arrays: of each array by its name, its kvstore (see `file_store`) and, for messages, its
        directory.
      driver: of all arrays, 'zarr' or 'zarr3'.

    Raises:
      UserError: if an array cannot be opened.
    """
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _INDEX_BYTES}})
    opening = {
        name: tensorstore.open(
            {"driver": driver, "kvstore": store}, read=True, open=True, context=context
        )
        for name, (store, _) in arrays.items()
    }
    tensors = {}
    for name, future in opening.items():
        file = arrays[name][1]
        with readable(file):
            tensors[name] = _tensor(future.result(), str(file))
    return tensors


def _tensor(store: tensorstore.TensorStore, file: str) -> Tensor:
    return Tensor(tuple(store.shape), np.dtype(store.dtype.numpy_dtype), lambda: store, file)


def write_array(
    path: pathlib.Path, array: np.ndarray, chunk: list[int], compressor: dict[str, Any]
) -> None:
    """Writes an array as one zarr directory; returns when it is on disk.

    Args:
      path: the directory.
      array: of any shape and order.
      chunk: the shape of the chunks, as of `chunk_shape`.
      compressor: as in zarr's metadata.
    """
    metadata = {
        "shape": list(array.shape),
        "chunks": chunk,
        "compressor": compressor,
    }
    spec = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": file_store(path),
        "metadata": metadata,
    }
    store = tensorstore.open(spec, create=True).result()
    chunk_bytes = math.prod(chunk) * array.dtype.itemsize
    most = max(1, _BYTES_AT_ONCE // max(1, chunk_bytes))
    writes: collections.deque = collections.deque()
    for part in _parts(array.shape, chunk):
        if len(writes) == most:
            writes.popleft().result()
        write = store[part].write(array[part], can_reference_source_data_indefinitely=True)
        writes.append(write)
    while writes:
        writes.popleft().result()
    return_memory(array.nbytes)


def _parts(shape: tuple[int, ...], chunk: list[int]) -> Iterator[tuple[slice, ...]]:
    """Yields the index of each chunk; each divides its axis."""
    starts = (range(0, size, step) for size, step in zip(shape, chunk))
    for start in itertools.product(*starts):
        yield tuple(slice(at, at + step) for at, step in zip(start, chunk))


def chunk_shape(
    shape: tuple[int, ...], itemsize: int, most_bytes: int = T5X_CHUNK_BYTES
) -> list[int]:
    """Returns the shape of the chunks in which T5X stores an array, by default.

    While a chunk is too large, its longest side (the first of equals) becomes the next smaller
    divisor of the array's.

    Args:
      shape: of the array.
      itemsize: bytes of a number.
      most_bytes: of a chunk.
    """
    chunk = list(shape)
    while np.prod(chunk, dtype=np.int64) * itemsize > most_bytes:
        axis = int(np.argmax(chunk))
        chunk[axis] = next(
            size for size in range(chunk[axis] - 1, 0, -1) if shape[axis] % size == 0
        )
    return chunk
