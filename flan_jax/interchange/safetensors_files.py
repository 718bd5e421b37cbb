"""Safetensors files tensor by tensor: memory-mapped reading, and writing in shards with an index.

The `safetensors` package writes a file from tensors that are all in memory; here one is. A file is 8 bytes with the
length of a JSON header, the header (name -> dtype, shape, offsets), and the bytes of the tensors.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import ml_dtypes
import numpy as np

from flan_jax.errors import UserError
from flan_jax.interchange.source import Tensor

INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16),
           "F64": np.dtype(np.float64)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_SHARD_BYTES = 5 * 10**9  # Hugging Face's own default when it saves.
_ALIGNMENT = 8


def open_directory(directory: pathlib.Path) -> dict[str, Tensor]:
    """Every tensor of a model's directory by its own name, from one file or from the shards that the index lists.

    Raises:
      UserError: when there is no safetensors file, a shard is missing or cut short, or a dtype is none of ours.
    """
    index = directory / INDEX
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        tensors = {}
        for shard in sorted(set(listed.values())):
            tensors |= _open_file(directory / shard)
        missing = [name for name in listed if name not in tensors]
        if missing:
            raise UserError(f"{index} lists {', '.join(missing)}, which the shards do not hold; download them again.")
        return tensors
    if not (directory / "model.safetensors").is_file():
        raise UserError(f"{directory} holds no model.safetensors and no {INDEX}; save the model with "
                        "`save_pretrained`, which writes them.")
    return _open_file(directory / "model.safetensors")


def _open_file(path: pathlib.Path) -> dict[str, Tensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= size else None
    except FileNotFoundError:
        raise UserError(f"{path} is missing; download the checkpoint again.") from None
    except ValueError:
        header = None
    if header is None:
        raise UserError(f"{path} is no safetensors file, or cut short; download it again.")
    header.pop("__metadata__", None)
    return {name: _open_tensor(path, name, entry, 8 + length, size) for name, entry in header.items()}


def _open_tensor(path: pathlib.Path, name: str, entry: dict, start: int, file_size: int) -> Tensor:
    if entry["dtype"] not in _DTYPES:
        raise UserError(f"{path} has {name} in {entry['dtype']}, but can be one of {', '.join(_DTYPES)}; save the "
                        "model in one of these, without quantisation.")
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = (start + offset for offset in entry["data_offsets"])
    if end > file_size or end - begin != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise UserError(f"{path} is cut short at {name}; download it again.")

    def map_tensor() -> np.ndarray:
        if end == begin:
            return np.zeros(shape, dtype)
        return np.memmap(path, np.uint8, "r", begin, (end - begin,)).view(dtype).reshape(shape)

    return Tensor(shape, dtype, map_tensor, f"{path} ({name})")


def write_directory(directory: pathlib.Path, shapes: dict[str, tuple[tuple[int, ...], np.dtype]],
                    read: Callable[[str], np.ndarray], shard_bytes: int = _SHARD_BYTES) -> None:
    """Writes tensors, each got with `read(name)` when its turn comes, into one file or several and an index.

    Args:
      shapes: (shape, dtype) of each tensor, in the order in which they are read and written.
      shard_bytes: no file holds more, unless one tensor does.
    """
    sizes = {name: int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for name, (shape, dtype) in shapes.items()}
    shards: list[list[str]] = [[]]
    for name in shapes:
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + sizes[name] > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(directory / file, {name: shapes[name] for name in names}, read)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_file(path: pathlib.Path, shapes: dict[str, tuple[tuple[int, ...], np.dtype]],
                read: Callable[[str], np.ndarray]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # Without it `transformers` refuses the file.
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
                raise ValueError(f"{name} came as {array.shape} {array.dtype}, announced was {shape} {dtype}")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
