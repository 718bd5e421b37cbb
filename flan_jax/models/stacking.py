"""Conversion between stacked trees (one `layers`) and T5X's unstacked ones (`layers_0`, ...).

Trees are stacked in memory and unstacked on disk. `stack` and `unstack` take any nesting of dicts,
tuples, lists and named tuples (parameters, optimizer states) and leave what is not a layer as it
is. Leaves are arrays or `jax.ShapeDtypeStruct`s; a struct's sharding follows its axes. N layers.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax.sharding import NamedSharding, PartitionSpec

_LAYER = re.compile(r"layers_(\d+)")


def path_name(path: tuple) -> str:
    """Returns JAX's path of a leaf as `encoder/layers/mlp/wo/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Returns the leaves of a tree by the names of their paths; `is_leaf` as in `jax.tree.map`."""
    return {
        path_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    }


def unstack(tree: Any) -> Any:
    """Returns the tree with each `layers`, leaves [N, ...], split into `layers_0`, ..."""
    if not isinstance(tree, (dict, FrozenDict)):
        return _map_children(unstack, tree)
    result = {}
    for name, child in tree.items():
        if name == "layers":
            for i in range(jax.tree.leaves(child)[0].shape[0]):
                result[f"layers_{i}"] = jax.tree.map(lambda x, i=i: _take(x, i), child)
        else:
            result[name] = unstack(child)
    return result


def stack(tree: Any) -> Any:
    """Returns the tree with all `layers_<i>` of a dict as one `layers`, leaves [N, ...]."""
    if not isinstance(tree, (dict, FrozenDict)):
        return _map_children(stack, tree)
    numbered = sorted((int(match[1]), name) for name in tree if (match := _LAYER.fullmatch(name)))
    result = {name: stack(child) for name, child in tree.items() if not _LAYER.fullmatch(name)}
    if numbered:
        result["layers"] = jax.tree.map(
            lambda *xs: _join(xs), *(tree[name] for _, name in numbered)
        )
    return result


def _map_children(function: Callable, tree: Any) -> Any:
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(function, tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(function, tree))
    return tree


def _take(x: Any, i: int) -> Any:
    if not isinstance(x, jax.ShapeDtypeStruct):
        return x[i]
    return jax.ShapeDtypeStruct(
        x.shape[1:], x.dtype, sharding=_with_spec(x.sharding, lambda spec: spec[1:])
    )


def _join(xs: tuple) -> Any:
    first = xs[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        sharding = _with_spec(first.sharding, lambda spec: (None, *spec))
        return jax.ShapeDtypeStruct((len(xs), *first.shape), first.dtype, sharding=sharding)
    return np.stack(xs) if isinstance(first, np.ndarray) else jnp.stack(xs)


def _with_spec(sharding: Any, change: Callable[[tuple], tuple]) -> Any:
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*change(tuple(sharding.spec))))
