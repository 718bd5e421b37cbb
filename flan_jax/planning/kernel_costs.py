"""What the kernels of fused attention compute and move; a compiler sees only calls of them.

The names, operands and results are those of JAX's splash attention on a TPU: forward, and backward
to queries (`dq`) and to keys and values (`dkv`). Shape letters: B batch, L length, H heads, K heads
of keys and values, C head width.
"""

from __future__ import annotations

import re

from flan_jax.planning.hlo_text import Array, Instruction

# Products of a block of queries with a block of keys: scores and mixed values; scores
# again, their gradient, and what goes to queries, or to keys and to values.
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def is_kernel(line: Instruction) -> bool:
    """Returns whether an instruction is a call of a TPU kernel of any kind."""
    return line.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' in line.text


def kernel_costs(line: Instruction, operands: list[Array]) -> tuple[float, float] | None:
    """Returns the FLOPs and the bytes of main memory of a kernel; None if it is not known.

    Args:
      line: for which `is_kernel` holds.
      operands: its arrays: the plan of blocks int8 [1, blocks, blocks seen], a mask's, then
        queries [B, H, L, C], keys and values [B, K, L, C], and others that are read once.
    """
    phase = re.match(r"splash_m[hq]a_(fwd|dq|dkv)_", line.name)
    if not phase:
        return None
    phase = phase[1]
    wide = [array for array in operands if array.item_bits > 8 and len(array.dims) >= 3]
    query, keys = wide[0], wide[1]
    *batch, heads, length, width = query.dims
    rows = batch[0] if batch else 1
    pairs, reads = _pairs(operands, length)
    flops = 2.0 * _PRODUCTS[phase] * rows * heads * pairs * width
    # Queries stay in fast memory while their keys and values pass, or the other way around.
    streamed = 2 * rows * heads * reads * width * query.item_bits / 8
    once = sum(array.nbytes for array in (*operands, *line.result) if array.space == 0)
    return flops, once + max(0.0, streamed - 2 * keys.nbytes)


def _pairs(operands: list[Array], length: int) -> tuple[int, int]:
    """Returns the pairs of a query and a key in the blocks that are seen, and the places streamed.

    The blocks on the diagonal and before it are seen, as many as the plan has columns for.
    """
    plans = [array for array in operands if array.item_bits == 8 and len(array.dims) == 3]
    if not plans:
        return length * length, length
    blocks, seen = max(plans[0].dims[1:]), min(plans[0].dims[1:])
    side = length // blocks
    visits = sum(min(row + 1, seen) for row in range(blocks))
    return visits * side * side, visits * side
