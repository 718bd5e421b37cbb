"""Digests that identify parameters and models: what numbers and answers come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flan_jax.models.array_hash import array_hash
from flan_jax.storage.hashing import digest

# Fields of a model's configuration that do not change its answers.
_NO_MATTER = ("remat", "scan_layers", "dropout_rate", "attention")


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
    leaves = jax.tree.leaves(params)
    return [array_hash(leaf, np.uint32(seed)) for leaf in leaves for seed in (1, 2)]
