"""Checkpoints of other programs: T5X, Hugging Face and GGUF, read and written tensor by tensor."""

from flan_jax.checkpoints.read import find_parameters, read_parameters

__all__ = ["find_parameters", "read_parameters"]
