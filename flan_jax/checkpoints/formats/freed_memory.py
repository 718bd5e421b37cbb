"""Memory that was freed and that the allocator keeps for later."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

# Returning memory takes about a millisecond, and an array this small leaves little behind.
_LEAST_BYTES = 8 * 2**20


def return_memory(array_bytes: int) -> None:
    """Returns freed memory to the system after a large array was read or written.

    The threads of TensorStore hold the pieces of what they transfer in heaps of their own, which
    glibc would keep: as much as the array, beside the next array. Other allocators are left alone.

    Args:
      array_bytes: size of the array.
    """
    trim = _malloc_trim()
    if trim is not None and array_bytes >= _LEAST_BYTES:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return None
