"""A hash of the bits of an array, on the device, that is the same on any mesh."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

_ODD = tuple(
    np.uint32(number) for number in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
)


def array_hash(leaf: jax.Array, seed: np.uint32) -> jax.Array:
    """Returns a uint32 [] from the bits of an array and their places."""
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    x = bits.astype(jnp.uint32) * _ODD[0] + seed
    for axis, odd in zip(range(leaf.ndim), itertools.cycle(_ODD[1:])):
        x = _mixed(x + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * odd)
    # Sums of integers are the same on any mesh; those of floats are not.
    return jnp.sum(x)


def _mixed(x: jax.Array) -> jax.Array:
    """Each bit of the result depends on all bits of x, uint32.

    It is the last step of MurmurHash3 (Appleby, 2011).
    """
    for shift, odd in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(odd)
    return x ^ (x >> 16)
