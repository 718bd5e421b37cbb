"""What a compiled program does, read from its text: matrix products, memory traffic and
collectives, loops multiplied.

XLA's own cost analysis counts the body of a loop once, whatever its trips, and says nothing of
collectives; a scanned model is nearly all loop. The program is that of one device, after
partitioning.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

import numpy as np

_ITEM_BITS = {"pred": 8, "bf16": 16, "token": 0, "s4": 4, "u4": 4}
_SHAPE = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_NAMES = re.compile(r"%([\w.-]+)")
# Of groups: [4,2]<=[2,4]T(1,0); mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}; {{0,1},{2,3}}.
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    r"\s*\{([^}]*)\}"
)
_LISTED_GROUPS = re.compile(r"replica_groups=\{(\{[\d,{}\s]*\})\}")
_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# They move nothing themselves; what a loop or a call does is counted inside.
_FREE = (
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "iota",
    "async-start",
    "async-update",
    "custom-call",
)


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of the program: bits of an item, dimensions, and the memory it lies in (0 is the
    device's main one).
    """

    item_bits: int
    dims: tuple[int, ...]
    space: int = 0

    @property
    def nbytes(self) -> int:
        """Its size, without the padding of tiles."""
        return math.prod(self.dims) * self.item_bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation; `result` has several arrays if it is a tuple."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str
    is_root: bool

    def attribute(self, key: str) -> str | None:
        """The text of `key=...` up to the next blank or comma, e.g. the name after `calls=`."""
        found = re.search(rf"[, ]{key}=%?([^,\s]+)", self.text)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of the program.

    Attributes:
      kind: 'all-gather', 'all-reduce', ...
      nbytes: of the whole array that one group gathers, reduces or exchanges, each time.
      groups: device indices, [groups, devices of a group]; empty for pairs of a permutation.
      pairs: (from, to) of a permutation.
      times: how often the program does it.
      hidden: whether the program goes on while it runs.
    """

    kind: str
    nbytes: int
    groups: np.ndarray
    pairs: tuple[tuple[int, int], ...]
    times: int
    hidden: bool


@dataclasses.dataclass
class Costs:
    """What one device does in one run of a program.

    Attributes:
      flops: of matrix products (dots and convolutions), two for a multiplication and an addition.
      memory_bytes: read from and written to the device's main memory by instructions, an upper
        bound.
      collectives: all of them.
      unknown_loops: loops whose trips could not be read; they are counted once.
      unknown_groups: collectives whose groups could not be read; they are taken as of all devices.
    """

    flops: float = 0.0
    memory_bytes: float = 0.0
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    unknown_loops: int = 0
    unknown_groups: int = 0

    def by_kind(self) -> dict[str, dict[str, float]]:
        """{kind: {'count', 'bytes'}} of the collectives, largest first."""
        sums = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
        for one in self.collectives:
            sums[one.kind]["count"] += one.times
            sums[one.kind]["bytes"] += one.times * one.nbytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]["bytes"]))


def read_costs(text: str, num_devices: int) -> Costs:
    """The costs of a program from the text of its optimized HLO, as `compiled.as_text()` gives
    it.
    """
    return _Reader(text, num_devices).costs


class _Reader:
    def __init__(self, text: str, num_devices: int):
        self.num_devices = num_devices
        self.computations, entry = _parse(text)
        self.costs = Costs()
        self._visit(entry, 1)

    def _visit(self, name: str, times: int) -> None:
        """Adds what a computation does, `times` over."""
        arrays = {one.name: one.result for one in self.computations[name]}
        lines = {one.name: one for one in self.computations[name]}
        for one in self.computations[name]:
            self._compute(one, arrays, times, lines)
            self.costs.memory_bytes += times * self._traffic(one, arrays)

    def _compute(self, one: Instruction, arrays, times: int, lines: dict[str, Instruction]) -> None:
        """Adds products and collectives of an instruction and of what it calls."""
        if one.opcode == "while":
            trips = self._trips(one, lines)
            self.costs.unknown_loops += trips is None
            self._visit(one.attribute("body"), times * (1 if trips is None else trips))
        elif one.opcode in ("call", "async-start"):
            self._visit(one.attribute("to_apply") or one.attribute("calls"), times)
        elif one.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", one.text)
            names = (
                _NAMES.findall(branches[1])
                if branches
                else [one.attribute("true_computation"), one.attribute("false_computation")]
            )
            for name in names:  # Only one runs; all are counted, because which one is not known.
                self._visit(name, times)
        elif one.opcode == "fusion":
            inner = one.attribute("calls")
            within = {each.name: each.result for each in self.computations[inner]}
            for each in self.computations[inner]:
                if inner.startswith("all-reduce-scatter") and each.opcode == "all-reduce":
                    self._collect("reduce-scatter", each, within, times)
                elif _is_stage(each):
                    if _is_custom_call(self.computations[inner], "AsyncCollectiveStart"):
                        self._collect(each.opcode, each, within, times, hidden=True)
                else:
                    self._compute(each, within, times, {})  # in a fusion there are no loops
        elif one.opcode in ("dot", "convolution"):
            self.costs.flops += times * _product_flops(
                one, [arrays[name][0] for name in one.operands]
            )
        elif one.opcode.removesuffix("-start") in _COLLECTIVES:
            self._collect(one.opcode.removesuffix("-start"), one, arrays, times)

    def _collect(
        self, kind: str, one: Instruction, arrays, times: int, hidden: bool = False
    ) -> None:
        given = sum(array.nbytes for name in one.operands for array in arrays[name])
        pairs: tuple[tuple[int, int], ...] = ()
        groups = np.zeros((0, 0), int)
        if kind == "collective-permute":
            found = re.search(r"source_target_pairs=\{(.*?)\}\}", one.text)
            pairs = tuple(
                (int(a), int(b))
                for a, b in re.findall(r"\{(\d+),(\d+)", found[1] + "}" if found else "")
            )
        else:
            found = _groups(one.text, self.num_devices)
            self.costs.unknown_groups += found is None
            groups = np.arange(self.num_devices)[None] if found is None else found
        whole = given * groups.shape[1] if kind == "all-gather" else given
        hidden = hidden or one.opcode.endswith("-start")
        self.costs.collectives.append(Collective(kind, whole, groups, pairs, times, hidden))

    def _trips(self, loop: Instruction, around: dict[str, Instruction]) -> int | None:
        """How often a loop runs: as XLA knows it, or from a condition `counter < limit` and
        constant steps.

        JAX's loops count from 0 by 1; those that XLA makes of a product with a gathered array may
        count by 2.
        """
        known = re.search(r'known_trip_count[^}]*"n":\s*"(\d+)"', loop.text)
        if known:
            return int(known[1])
        condition = {one.name: one for one in self.computations[loop.attribute("condition")]}
        root = next(one for one in condition.values() if one.is_root)
        counter, limit = (condition.get(name) for name in (*root.operands, None, None)[:2])
        if not (counter and counter.opcode == "get-tuple-element" and "direction=LT" in root.text):
            return None
        index = int(counter.attribute("index"))
        body = {one.name: one for one in self.computations[loop.attribute("body")]}
        first = around.get(loop.operands[0])
        begin = (
            _constant(_source(around, first.operands[index]))
            if first and first.opcode == "tuple"
            else 0
        )
        end, step = _constant(limit), _step(body, index)
        return (
            None if end is None or step is None else max(0, math.ceil((end - (begin or 0)) / step))
        )

    def _traffic(self, one: Instruction, arrays) -> float:
        """Bytes of main memory that an instruction reads and writes."""
        if (
            one.opcode in _FREE
            or one.opcode.endswith("-done")
            or one.opcode.removesuffix("-start") in _COLLECTIVES
        ):
            return 0.0
        written = [array for array in one.result if array.space == 0]
        read = [
            array for name in one.operands for array in arrays.get(name, ()) if array.space == 0
        ]
        if one.opcode == "fusion":
            return self._fusion_traffic(one, arrays)
        # Their result names what is moved, what it is of, and a flag.
        if one.opcode in ("copy-start", "slice-start"):
            moved = one.result[0 if one.opcode == "copy-start" else 1]
            return float(moved.nbytes * ((moved.space == 0) + bool(read)))
        if one.opcode in ("dynamic-slice", "slice", "gather"):
            return 2.0 * sum(array.nbytes for array in written)
        if one.opcode in ("dynamic-update-slice", "scatter"):
            update = arrays.get(one.operands[1 if one.opcode == "dynamic-update-slice" else -1], ())
            return 2.0 * sum(array.nbytes for array in update)
        return float(sum(array.nbytes for array in written) + sum(array.nbytes for array in read))

    def _fusion_traffic(self, one: Instruction, arrays) -> float:
        """Like `_traffic`: an operand of which a slice is taken counts as the slice, so does one
        that is updated.
        """
        body = self.computations[one.attribute("calls")]
        if _is_custom_call(body, "AsyncCollective"):
            return 0.0
        within = {each.name: each for each in body}
        users, total = _users(within), 0.0
        root = next(each for each in body if each.is_root)
        # What only passes through beside a collective that goes on: its operands and its result.
        stages = [each.name for each in body if _is_stage(each)]
        passing = (
            {name for name in root.operands if within[name].opcode == "parameter"}
            if stages
            else set()
        )
        for each in body:
            if (
                each.opcode == "parameter"
                and arrays[one.operands[_number(each)]][0].space == 0
                and each.name not in passing
            ):
                total += self._read_of(each, users, within)
        roots = [within[name] for name in root.operands] if root.opcode == "tuple" else [root]
        for each, array in zip(roots, one.result):
            if each.name in passing or each.name in stages:
                continue
            while each.opcode in ("bitcast", "copy") and each.operands[0] in within:
                each = within[each.operands[0]]
            if array.space == 0:
                updates = each.opcode == "dynamic-update-slice"
                total += within[each.operands[1]].result[0].nbytes if updates else array.nbytes
        return total

    def _read_of(self, parameter: Instruction, users, within) -> float:
        """Bytes that a fusion reads of its parameter."""
        found, total = list(users[parameter.name]), 0.0
        seen = {parameter.name}
        while found:
            user = found.pop()
            if user.opcode == "bitcast":
                seen.add(user.name)
                found += users[user.name]
            elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] in seen:
                total += user.result[0].nbytes
            elif user.opcode == "fusion":
                inner = {each.name: each for each in self.computations[user.attribute("calls")]}
                total += sum(
                    self._read_of(each, _users(inner), inner)
                    for each in inner.values()
                    if each.opcode == "parameter" and user.operands[_number(each)] in seen
                )
            elif user.opcode != "dynamic-update-slice" or user.operands[0] not in seen:
                return parameter.result[0].nbytes
        return min(total, parameter.result[0].nbytes)


def _is_stage(one: Instruction) -> bool:
    """Whether it is one of the places at which the program names a collective that runs beside
    several fusions.

    The first of them is in a fusion that ends in a call of `AsyncCollectiveStart`, the last in one
    that ends in a call of `AsyncCollectiveDone`; all have the same channel.
    """
    return one.opcode in _COLLECTIVES and "async_collective_fusion_config" in one.text


def _is_custom_call(computation: list[Instruction], target: str) -> bool:
    """Whether a computation ends in a call of a target whose name begins so."""
    return any(
        one.is_root and one.opcode == "custom-call" and f'custom_call_target="{target}' in one.text
        for one in computation
    )


def _constant(one: Instruction | None) -> int | None:
    """The number that a scalar constant is."""
    found = (
        re.search(r" constant\((-?\d+)\)", one.text) if one and one.opcode == "constant" else None
    )
    return int(found[1]) if found else None


def _source(lines: dict[str, Instruction], name: str) -> Instruction | None:
    """What a name stands for, behind copies of it."""
    one = lines.get(name)
    while one and one.opcode in ("bitcast", "copy", "copy-start", "copy-done"):
        one = lines.get(one.operands[0])
    return one


def _step(body: dict[str, Instruction], index: int) -> int | None:
    """What a loop's body adds to the item `index` of what it carries."""
    root = next(one for one in body.values() if one.is_root)
    add = _source(body, root.operands[index]) if root.opcode == "tuple" else None
    if add is None or add.opcode != "add":
        return None
    steps = [_constant(body.get(name)) for name in add.operands]
    return next((step for step in steps if step), None)


