"""`model-info.txt`: size, logical axes and partition of every variable of the state, as in T5X."""

from __future__ import annotations

import jax
import numpy as np
from flax import linen as nn

from flan_jax.models.stacking import path_name


def model_info(abstract: dict, shardings: dict) -> tuple[str, int]:
    """Returns the text of the file, and the number of parameters.

    Args:
      abstract: boxed shapes of the state, layers stacked.
      shardings: a tree of the same structure.
    """
    lines, totals = [], {"params": 0, "opt_state": 0, "step": 0}
    leaves = jax.tree_util.tree_leaves_with_path(
        abstract, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    for (key, leaf), sharding in zip(leaves, jax.tree.leaves(shardings)):
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
        value = nn.unbox(leaf)
        size = int(np.prod(value.shape, dtype=np.int64))
        totals[key[0].key] += size
        axes = str(value.shape).strip("()")
        if names:
            axes = ", ".join(f"{axis}={length}" for axis, length in zip(names, value.shape))
        lines.append(
            f"Variable {path_name(key):<80} size {size:<12} shape ({axes})".ljust(160)
            + f" partition spec {tuple(sharding.spec)}"
        )
    lines += [
        f"Total number of parameters: {totals['params']}",
        f"Total number of optimizer values: {totals['opt_state']}",
    ]
    return "\n".join(lines) + "\n", totals["params"]
