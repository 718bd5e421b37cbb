"""Arrays that a parameter-efficient method adds beside those of a module, and what they compute.

A module applies them where they are among its parameters, and creates none itself: `flan_jax.peft`
adds them to the parameters of a model. Shape letters: D the width of the input, F that of the
output, R the rank, P the length of a prompt, V the rows of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Integer

from flan_jax.models.array_types import Array

# LoRA: [D, R] and [R, F]; the scale is part of the second one when parameters are joined.
LORA_A, LORA_B = "lora_a", "lora_b"
# IA3: factors of the input [D] and of the output [F].
SCALE_IN, SCALE_OUT = "ia3_in", "ia3_out"
# Prompt tuning: [P, D] vectors beside an embedding [V, D], of the ids V .. V + P - 1.
PROMPT = "prompt"


def added(module: nn.Module, name: str) -> Float[Array, ...] | None:
    """Returns an array that a method added to the parameters of a module, or None."""
    return module.get_variable("params", name) if module.has_variable("params", name) else None


def scaled_by(
    x: Float[Array, "... W"], factors: Float[Array, " W"] | None
) -> Float[Array, "... W"]:
    """Returns x times the factors of its last axis, in the dtype of x; x itself without any."""
    return x if factors is None else x * factors.astype(x.dtype)


def looked_up(
    table: Float[Array, "V D"], prompt: Float[Array, "P D"], tokens: Integer[Array, "B L"]
) -> Float[Array, "B L D"]:
    """Returns the vectors of tokens: rows of the table, and from V on those of the prompt."""
    tokens, rows = jnp.asarray(tokens, jnp.int32), table.shape[0]
    of_table = jnp.take(table, jnp.minimum(tokens, rows - 1), axis=0)
    of_prompt = jnp.take(prompt, jnp.maximum(tokens - rows, 0), axis=0)
    return jnp.where((tokens >= rows)[..., None], of_prompt, of_table)


def prompt_length_of(params: Any) -> int:
    """Returns how many vectors the prompt in the parameters of a model has; 0 without one."""
    if not isinstance(params, Mapping):
        return 0
    if PROMPT in params:
        return params[PROMPT].shape[0]
    return max(map(prompt_length_of, params.values()), default=0)
