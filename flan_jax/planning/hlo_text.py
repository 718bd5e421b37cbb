"""The text of a compiled program (optimized HLO) as computations of instructions.

The program is that of one device, after partitioning.
"""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

_ITEM_BITS = {"pred": 8, "bf16": 16, "token": 0, "s4": 4, "u4": 4}
_SHAPE = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_NAMES = re.compile(r"%([\w.-]+)")
# Forms of groups: [4,2]<=[2,4]T(1,0); {{0,1},{2,3}};
# mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}.
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    r"\s*\{([^}]*)\}"
)
_LISTED_GROUPS = re.compile(r"replica_groups=\{(\{[\d,{}\s]*\})\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of the program.

    Attributes:
      item_bits: bits of an item.
      dims: its dimensions.
      space: the memory it is in; 0 is the device's main one.
    """

    item_bits: int
    dims: tuple[int, ...]
    space: int = 0

    @property
    def nbytes(self) -> int:
        """Its bytes, without the padding of tiles."""
        return math.prod(self.dims) * self.item_bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation; `result` has several arrays if it is a tuple."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str
    is_root: bool

    def attribute(self, key: str) -> str | None:
        """Returns the text of `key=...` up to the next blank or comma, as of `calls=NAME`."""
        match = re.search(rf"[, ]{key}=%?([^,\s]+)", self.text)
        return match[1] if match else None


def names_in(text: str) -> list[str]:
    """Returns the names, written `%name`, in a text."""
    return _NAMES.findall(text)


def parse_program(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the computations of a program by name, and the name of its entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("  ") and " = " in line and current is not None:
            current.append(_instruction(line.strip()))
    return computations, entry


def _instruction(line: str) -> Instruction:
    is_root = line.startswith("ROOT ")
    name, rest = line.removeprefix("ROOT ").split(" = ", 1)
    end = _closing(rest, 0) + 1 if rest[0] == "(" else rest.index(" ")
    opcode, _ = rest[end:].strip().split("(", 1)
    begin = rest.index("(", end)
    close = _closing(rest, begin)
    operands = tuple(names_in(rest[begin : close + 1])) if opcode != "constant" else ()
    # The arrays of a tuple within a tuple (an asynchronous start) form one list.
    result = tuple(_array(*shape) for shape in _SHAPE.findall(rest[:end]))
    return Instruction(name.removeprefix("%"), opcode, result, operands, rest[end:], is_root)


def _closing(text: str, begin: int) -> int:
    """Returns the place of the parenthesis that closes that at `begin`."""
    depth = 0
    for place in range(begin, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"unbalanced parentheses in {text[:200]!r}")


def _array(kind: str, dims: str, layout: str) -> Array:
    digits = re.search(r"\d+", kind)
    bits = _ITEM_BITS.get(kind, int(digits[0]) if digits else 0)
    space = re.search(r"S\((\d+)\)", layout)
    sizes = tuple(int(size) for size in dims.replace("<=", "").split(",") if size)
    return Array(bits, sizes, int(space[1]) if space else 0)


def replica_groups(text: str, num_devices: int) -> np.ndarray | None:
    """Returns the device indices of `replica_groups`, [groups, size]; None if not readable.

    XLA writes them in several forms. Without groups, or with `{}`, all devices form one group.
    """
    iota, mesh, listed = (
        form.search(text) for form in (_IOTA_GROUPS, _MESH_GROUPS, _LISTED_GROUPS)
    )
    if iota:
        return _iota(iota[2], iota[3]).reshape(_numbers(iota[1]))
    if mesh:
        return _mesh_groups(mesh[1], mesh[4], _iota(mesh[2] or str(num_devices), mesh[3]))
    if listed:
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])])
    return None if re.search(r"replica_groups=(?!\{\})", text) else np.arange(num_devices)[None]


def _iota(dims: str, order: str | None) -> np.ndarray:
    """Returns device indices in the order of `[32,8]T(1,0)`.

    They are 0, 1, ... in 32 rows of 8, read with the axes in this order.
    """
    shape = _numbers(dims)
    devices = np.arange(math.prod(shape)).reshape(shape)
    return (devices.transpose(_numbers(order)) if order else devices).ravel()


def _mesh_groups(axes: str, grouped: str, devices: np.ndarray) -> np.ndarray:
    """Returns the groups over the axes `'a','b':(1)2` of a mesh `'a'=4,'b'=2`.

    `(p)s` is the part of size s after parts of size p. Shardy writes this form.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    dims, chosen, place = [], [], 0
    wanted = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", grouped)
    for name, size in sizes.items():
        parts = [size]
        for axis, before, part in wanted:
            if axis == name and part:
                parts = [int(before), int(part), size // int(before) // int(part)]
                chosen.append(place + 1)
            elif axis == name:
                chosen.append(place)
        dims += parts
        place += len(parts)
    devices = devices.reshape(dims)
    count = math.prod(dims[axis] for axis in chosen)
    return np.moveaxis(devices, chosen, range(-len(chosen), 0)).reshape(-1, count)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
