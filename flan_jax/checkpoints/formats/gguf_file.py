"""The layout of GGUF files: metadata and tensors, every length checked before it is used.

The reader of the `gguf` package trusts the counts and lengths in a file: one flipped bit there
makes it loop over 2^60 entries. The rules are those of llama.cpp's loader (`gguf_init_from_file`):
names are unique, and tensors follow each other in the order of the list, each padded to the
alignment. Nothing follows the last one.
"""

from __future__ import annotations

import importlib
import math
import mmap
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import readable

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
# The number of a type in the file -> the letter of `struct` and the dtype of numpy.
_NUMBERS = {
    0: ("B", "<u1"),
    1: ("b", "<i1"),
    2: ("H", "<u2"),
    3: ("h", "<i2"),
    4: ("I", "<u4"),
    5: ("i", "<i4"),
    6: ("f", "<f4"),
    _BOOL: ("?", "?"),
    10: ("Q", "<u8"),
    11: ("q", "<i8"),
    12: ("d", "<f8"),
}
_MOST_AXES = 4
_ALIGNMENT = 32
_SMALLEST_KEY, _SMALLEST_TENSOR = 12, 24  # bytes of an entry


class GgufTensor(NamedTuple):
    """A tensor of a file.

    Attributes:
      name: its name.
      shape: as an array in C order has it (GGUF counts axes from the innermost).
      kind: how its numbers are stored, a `GGMLQuantizationType`.
      begin: its first byte in the file.
      size: its bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: Any
    begin: int
    size: int


class GgufFile(NamedTuple):
    """The metadata of a file by key, and its tensors by name.

    Bytes that are not UTF-8 are surrogates in its texts.
    """

    path: pathlib.Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def read(self, tensor: GgufTensor) -> np.ndarray:
        """Returns a tensor, dequantized to float32 where it is quantized."""
        data = np.memmap(self.path, np.uint8, "r", tensor.begin, (tensor.size,))
        rows = data.reshape(*tensor.shape[:-1], -1)  # the package dequantizes some rows at a time
        return _package().dequantize(rows, tensor.kind).reshape(tensor.shape)


def open_file(path: pathlib.Path) -> GgufFile:
    """Returns the metadata and the tensors of a file; no tensor is read.

    Raises:
      UserError: without the `gguf` package; for a file that breaks the format's rules or is cut
        short; for weights stored in a way that the package does not dequantize.
    """
    package = _package()
    with (
        readable(path, "download it again"),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        cursor = _Cursor(data)
        tensor_count, key_count = _counts(cursor, path)
        metadata: dict[str, Any] = {}
        for _ in range(cursor.bounded(key_count, _SMALLEST_KEY)):
            _put(metadata, cursor.text(), cursor.value(cursor.number("I")))
        tensors = _tensors(
            cursor, tensor_count, metadata.get("general.alignment", _ALIGNMENT), package
        )
    _check_kinds(tensors, package, path)
    return GgufFile(path, metadata, tensors)


def _package() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise UserError(
            "reading GGUF files needs the package gguf; type pip install 'flan_jax[hf]'."
        ) from None


class _Cursor:
    """Reads little-endian values one after the other.

    Beyond the end is an error (`struct.error`, ValueError).
    """

    def __init__(self, data: mmap.mmap):
        self._data, self.position = data, 0

    def number(self, letter: str) -> Any:
        layout = "<" + letter
        (value,) = struct.unpack_from(layout, self._data, self.position)
        self.position += struct.calcsize(layout)
        return value

    def bounded(self, count: int, least_bytes: int) -> int:
        """The count, if so many entries fit into the rest of the file."""
        if count * least_bytes > self.rest():
            raise ValueError(f"{count:,} entries do not fit into the file, or it is cut short")
        return count

    def rest(self) -> int:
        """Bytes from here to the end."""
        return len(self._data) - self.position

    def raw(self, size: int) -> bytes:
        self.bounded(size, 1)
        self.position += size
        return self._data[self.position - size : self.position]

    def text(self) -> str:
        return self.raw(self.number("Q")).decode("utf-8", errors="surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(self.number("I"), self.number("Q"))
        return self.number(_NUMBERS[kind][0])

    def _array(self, kind: int, count: int) -> list:
        if kind == _STRING:
            return [self.text() for _ in range(self.bounded(count, 8))]
        dtype = np.dtype(_NUMBERS[kind][1])
        return np.frombuffer(
            self.raw(self.bounded(count, dtype.itemsize) * dtype.itemsize), dtype
        ).tolist()


def _counts(cursor: _Cursor, path: pathlib.Path) -> tuple[int, int]:
    """(tensors, keys) in the header of the file."""
    if cursor.raw(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in _VERSIONS:
        what = "big-endian" if version & 0xFFFF == 0 else f"of version {version}"
        raise UserError(
            f"{shown(path)} is {what}, but versions {' and '.join(map(str, _VERSIONS))} in "
            "little-endian order are read; convert the model to GGUF again."
        )
    return cursor.number("Q"), cursor.number("Q")


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    if name in table:
        raise ValueError(f"it has {name!r} twice")
    table[name] = value


def _tensors(cursor: _Cursor, count: int, alignment: Any, package: Any) -> dict[str, GgufTensor]:
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment {alignment!r} is not a power of two")
    listed = [
        _tensor_entry(cursor, package) for _ in range(cursor.bounded(count, _SMALLEST_TENSOR))
    ]
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    expected = 0
    for tensor in listed:
        if tensor.begin != expected:
            raise ValueError(f"{tensor.name} does not follow the tensor before it")
        expected += -(-tensor.size // alignment) * alignment
        _put(tensors, tensor.name, tensor._replace(begin=start + tensor.begin))
    size = cursor.position + cursor.rest()
    if listed and start + listed[-1].begin + listed[-1].size > size:
        raise ValueError(f"it is cut short before the end of {listed[-1].name}")
    if size > start + expected:  # every writer pads the last tensor, and ends with it
        raise ValueError(f"{size - start - expected:,} bytes follow its last tensor")
    return tensors


def _tensor_entry(cursor: _Cursor, package: Any) -> GgufTensor:
    """A tensor as the list in the file has it; its `begin` is counted from the first one."""
    name, axes = cursor.text(), cursor.number("I")
    if not 1 <= axes <= _MOST_AXES:
        raise ValueError(f"{name!r} has {axes} axes")
    sizes = [cursor.number("Q") for _ in range(axes)]
    kind = package.GGMLQuantizationType(cursor.number("I"))
    block, block_bytes = package.GGML_QUANT_SIZES[kind]
    if min(sizes) < 1 or sizes[0] % block:
        raise ValueError(f"{name!r} has sizes {tuple(sizes)}, which are not blocks of {block}")
    return GgufTensor(
        name,
        tuple(reversed(sizes)),
        kind,
        cursor.number("Q"),
        math.prod(sizes) // block * block_bytes,
    )


def _check_kinds(tensors: dict[str, GgufTensor], package: Any, path: pathlib.Path) -> None:
    """Tries one block of each way in which weights are stored."""
    for kind in {tensor.kind for tensor in tensors.values()}:
        try:
            package.dequantize(np.zeros(package.GGML_QUANT_SIZES[kind][1], np.uint8), kind)
        except NotImplementedError:
            raise UserError(
                f"{shown(path)} has weights stored as {kind.name}, which the package gguf does not "
                "dequantize; use a file with other weights, such as Q8_0 or F16."
            ) from None
