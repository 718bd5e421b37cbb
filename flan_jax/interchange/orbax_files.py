"""Orbax's directory of one tree, array by array: any of its array formats is read, its plain zarr form is written.

Orbax's own savers want the whole tree in memory; here one array is in memory at a time. `_METADATA` is what tells
Orbax the tree; it is written last.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable

import numpy as np

from flan_jax.errors import UserError
from flan_jax.interchange.source import Tensor
from flan_jax.interchange.zarr_files import file_store, open_array, write_array

_COMPRESSOR = {"id": "zstd", "level": 1}
_DICT_KEY = 2  # Orbax's number for the key of a dict.


def open_tree(directory: pathlib.Path) -> dict[str, Tensor]:
    """The arrays of a tree by their path, `params/encoder/...`.

    Raises:
      UserError: if there is no tree of Orbax in `directory`.
    """
    try:
        metadata = json.loads((directory / "_METADATA").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} holds no finished Orbax checkpoint (no _METADATA in it).") from None
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    tensors = {}
    for entry in metadata["tree_metadata"].values():
        keys = [str(key["key"]) for key in entry["key_metadata"]]
        if entry["value_metadata"]["value_type"] not in ("None", "Dict", "Tuple", "List"):
            tensors["/".join(keys)] = open_array(_store(directory, ".".join(keys), metadata["use_ocdbt"]), driver)
    return tensors


def _store(directory: pathlib.Path, name: str, in_one_database: bool) -> dict:
    if in_one_database:
        return {"driver": "ocdbt", "base": directory.absolute().as_uri() + "/", "path": f"{name}/"}
    return file_store(directory / name)


def write_tree(directory: pathlib.Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes a tree, given as (path, array) one after the other, so that Orbax restores it."""
    directory.mkdir(parents=True)
    entries = {}
    for name, array in arrays:
        keys = tuple(name.split("/"))
        write_array(directory / ".".join(keys), array, _COMPRESSOR)
        entries[str(keys)] = {"key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in keys],
                              "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False}}
    metadata = {"tree_metadata": entries, "use_ocdbt": False, "use_zarr3": False,
                "store_array_data_equal_to_fill_value": True, "custom_metadata": None}
    (directory / "_METADATA").write_text(json.dumps(metadata), encoding="utf-8")
