"""What a compiled program does: matrix products, memory traffic and collectives, loops multiplied.

XLA's own cost analysis counts the body of a loop once, whatever its trips, and says nothing of
collectives; a scanned model is nearly all loop. The program is that of one device, after
partitioning.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

from flan_jax.planning.hlo_text import (
    Array,
    Instruction,
    names_in,
    parse_program,
    replica_groups,
)
from flan_jax.planning.kernel_costs import is_kernel, kernel_costs

# The results of the instructions of a computation, by name.
Arrays = dict[str, tuple[Array, ...]]

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
class Collective:
    """A collective of the program.

    Attributes:
      kind: 'all-gather', 'all-reduce', ...
      nbytes: of the whole array that one group gathers, reduces or exchanges, each time.
      groups: device indices, [groups, devices of a group]; empty for pairs of a permutation.
      pairs: (from, to) of a permutation.
      times: how often the program does it.
      hidden: whether the program continues while it runs.
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
      flops: of matrix products (dots, convolutions and kernels of attention), two for a
        multiplication and an addition.
      memory_bytes: read from and written to the device's main memory by instructions, an upper
        bound.
      collectives: all of them.
      unknown_loops: loops with trips that could not be read; they are counted once.
      unknown_groups: collectives with groups that could not be read; they are counted as of all
        devices.
      unknown_kernels: calls of kernels that are not counted.
    """

    flops: float = 0.0
    memory_bytes: float = 0.0
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    unknown_loops: int = 0
    unknown_groups: int = 0
    unknown_kernels: int = 0

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Returns {kind: {'count', 'bytes'}} of the collectives, largest first."""
        sums = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
        for collective in self.collectives:
            sums[collective.kind]["count"] += collective.times
            sums[collective.kind]["bytes"] += collective.times * collective.nbytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]["bytes"]))


def read_costs(text: str, num_devices: int) -> Costs:
    """Returns the costs of a program from the text of its optimized HLO.

    Args:
      text: as `compiled.as_text()` returns it.
      num_devices: devices that run the program.
    """
    return _Reader(text, num_devices).costs


