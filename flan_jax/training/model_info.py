"""`model-info.txt`: size, logical axes and partition of every variable of the state, as in T5X."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import linen as nn

from flan_jax.models.stacking import path_name
from flan_jax.training.state import ShardedState


def model_info(sharded: ShardedState) -> tuple[str, int, int]:
    """Returns the text of the file, the number of parameters of the model, and of those that train.

    Args:
      sharded: shapes and shardings of the state.
    """
    trees = [(sharded.abstract, sharded.shardings)]
    if not sharded.tuning.is_full:
        trees.append(({"frozen": sharded.boxed_frozen}, {"frozen": sharded.frozen_shardings}))
    lines, totals = [], {"params": 0, "opt_state": 0, "step": 0, "frozen": 0}
    for abstract, shardings in trees:
        leaves = jax.tree_util.tree_leaves_with_path(
            abstract, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
        )
        for (key, leaf), sharding in zip(leaves, jax.tree.leaves(shardings)):
            totals[key[0].key] += int(np.prod(nn.unbox(leaf).shape, dtype=np.int64))
            lines.append(_line(path_name(key), leaf, sharding))
    trained, whole = totals["params"], _size(sharded.abstract_base)
    lines += [
        f"Total number of parameters: {whole}",
        *([] if sharded.tuning.is_full else [f"Total number of trained parameters: {trained}"]),
        f"Total number of optimizer values: {totals['opt_state']}",
    ]
    return "\n".join(lines) + "\n", whole, trained


def _size(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))


def _line(name: str, leaf: Any, sharding: Any) -> str:
    names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
    value = nn.unbox(leaf)
    size = int(np.prod(value.shape, dtype=np.int64))
    axes = str(value.shape).strip("()")
    if names:
        axes = ", ".join(f"{axis}={length}" for axis, length in zip(names, value.shape))
    return (
        f"Variable {name:<80} size {size:<12} shape ({axes})".ljust(160)
        + f" partition spec {tuple(sharding.spec)}"
    )
