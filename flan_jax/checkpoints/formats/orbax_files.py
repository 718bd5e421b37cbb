"""Orbax's directory of one tree: all of its array formats are read, plain zarr is written.

Orbax's own savers take the whole tree in memory; here one array is in memory at a time. Orbax reads
the structure of the tree from `_METADATA`, which is written last.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from flan_jax.checkpoints.formats import zarr_chunks
from flan_jax.checkpoints.formats.zarr_files import (
    chunk_shape,
    file_store,
    open_arrays,
    write_array,
)
from flan_jax.checkpoints.reader import Tensor
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import read_json, readable
from flan_jax.storage.paths import inside
from flan_jax.storage.places import Place
from flan_jax.storage.remote import Remote

_COMPRESSOR = {"id": "zstd", "level": 1}
# Small, so that several are compressed at once in little memory.
_CHUNK_BYTES = 16 * 2**20
_METADATA = "_METADATA"
_DICT_KEY = 2  # Orbax's number for the key of a dict.


def open_tree(directory: pathlib.Path) -> dict[str, Tensor]:
    """Returns the arrays of a tree by their path, `params/encoder/...`.

    Raises:
      UserError: if there is no tree of Orbax in `directory`, or chunks of its arrays are missing.
    """
    metadata = tree_metadata(directory)
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    names = {"/".join(keys): ".".join(keys) for keys in _arrays(directory, metadata)}
    with readable(directory / _METADATA):
        in_one_database = bool(metadata["use_ocdbt"])
    zarr_chunks.check_tree(directory, metadata)
    stores = _stores(directory, names.values(), in_one_database)
    arrays = {path: (stores[name], directory / name) for path, name in names.items()}
    tensors = open_arrays(arrays, driver)
    zarr_chunks.check_sizes(
        (math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values()), directory
    )
    return tensors


def tree_names(directory: Place) -> list[str]:
    """Returns the names of the arrays that `open_tree` returns, without opening them.

    Raises:
      UserError: if there is no tree of Orbax in `directory`.
    """
    return ["/".join(keys) for keys in _arrays(directory, tree_metadata(directory))]


def _arrays(directory: Place, metadata: dict[str, Any]) -> list[list[str]]:
    """Returns the keys that lead to each array."""
    with readable(directory / _METADATA):
        return [
            [str(key["key"]) for key in entry["key_metadata"]]
            for entry in metadata["tree_metadata"].values()
            if entry["value_metadata"]["value_type"] not in ("None", "Dict", "Tuple", "List")
        ]


def tree_metadata(directory: Place) -> dict[str, Any]:
    """Returns the contents of Orbax's `_METADATA` of a tree.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    try:
        if isinstance(directory, Remote):
            return read_json(directory / _METADATA)
        return read_json(inside(directory, _METADATA, directory / _METADATA))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{shown(directory)} is not a finished Orbax checkpoint (it has no {_METADATA})."
        ) from None


def _stores(
    directory: pathlib.Path, names: Iterable[str], in_one_database: bool
) -> dict[str, dict[str, Any]]:
    """Returns TensorStore's specification of where each array is."""
    if in_one_database:
        database = zarr_chunks.tree_store(directory, True)
        return {name: {**database, "path": f"{name}/"} for name in names}
    return {name: file_store(inside(directory, name, directory / _METADATA)) for name in names}


def write_tree(directory: pathlib.Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes a tree that Orbax restores.

    Args:
      directory: it does not exist.
      arrays: (path, array) one after the other.
    """
    directory.mkdir(parents=True)
    entries = {}
    for name, array in arrays:
        keys = tuple(name.split("/"))
        chunk = chunk_shape(array.shape, array.dtype.itemsize, _CHUNK_BYTES)
        write_array(directory / ".".join(keys), array, chunk, _COMPRESSOR)
        del array  # before the next one is read
        entries[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in keys],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    metadata = {
        "tree_metadata": entries,
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    (directory / _METADATA).write_text(json.dumps(metadata), encoding="utf-8")