class _Reader:
    """Adds up the costs of a program, loops multiplied."""

    def __init__(self, text: str, num_devices: int):
        self.num_devices = num_devices
        self.computations, entry = parse_program(text)
        self.costs = Costs()
        self._visit(entry, 1)

    def _visit(self, name: str, times: int) -> None:
        """Adds what a computation does, `times` over."""
        lines = {line.name: line for line in self.computations[name]}
        arrays = {line.name: line.result for line in lines.values()}
        for line in lines.values():
            self._compute(line, arrays, times, lines)
            self.costs.memory_bytes += times * self._traffic(line, arrays)
            if is_kernel(line):
                self._add_kernel(line, arrays, times)

    def _compute(
        self,
        line: Instruction,
        arrays: Arrays,
        times: int,
        lines: dict[str, Instruction],
    ) -> None:
        """Adds products and collectives of an instruction and of what it calls."""
        if line.opcode == "while":
            trips = self._trips(line, lines)
            self.costs.unknown_loops += trips is None
            self._visit(line.attribute("body"), times * (1 if trips is None else trips))
        elif line.opcode in ("call", "async-start"):
            self._visit(line.attribute("to_apply") or line.attribute("calls"), times)
        elif line.opcode == "conditional":
            for name in _branches(line):  # Only one runs; which one is not known, so all count.
                self._visit(name, times)
        elif line.opcode == "fusion":
            self._compute_fusion(line.attribute("calls"), times)
        elif line.opcode in ("dot", "convolution"):
            operands = [arrays[name][0] for name in line.operands]
            self.costs.flops += times * _product_flops(line, operands)
        elif line.opcode.removesuffix("-start") in _COLLECTIVES:
            self._collect(line.opcode.removesuffix("-start"), line, arrays, times)

    def _add_kernel(self, line: Instruction, arrays: Arrays, times: int) -> None:
        """Adds what a kernel computes and moves."""
        operands = [array for name in line.operands for array in arrays.get(name, ())]
        costs = kernel_costs(line, operands)
        if costs is None:
            self.costs.unknown_kernels += 1
            return
        flops, nbytes = costs
        self.costs.flops += times * flops
        self.costs.memory_bytes += times * nbytes

    def _compute_fusion(self, name: str, times: int) -> None:
        """Adds products and collectives of the computation that a fusion calls."""
        computation = self.computations[name]
        arrays = {line.name: line.result for line in computation}
        for line in computation:
            if name.startswith("all-reduce-scatter") and line.opcode == "all-reduce":
                self._collect("reduce-scatter", line, arrays, times)
            elif _is_stage(line):
                if _is_custom_call(computation, "AsyncCollectiveStart"):
                    self._collect(line.opcode, line, arrays, times, hidden=True)
            else:
                self._compute(line, arrays, times, {})  # in a fusion there are no loops

    def _collect(
        self, kind: str, line: Instruction, arrays: Arrays, times: int, hidden: bool = False
    ) -> None:
        given = sum(array.nbytes for name in line.operands for array in arrays[name])
        pairs: tuple[tuple[int, int], ...] = ()
        groups = np.zeros((0, 0), int)
        if kind == "collective-permute":
            match = re.search(r"source_target_pairs=\{(.*?)\}\}", line.text)
            numbers = re.findall(r"\{(\d+),(\d+)", match[1] + "}" if match else "")
            pairs = tuple((int(a), int(b)) for a, b in numbers)
        else:
            read = replica_groups(line.text, self.num_devices)
            self.costs.unknown_groups += read is None
            groups = np.arange(self.num_devices)[None] if read is None else read
        whole = given * groups.shape[1] if kind == "all-gather" else given
        hidden = hidden or line.opcode.endswith("-start")
        self.costs.collectives.append(Collective(kind, whole, groups, pairs, times, hidden))

    def _trips(self, loop: Instruction, around: dict[str, Instruction]) -> int | None:
        """Returns how often a loop runs; None if that cannot be read.

        XLA states it, or the condition is `counter < limit` and the steps are constant. JAX's loops
        count from 0 by 1; those that XLA makes of a product with a gathered array may count by 2.
        """
        known = re.search(r'known_trip_count[^}]*"n":\s*"(\d+)"', loop.text)
        if known:
            return int(known[1])
        condition = self._lines(loop.attribute("condition"))
        root = _root(condition)
        counter, limit = (condition.get(name) for name in (*root.operands, None, None)[:2])
        if not (counter and counter.opcode == "get-tuple-element" and "direction=LT" in root.text):
            return None
        index = int(counter.attribute("index"))
        body = self._lines(loop.attribute("body"))
        first = around.get(loop.operands[0])
        begin = 0
        if first and first.opcode == "tuple":
            begin = _constant(_source(around, first.operands[index])) or 0
        end, step = _constant(limit), _step(body, index)
        if end is None or step is None:
            return None
        return max(0, math.ceil((end - begin) / step))

    def _lines(self, name: str) -> dict[str, Instruction]:
        return {line.name: line for line in self.computations[name]}

    def _traffic(self, line: Instruction, arrays: Arrays) -> float:
        """Returns the bytes of main memory that an instruction reads and writes."""
        opcode = line.opcode
        is_collective = opcode.removesuffix("-start") in _COLLECTIVES
        if opcode in _FREE or opcode.endswith("-done") or is_collective:
            return 0.0
        if opcode == "fusion":
            return self._fusion_traffic(line, arrays)
        written = sum(array.nbytes for array in line.result if array.space == 0)
        operands = [array for name in line.operands for array in arrays.get(name, ())]
        read = sum(array.nbytes for array in operands if array.space == 0)
        # Their result names what is moved, its source, and a flag.
        if opcode in ("copy-start", "slice-start"):
            moved = line.result[0 if opcode == "copy-start" else 1]
            reads_main = any(array.space == 0 for array in operands)
            return float(moved.nbytes * ((moved.space == 0) + reads_main))
        if opcode in ("dynamic-slice", "slice", "gather"):
            return 2.0 * written
        if opcode in ("dynamic-update-slice", "scatter"):
            place = 1 if opcode == "dynamic-update-slice" else -1
            update = arrays.get(line.operands[place], ())
            return 2.0 * sum(array.nbytes for array in update)
        return float(written + read)

    def _fusion_traffic(self, fusion: Instruction, arrays: Arrays) -> float:
        """Returns what `_traffic` does, for a fusion.

        An operand of which a slice is read counts as the slice; so does one that is updated.
        """
        body = self._lines(fusion.attribute("calls"))
        if _is_custom_call(body.values(), "AsyncCollective"):
            return 0.0
        root, users, total = _root(body), _users(body), 0.0
        stages = [line.name for line in body.values() if _is_stage(line)]
        # What only passes through beside a running collective: its operands and its result.
        passing = set()
        if stages:
            passing = {name for name in root.operands if body[name].opcode == "parameter"}
        for line in body.values():
            if line.opcode != "parameter" or line.name in passing:
                continue
            if arrays[fusion.operands[_number(line)]][0].space == 0:
                total += self._bytes_read(line, users, body)
        roots = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
        for line, array in zip(roots, fusion.result):
            if line.name in passing or line.name in stages:
                continue
            while line.opcode in ("bitcast", "copy") and line.operands[0] in body:
                line = body[line.operands[0]]
            if array.space == 0:
                updates = line.opcode == "dynamic-update-slice"
                total += body[line.operands[1]].result[0].nbytes if updates else array.nbytes
        return total

    def _bytes_read(
        self,
        parameter: Instruction,
        users: dict[str, list[Instruction]],
        body: dict[str, Instruction],
    ) -> float:
        """Returns the bytes that a fusion reads of its parameter."""
        to_visit, total = list(users[parameter.name]), 0.0
        seen = {parameter.name}
        while to_visit:
            user = to_visit.pop()
            if user.opcode == "bitcast":
                seen.add(user.name)
                to_visit += users[user.name]
            elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] in seen:
                total += user.result[0].nbytes
            elif user.opcode == "fusion":
                inner = self._lines(user.attribute("calls"))
                total += sum(
                    self._bytes_read(line, _users(inner), inner)
                    for line in inner.values()
                    if line.opcode == "parameter" and user.operands[_number(line)] in seen
                )
            elif user.opcode != "dynamic-update-slice" or user.operands[0] not in seen:
                return parameter.result[0].nbytes
        return min(total, parameter.result[0].nbytes)


