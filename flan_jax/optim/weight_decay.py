"""Which parameters weight decay is for."""

from typing import Any

import jax

from flan_jax.models.adapters import LORA_A, LORA_B, PROMPT

# The last part of a parameter's name says what it is. Shapes do not: the norm scales of stacked
# layers are matrices [N, D]. All others (scale, bias, rel_embedding, ...) do not decay.
DECAYED = frozenset({"kernel", "embedding", LORA_A, LORA_B, PROMPT})


def decays(path: tuple) -> bool:
    """Returns whether the parameter with JAX's path decays."""
    return getattr(path[-1], "key", None) in DECAYED


def decayed(params: Any) -> Any:
    """Returns a tree of whether each parameter decays: matrices, embeddings, prompts."""
    return jax.tree_util.tree_map_with_path(lambda path, _: decays(path), params)
