"""Whether zarr arrays have all their chunks, and claim no more than the files on disk can fill.

TensorStore reads a chunk that is missing as the fill value, zeros: a checkpoint that lost a file
would silently be another model. T5X and Orbax write every chunk.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import ml_dtypes  # noqa: F401  (numpy then knows bfloat16)
import numpy as np
import tensorstore

from flan_jax.checkpoints.formats.zarr_files import file_store
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.storage.copies import origin
from flan_jax.storage.files import parse_json, readable

METADATA = (".zarray", "zarr.json")
# What the compressors in use reach with zeros, and small arrays beyond that.
_MOST_COMPRESSED, _SMALL_BYTES = 1_000, 64 * 2**20


def check_array(directory: pathlib.Path) -> None:
    """Checks the array of one directory.

    Raises:
      UserError: if chunks are missing; it lists them.
    """
    name = next((name for name in METADATA if (directory / name).is_file()), METADATA[0])
    with readable(directory / name):
        contents = (directory / name).read_bytes()
        keys = _files_below(directory)
    metadata = parse_json(contents, directory / name)
    with readable(directory / name):
        _refuse(directory, list(itertools.islice(_missing(metadata, keys), 1_000)))
    if not origin(directory):
        with readable(directory):
            _check_ends(directory, metadata, keys - {*METADATA, ".zattrs"})


def _check_ends(directory: pathlib.Path, metadata: dict[str, Any], chunks: Iterable[str]) -> None:
    """Checks that each chunk of gzip ends with the number of its bytes, modulo 2^32.

    TensorStore stops reading when it has all numbers of a chunk. Where the checksum behind them is
    cut off, it would not see that they have changed.

    Raises:
      ValueError: if one does not.
    """
    if (metadata.get("compressor") or {}).get("id") != "gzip":
        return
    size = math.prod(metadata["chunks"]) * np.dtype(metadata["dtype"]).itemsize
    for chunk in chunks:
        with (directory / chunk).open("rb") as file:
            file.seek(-min(4, os.fstat(file.fileno()).st_size), os.SEEK_END)
            if file.read() != (size % 2**32).to_bytes(4, "little"):
                raise ValueError(f"the end of {chunk} is missing")


def check_tree(directory: pathlib.Path, metadata: dict[str, Any]) -> None:
    """Checks all arrays of a directory of Orbax.

    Args:
      directory: the directory.
      metadata: the contents of its `_METADATA`.

    Raises:
      UserError: if chunks are missing; it lists them.
    """
    with readable(directory):
        store = tensorstore.KvStore.open(
            tree_store(directory, bool(metadata.get("use_ocdbt")))
        ).result()
        keys = [key.decode() for key in store.list().result()]
    # Orbax once omitted chunks of nothing but the fill value; zarr 3 always has such a value.
    skips = not metadata.get("store_array_data_equal_to_fill_value")
    arrays: dict[str, set[str]] = {}
    for key in keys:
        name, _, rest = key.partition("/")
        arrays.setdefault(name, set()).add(rest)
    files = {
        name: next((file for file in METADATA if file in chunks), None)
        for name, chunks in arrays.items()
    }
    # all at once
    reads = {name: store.read(f"{name}/{file}") for name, file in files.items() if file}
    missing: list[str] = []
    for name, read in reads.items():
        with readable(f"{directory}/{name}"):
            array = json.loads(read.result().value)
            if not (skips and array.get("fill_value") is not None):
                missing += (
                    f"{name}/{chunk}"
                    for chunk in itertools.islice(_missing(array, arrays[name]), 1_000)
                )
    _refuse(directory, missing)


def tree_store(directory: pathlib.Path, in_one_database: bool) -> dict[str, Any]:
    """Returns TensorStore's specification of the keys and values of a directory of Orbax."""
    files = file_store(directory)
    return {"driver": "ocdbt", "base": files} if in_one_database else files


def check_sizes(sizes: Iterable[int], directory: pathlib.Path) -> None:
    """Checks that the arrays of a checkpoint can come out of the files that it has.

    Args:
      sizes: bytes of each array in memory.
      directory: of the checkpoint.

    Raises:
      UserError: if they are far larger than what is on disk, so that reading one could fill the
        memory.
    """
    total, stored = sum(sizes), 0
    if total <= _SMALL_BYTES or origin(directory):  # a bucket does not list sizes
        return
    with readable(directory):
        for parent, _, files in os.walk(directory):
            stored += sum(os.path.getsize(os.path.join(parent, file)) for file in files)
    if total > _SMALL_BYTES + _MOST_COMPRESSED * stored:
        raise UserError(
            f"{shown(directory)} claims arrays of {total:,} bytes, but has files of {stored:,} "
            "bytes; download or copy it again."
        )


def _refuse(directory: pathlib.Path, missing: list[str]) -> None:
    if missing:
        raise UserError(
            f"{shown(directory)} lacks {len(missing):,} chunks of its arrays ({listed(missing)}); "
            "download or copy it again."
        )


def _files_below(directory: pathlib.Path) -> set[str]:
    """Paths of files relative to a directory, with slashes."""
    names: set[str] = set()
    for parent, _, files in os.walk(directory):
        relative = os.path.relpath(parent, directory)
        names |= {file if relative == "." else f"{relative}/{file}" for file in files}
    return names


def _missing(metadata: dict[str, Any], keys: Collection[str]) -> Iterator[str]:
    """Yields the names of an array's chunks that are not among `keys`."""
    shape, chunk, prefix, separator = _layout(metadata)
    numbers = (*shape, *chunk)
    if len(shape) != len(chunk) or any(type(n) is not int or n < 0 for n in numbers) or 0 in chunk:
        raise ValueError(f"shape {shown(tuple(shape))} in chunks of {shown(tuple(chunk))}")
    counts = [-(-size // step) for size, step in zip(shape, chunk)]
    if not math.prod(counts):
        return
    # Of an array without axes the one chunk has a name of its own.
    if not counts:
        name = prefix or "0"
        if name not in keys:
            yield name
        return
    for number in range(math.prod(counts)):  # `itertools.product` would hold every axis in memory
        name = separator.join([*([prefix] if prefix else []), *_place(number, counts)])
        if name not in keys:
            yield name


def _place(number: int, counts: list[int]) -> list[str]:
    """The place of a chunk along each axis, from its number in C order."""
    place = []
    for count in reversed(counts):
        number, along = divmod(number, count)
        place.insert(0, str(along))
    return place


def _layout(metadata: dict[str, Any]) -> tuple[list, list, str, str]:
    """(shape, chunk shape, prefix of the names of chunks, separator in them) of zarr 2 or 3."""
    if "chunk_grid" not in metadata:
        # One flipped bit makes '>' of '<'; no checkpoint is written in these ways.
        if str(metadata["dtype"]).startswith(">") or metadata.get("order", "C") != "C":
            raise ValueError(
                f"numbers of type {shown(metadata['dtype'])} in order "
                f"{shown(metadata.get('order'))}"
            )
        return metadata["shape"], metadata["chunks"], "", metadata.get("dimension_separator", ".")
    encoding = metadata.get("chunk_key_encoding", {"name": "default"})
    is_default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if is_default else ".")
    return (
        metadata["shape"],
        metadata["chunk_grid"]["configuration"]["chunk_shape"],
        "c" if is_default else "",
        separator,
    )
