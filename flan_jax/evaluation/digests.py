"""Digests that identify parameters and models: what numbers and answers come from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flan_jax.storage.hashing import digest

_ODD = tuple(
    np.uint32(number) for number in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
)
# Fields of a model's configuration that do not change its answers.
_NO_MATTER = ("remat", "scan_layers", "dropout_rate")


def parameters_digest(params: Any) -> str:
    """Returns a digest of parameters: of each array's bits and their places.

    It is the same on any mesh; another order of the same values has another digest.
    """
    return digest([int(value) for value in jax.device_get(_sums(params))])


def model_digest(config: Any) -> str:
    """Returns a digest of the fields of a model's configuration that decide its answers."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return digest(
        {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in fields.items()
            if name not in _NO_MATTER
        }
    )


@jax.jit
def _sums(params: Any) -> list[jax.Array]:
    # Sums of integers are the same on any mesh; those of floats are not.
    leaves = jax.tree.leaves(params)
    return [_hash(leaf, np.uint32(seed)) for leaf in leaves for seed in (1, 2)]


def _hash(leaf: jax.Array, seed: np.uint32) -> jax.Array:
    """A uint32 from the bits of an array and their places."""
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    x = bits.astype(jnp.uint32) * _ODD[0] + seed
    for axis, odd in zip(range(leaf.ndim), itertools.cycle(_ODD[1:])):
        x = _mixed(x + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * odd)
    return jnp.sum(x)


def _mixed(x: jax.Array) -> jax.Array:
    """Each bit of the result depends on all bits of x, uint32.

    It is the last step of MurmurHash3 (Appleby, 2011).
    """
    for shift, odd in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(odd)
    return x ^ (x >> 16)