def _users(computation: dict[str, Instruction]) -> dict[str, list[Instruction]]:
    """For each name of a computation the instructions that read it."""
    users = collections.defaultdict(list)
    for one in computation.values():
        for name in one.operands:
            users[name].append(one)
    return users


def _number(parameter: Instruction) -> int:
    return int(re.search(r"parameter\((\d+)\)", parameter.text)[1])


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a program by name, and the name of its entry."""
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
    operands = tuple(_NAMES.findall(rest[begin : close + 1])) if opcode != "constant" else ()
    # Of a tuple within a tuple (an asynchronous start) the arrays are taken as one list.
    result = tuple(_array(*found) for found in _SHAPE.findall(rest[:end]))
    return Instruction(name.removeprefix("%"), opcode, result, operands, rest[end:], is_root)


def _closing(text: str, begin: int) -> int:
    """The place of the parenthesis that closes the one at `begin`."""
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


def _groups(text: str, num_devices: int) -> np.ndarray | None:
    """The device indices of `replica_groups`, [groups, size], from any of the forms in which XLA
    writes them, or None.

    Without groups, or with `{}`, all devices are one.
    """
    iota, mesh, listed = (
        form.search(text) for form in (_IOTA_GROUPS, _MESH_GROUPS, _LISTED_GROUPS)
    )
    if iota:
        return _iota(iota[2], iota[3]).reshape([int(n) for n in iota[1].split(",")])
    if mesh:
        return _mesh_groups(mesh[1], mesh[4], _iota(mesh[2] or str(num_devices), mesh[3]))
    if listed:
        return np.array(
            [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])]
        )
    return None if re.search(r"replica_groups=(?!\{\})", text) else np.arange(num_devices)[None]


def _iota(dims: str, order: str | None) -> np.ndarray:
    """Device indices in the order of `[32,8]T(1,0)`: 0, 1, ... in 32 rows of 8, read with the axes
    in this order.
    """
    shape = [int(n) for n in dims.split(",")]
    devices = np.arange(math.prod(shape)).reshape(shape)
    return (devices.transpose([int(n) for n in order.split(",")]) if order else devices).ravel()


def _mesh_groups(axes: str, grouped: str, devices: np.ndarray) -> np.ndarray:
    """Groups over the axes `'a','b':(1)2` of a mesh `'a'=4,'b'=2`; `(p)s` is the part of size s
    after parts of size p.

    Reads the form that Shardy writes.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    dims, chosen, place = [], [], 0
    wanted = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", grouped)
    for name, size in sizes.items():
        parts = [size]
        for found, before, part in wanted:
            if found == name and part:
                parts = [int(before), int(part), size // int(before) // int(part)]
                chosen.append(place + 1)
            elif found == name:
                chosen.append(place)
        dims += parts
        place += len(parts)
    devices = devices.reshape(dims)
    count = math.prod(dims[axis] for axis in chosen)
    return np.moveaxis(devices, chosen, range(-len(chosen), 0)).reshape(-1, count)


def _product_flops(one: Instruction, operands: list[Array]) -> float:
    left, out = operands[0], one.result[0]
    if one.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)[1]
        return (
            2.0
            * math.prod(out.dims)
            * math.prod(left.dims[int(axis)] for axis in contracted.split(",") if axis)
        )
    return _convolution_flops(one.text, left, operands[1], out)


