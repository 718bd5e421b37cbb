"""Safetensors files tensor by tensor: memory-mapped reading, and writing in shards with an index.

The `safetensors` package writes a file from tensors that are all in memory; here one is. A file is
8 bytes with the length of a JSON header, the header (name -> dtype, shape, offsets), and the bytes
of the tensors.
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from flan_jax.checkpoints.formats.ranged_array import RangedArray, read_range
from flan_jax.checkpoints.reader import Tensor
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.storage.copies import origin
from flan_jax.storage.files import parse_json, readable
from flan_jax.storage.paths import inside
from flan_jax.storage.remote import Remote

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
SHARD_BYTES = 5 * 10**9  # Hugging Face's own default when it saves.
_ALIGNMENT = 8
_MOST_HEADER = 100_000_000  # bytes; the limit of the `safetensors` package


def open_directory(directory: pathlib.Path) -> dict[str, Tensor]:
    """Returns every tensor of a model's directory by its own name.

    Raises:
      UserError: as `find_weights` and `open_weights`.
    """
    return open_weights(find_weights(directory)[0])


def find_weights(directory: pathlib.Path, named: object = None) -> tuple[pathlib.Path, list[str]]:
    """Returns (a safetensors file, or the index of several; notes on other files).

    The order is that of `transformers`: the file that config.json names, `model.safetensors`, the
    index.

    Args:
      directory: the model's directory.
      named: `transformers_weights` of its config.json, where it has that.

    Raises:
      UserError: if there is none of them.
    """
    if named is not None:
        return inside(directory, named, directory / "config.json"), []
    if (directory / SINGLE).is_file():
        stale = (directory / INDEX).is_file()
        notes = [
            (
                f"the weights are those of {SINGLE}, as in transformers; {INDEX} beside it was "
                "not read"
            )
        ]
        return inside(directory, SINGLE, directory / SINGLE), notes if stale else []
    if (directory / INDEX).is_file():
        return inside(directory, INDEX, directory / INDEX), []
    others = sorted(
        path.name
        for path in directory.iterdir()
        if path.suffix in (".safetensors", ".bin", ".pt", ".pth")
    )
    raise UserError(
        f"{shown(directory)} holds no {SINGLE} and no {INDEX}{_about(others)}; save the model "
        "with `save_pretrained`, which writes them."
    )


def _about(others: list[str]) -> str:
    return f" (it has {listed(others)})" if others else ""


def open_weights(path: pathlib.Path) -> dict[str, Tensor]:
    """Returns every tensor of a safetensors file, or of all files that an index lists.

    Raises:
      UserError: if a file is missing, cut short, or breaks the format's rules; if a tensor is in
        none or in two of the files; or if a dtype is not supported.
    """
    if path.suffix != ".json":
        return _open_file(path)
    with readable(path):
        contents = path.read_bytes()
    weight_map = parse_json(contents, path, unique_keys=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{shown(path)} has no weight_map; download it again.")
    files = sorted({inside(path.parent, name, path) for name in weight_map.values()})
    tensors: dict[str, Tensor] = {}
    for file in files:
        opened = _open_file(file)
        twice = [name for name in opened if name in tensors]
        if twice:
            raise UserError(
                f"{shown(path)} lists files that have the same tensors ({listed(twice)}), such as "
                f"{shown(file)}; download the checkpoint again."
            )
        tensors |= opened
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise UserError(
            f"{shown(path)} lists {listed(missing)}, which the shards do not have; download them "
            "again."
        )
    return tensors


def _open_file(path: pathlib.Path) -> dict[str, Tensor]:
    remote = origin(path)
    header, start, size, generation = (
        _read_remote_header(path, remote) if remote else (*_read_header(path), b"")
    )
    tensors, ends = {}, []
    for name, entry in header.items():
        with readable(f"{path} ({shown(name)})"):
            tensor, span = _open_tensor(path, name, entry, start)
            ends.append((*span, name))
        if remote:
            array = RangedArray(remote, start + span[0], tensor.shape, tensor.dtype, generation)
            tensor = tensor._replace(open=functools.partial(lambda array: array, array))
        tensors[name] = tensor
    ends.sort()
    if size is None:
        size = _size_of(path, remote, start + max((end for _, end, _ in ends), default=0))
    _check_coverage(path, ends, size - start)
    return tensors


def _read_remote_header(path: pathlib.Path, remote: Remote) -> tuple[dict, int, None, bytes]:
    """As `_read_header` of an object, whose size no request returns; and its generation."""
    try:
        read = read_range(remote, 0, 8)
        length = int.from_bytes(read[0], "little") if read else 0
        read = read_range(remote, 8, 8 + length) if 2 <= length <= _MOST_HEADER else None
    except FileNotFoundError:
        raise UserError(f"{shown(path)} is missing; download the checkpoint again.") from None
    text, generation = read or (b"", b"")
    return _parsed_header(path, text), 8 + length, None, generation


def _size_of(path: pathlib.Path, remote: Remote, expected: int) -> int:
    """The size that an object should have, or less where it is cut short."""
    if read_range(remote, expected, expected + 1):
        raise UserError(f"{shown(path)} has bytes after its last tensor; download it again.")
    return expected if read_range(remote, expected - 1, expected) else expected - 1


def _read_header(path: pathlib.Path) -> tuple[dict, int, int]:
    """(header without `__metadata__`, where the tensors begin, size of the file)."""
    try:
        size = path.stat().st_size
        if not path.is_file():  # such as a directory, or a pipe, which would be waited for
            raise UserError(f"{shown(path)} is not a file; download the checkpoint again.")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if 2 <= length <= min(size - 8, _MOST_HEADER) else b""
    except FileNotFoundError:
        raise UserError(f"{shown(path)} is missing; download the checkpoint again.") from None
    except OSError as error:
        raise UserError(
            f"{shown(path)} cannot be read ({error.strerror}); download it again."
        ) from error
    return _parsed_header(path, text), 8 + length, size


def _parsed_header(path: pathlib.Path, text: bytes) -> dict:
    """The header without `__metadata__`."""
    if not text.startswith(b"{"):
        raise UserError(
            f"{shown(path)} is not a safetensors file, or cut short; download it again."
        )
    header = parse_json(text, path, unique_keys=True, advice="download it again")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    ):
        raise UserError(
            f"{shown(path)} has a __metadata__ that does not map names to texts; download it again."
        )
    return header


def _open_tensor(
    path: pathlib.Path, name: str, entry: Any, start: int
) -> tuple[Tensor, tuple[int, int]]:
    """(tensor, its bytes counted from the end of the header)."""
    if entry["dtype"] not in _DTYPES:
        raise UserError(
            f"{shown(path)} has {shown(name)} in {shown(entry['dtype'])}, but can be one of "
            f"{', '.join(_DTYPES)}; save the model in one of these, without quantization."
        )
    dtype, shape, (begin, end) = (
        _DTYPES[entry["dtype"]],
        tuple(entry["shape"]),
        entry["data_offsets"],
    )
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise ValueError("shape and data_offsets must be whole numbers of at least 0")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{end - begin} bytes for {shape} {dtype.name}")

    def map_tensor() -> np.ndarray:
        if end == begin:
            return np.zeros(shape, dtype)
        return (
            np.memmap(path, np.uint8, "r", start + begin, (end - begin,)).view(dtype).reshape(shape)
        )

    return Tensor(shape, dtype, map_tensor, f"{path} ({name})"), (begin, end)


def _check_coverage(path: pathlib.Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """Checks that the tensors follow each other without a gap or an overlap, and fill the file."""
    position = 0
    for begin, end, name in spans:
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise UserError(
                f"{shown(path)} breaks the rules of its format: {shown(name)} {what}; download it "
                "again."
            )
        position = end
    if position > size:
        raise UserError(f"{shown(path)} is cut short at {shown(spans[-1][2])}; download it again.")
    if position < size:
        raise UserError(
            f"{shown(path)} has {size - position:,} bytes after its last tensor; download it again."
        )


def write_directory(
    directory: pathlib.Path,
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]],
    read: Callable[[str], np.ndarray],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors into one file, or into several and an index.

    Args:
      directory: it exists.
      shapes: (shape, dtype) of each tensor, in the order in which they are read and written.
      read: returns a tensor by its name; called when it is written.
      shard_bytes: the most that a file has, unless one tensor has more.
    """
    sizes = {
        name: int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        for name, (shape, dtype) in shapes.items()
    }
    shards: list[list[str]] = [[]]
    for name in shapes:
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + sizes[name] > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        write_file(directory / file, {name: shapes[name] for name in names}, read)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def write_file(
    path: pathlib.Path,
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]],
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes one file, one tensor at a time.

    Args:
      path: the file.
      shapes: (shape, dtype) of each tensor by its name, in the order of the file.
      read: returns a tensor by its name; called when it is written.
    """
    # Without it `transformers` refuses the file.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in shapes.items():
        end = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, dtype) in shapes.items():
            array = read(name)
            if array.shape != tuple(shape) or array.dtype != dtype:
                raise ValueError(
                    f"{name} is {array.shape} {array.dtype}, but the header has {shape} {dtype}"
                )
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
