"""Between the tree in memory (one `layers` axis per stack of layers) and the tree on disk (T5X's
`layers_0`, ...).

`stack` and `unstack` take any nesting of dicts, tuples, lists and named tuples (parameters,
optimizer states) and leave what is not a layer as it is. Leaves are arrays or
`jax.ShapeDtypeStruct`s; a struct's sharding follows its axes. N layers.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax.sharding import NamedSharding, PartitionSpec

_LAYER = re.compile(r"layers_(\d+)")


def path_name(path) -> str:
    """Gives JAX's path of a leaf as `encoder/layers/mlp/wo/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree, is_leaf=None) -> dict:
    """Gives the leaves of any tree by the names of their paths; `is_leaf` is as in
    `jax.tree.map`.
    """
    return {
        path_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    }


def unstack(tree):
    """Gives the tree with every `layers` subtree, leaves [N, ...], replaced by `layers_0` ..
    `layers_{N-1}`.
    """
    if not isinstance(tree, (dict, FrozenDict)):
        return _map_children(unstack, tree)
    result = {}
    for name, child in tree.items():
        if name == "layers":
            num_layers = jax.tree.leaves(child)[0].shape[0]
            result.update(
                {
                    f"layers_{i}": jax.tree.map(lambda x, i=i: _take(x, i), child)
                    for i in range(num_layers)
                }
            )
        else:
            result[name] = unstack(child)
    return result


def stack(tree):
    """Gives the tree with all `layers_<i>` subtrees of a dict stacked into one `layers`, leaves [N,
    ...].
    """
    if not isinstance(tree, (dict, FrozenDict)):
        return _map_children(stack, tree)
    numbered = sorted((int(match[1]), name) for name in tree if (match := _LAYER.fullmatch(name)))
    result = {name: stack(child) for name, child in tree.items() if not _LAYER.fullmatch(name)}
    if numbered:
        result["layers"] = jax.tree.map(
            lambda *xs: _join(xs), *(tree[name] for _, name in numbered)
        )
    return result


def _map_children(function, tree):
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(function, tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(function, tree))
    return tree


def _take(x, i: int):
    if not isinstance(x, jax.ShapeDtypeStruct):
        return x[i]
    return jax.ShapeDtypeStruct(
        x.shape[1:], x.dtype, sharding=_with_spec(x.sharding, lambda spec: spec[1:])
    )


def _join(xs: tuple):
    first = xs[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        sharding = _with_spec(first.sharding, lambda spec: (None, *spec))
        return jax.ShapeDtypeStruct((len(xs), *first.shape), first.dtype, sharding=sharding)
    return np.stack(xs) if isinstance(first, np.ndarray) else jnp.stack(xs)


def _with_spec(sharding, change):
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*change(tuple(sharding.spec))))