def _branches(conditional: Instruction) -> list[str]:
    branches = re.search(r"branch_computations=\{([^}]*)\}", conditional.text)
    if branches:
        return names_in(branches[1])
    return [conditional.attribute(f"{value}_computation") for value in ("true", "false")]


def _root(computation: dict[str, Instruction]) -> Instruction:
    return next(line for line in computation.values() if line.is_root)


def _is_stage(line: Instruction) -> bool:
    """Returns whether the program names here a collective that runs beside several fusions.

    The first of these places is in a fusion that ends in a call of `AsyncCollectiveStart`, the last
    in one that ends in a call of `AsyncCollectiveDone`; all have the same channel.
    """
    return line.opcode in _COLLECTIVES and "async_collective_fusion_config" in line.text


def _is_custom_call(computation: Iterable[Instruction], target: str) -> bool:
    """Returns whether a computation ends in a call of a target with this prefix."""
    return any(
        line.is_root
        and line.opcode == "custom-call"
        and f'custom_call_target="{target}' in line.text
        for line in computation
    )


def _constant(line: Instruction | None) -> int | None:
    """Returns the number that a scalar constant is."""
    if line is None or line.opcode != "constant":
        return None
    match = re.search(r" constant\((-?\d+)\)", line.text)
    return int(match[1]) if match else None


def _source(lines: dict[str, Instruction], name: str) -> Instruction | None:
    """Returns the instruction behind copies of it."""
    line = lines.get(name)
    while line and line.opcode in ("bitcast", "copy", "copy-start", "copy-done"):
        line = lines.get(line.operands[0])
    return line


def _step(body: dict[str, Instruction], index: int) -> int | None:
    """Returns what a loop's body adds to the item `index` of what it carries."""
    root = _root(body)
    add = _source(body, root.operands[index]) if root.opcode == "tuple" else None
    if add is None or add.opcode != "add":
        return None
    steps = [_constant(body.get(name)) for name in add.operands]
    return next((step for step in steps if step), None)


def _users(computation: dict[str, Instruction]) -> dict[str, list[Instruction]]:
    """Returns for each name of a computation the instructions that read it."""
    users = collections.defaultdict(list)
    for line in computation.values():
        for name in line.operands:
            users[name].append(line)
    return users


def _number(parameter: Instruction) -> int:
    return int(re.search(r"parameter\((\d+)\)", parameter.text)[1])


def _product_flops(product: Instruction, operands: list[Array]) -> float:
    left, out = operands[0], product.result[0]
    if product.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.text)[1]
        length = math.prod(left.dims[int(axis)] for axis in contracted.split(",") if axis)
        return 2.0 * math.prod(out.dims) * length
    return _convolution_flops(product.text, left, operands[1], out)


def _convolution_flops(text: str, left: Array, right: Array, out: Array) -> float:
    """Returns the FLOPs of a convolution, without products with padding.

    On a TPU every matrix product is written as a convolution.
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
