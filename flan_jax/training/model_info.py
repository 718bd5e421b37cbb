"""`model-info.txt`: every variable of the state with its size, logical axes and partition, in T5X's
form.
"""

from __future__ import annotations

import jax
import numpy as np
from flax import linen as nn

from flan_jax.models.stacking import path_name


def model_info(abstract: dict, shardings: dict) -> tuple[str, int]:
    """The text of the file, and the number of parameters.

    Args:
      abstract: boxed shapes of the state, layers stacked.
      shardings: of the same tree.
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
        axes = (
            ", ".join(f"{n}={d}" for n, d in zip(names, value.shape))
            if names
            else str(value.shape).strip("()")
        )
        lines.append(
            f"Variable {path_name(key):<80} size {size:<12} shape ({axes})".ljust(160)
            + f" partition spec {tuple(sharding.spec)}"
        )
    lines += [
        f"Total number of parameters: {totals['params']}",
        f"Total number of optimizer values: {totals['opt_state']}",
    ]
    return "\n".join(lines) + "\n", totals["params"]