def _convolution_flops(text: str, left: Array, right: Array, out: Array) -> float:
    """Products of a convolution, without those with padding: on a TPU every matrix product is
    written as one.
    """
    left_names, right_names, out_names = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text).groups()
    window = re.search(r"window=\{([^}]*)\}", text)
    window = dict(part.split("=") for part in window[1].split()) if window else {}
    groups = re.search(r"feature_group_count=(\d+)", text)
    batch_groups = re.search(r"batch_group_count=(\d+)", text)
    count = left.dims[left_names.index("f")] // (int(groups[1]) if groups else 1)
    count *= right.dims[right_names.index("o")]
    count *= left.dims[left_names.index("b")] // (int(batch_groups[1]) if batch_groups else 1)
    spatial = sorted({name for name in left_names + right_names + out_names if name.isdigit()})

    def field(key: str, axis: int, default: str) -> str:
        return window[key].split("x")[axis] if key in window else default

    def size(array: Array, names: str, name: str) -> int:
        # A TPU's programs leave out sizes of 1.
        return array.dims[names.index(name)] if name in names else 1

    for axis, name in enumerate(spatial):
        kernel, outs = size(right, right_names, name), size(out, out_names, name)
        before = int(field("pad", axis, "0_0").split("_")[0])
        places = (
            np.arange(outs)[:, None] * int(field("stride", axis, "1"))
            - before
            + np.arange(kernel) * int(field("rhs_dilate", axis, "1"))
        )
        dilation = int(field("lhs_dilate", axis, "1"))
        inside = (
            (places % dilation == 0)
            & (places >= 0)
            & (places // dilation < size(left, left_names, name))
        )
        count *= int(np.count_nonzero(inside))
    return 2.0 * count
