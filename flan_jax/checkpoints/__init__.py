"""Checkpoints: saving and restoring, and reading and writing the formats of other programs."""

from flan_jax.checkpoints.read import find_parameters, read_parameters

__all__ = ["find_parameters", "read_parameters"]
