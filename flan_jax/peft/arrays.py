"""What the methods share: random keys that do not depend on how layers are stacked."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import jax
import numpy as np


def layer_keys(seed: int, path: str, layers: Sequence[int]) -> jax.Array:
    """Returns a key for an array, or [N] keys for those of the N layers of a stack.

    A layer has the same key in a stacked and in an unstacked tree.

    Args:
      seed: of the run.
      path: of the array.
      layers: () or (N,).
    """
    names = [path]
    if layers:
        before, after = path.split("layers/", 1)
        names = [f"{before}layers_{i}/{after}" for i in range(layers[0])]
    numbers = np.array([zlib.crc32(name.encode()) for name in names], np.uint32)
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)
    return keys if layers else keys[0]
