"""Caches of keys and values: trees of [..., K, slots, C], filled one slot at a time."""

from typing import Any

import jax
import jax.numpy as jnp

from flan_jax.models.array_types import Array


def heads_first(keys_values: Any) -> Any:
    """Returns a tree of keys and values [..., slots, K, C] as in a cache, [..., K, slots, C].

    What is read at every step is transposed only once.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x, -3, -2), keys_values)


def with_free_slots(cache: Any, count: int) -> Any:
    """Returns a tree of keys and values [..., K, slots, C] with `count` more slots of zeros."""

    def padded(x: Array) -> Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, count), (0, 0)])

    return jax.tree.map(padded, cache)


def put_in_cache(cache: Any, new: Any, slot: Array) -> Any:
    """Returns the cache, trees of [..., K, slots, C], with `new` [..., K, 1, C] at `slot`."""

    def written(old: Array, update: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, update, slot, old.ndim - 2)

    return jax.tree.map(written, cache, new)
