"""One zarr array per tensor, as T5X and Orbax keep them, through tensorstore."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorstore

from flan_jax.checkpoints.reader import Tensor
from flan_jax.storage.copies import origin

_CHUNK_BYTES = 64 * 1024 * 1024


def file_store(path: pathlib.Path) -> dict[str, Any]:
    """Returns the tensorstore `kvstore` of one array's directory, or of where it is a copy of."""
    remote = origin(path)
    return remote.store_spec() if remote else {"driver": "file", "path": f"{path.resolve()}/"}


def open_array(kvstore: dict[str, Any], file: object, driver: str = "zarr") -> Tensor:
    """Returns the stored array; reading it reads only the chunks that the index needs.

    Args:
      kvstore: of the array, see `file_store`.
      file: its directory, for messages.
      driver: 'zarr' or 'zarr3'.
    """
    store = tensorstore.open({"driver": driver, "kvstore": kvstore}, read=True, open=True).result()
    return Tensor(tuple(store.shape), np.dtype(store.dtype.numpy_dtype), lambda: store, str(file))


def write_array(path: pathlib.Path, array: np.ndarray, compressor: dict[str, Any]) -> None:
    """Writes an array as one zarr directory; returns when it is on disk."""
    metadata = {
        "shape": list(array.shape),
        "chunks": chunk_shape(array.shape, array.dtype.itemsize),
        "compressor": compressor,
    }
    spec = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": file_store(path),
        "metadata": metadata,
    }
    store = tensorstore.open(spec, create=True).result()
    store.write(array, can_reference_source_data_indefinitely=True).result()


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> list[int]:
    """Returns the shape of the chunks in which T5X stores an array: at most 64 MiB each.

    While a chunk is too large, its longest side (the first of equals) becomes the next smaller
    divisor of the array's.

    Args:
      shape: of the array.
      itemsize: bytes of a number.
    """
    chunk = list(shape)
    while np.prod(chunk, dtype=np.int64) * itemsize > _CHUNK_BYTES:
        axis = int(np.argmax(chunk))
        chunk[axis] = next(
            size for size in range(chunk[axis] - 1, 0, -1) if shape[axis] % size == 0
        )
    return chunk
