"""Checkpoints of other programs: T5X, Hugging Face and GGUF, read and written tensor by tensor."""

from flan_jax.interchange.load import read_parameters

__all__ = ["read_parameters"]
