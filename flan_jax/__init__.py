"""Instruction tuning of language models (FLAN, arXiv 2109.01652) in JAX for TPU and GPU."""

__version__ = "0.1.0"
