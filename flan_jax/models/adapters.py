"""Arrays that a parameter-efficient method adds beside those of a module, and what they compute.

A module applies them where they are among its parameters, and creates none itself: `flan_jax.peft`
adds them to the parameters of a model. Shape letters: D the width of the input, F that of the
output, R the rank.
"""

from __future__ import annotations

from flax import linen as nn
from jaxtyping import Float

from flan_jax.models.array_types import Array

# LoRA: [D, R] and [R, F]; the scale is part of the second one when parameters are joined.
LORA_A, LORA_B = "lora_a", "lora_b"
# IA3: factors of the input [D] and of the output [F].
SCALE_IN, SCALE_OUT = "ia3_in", "ia3_out"
# Prompt tuning: [P, D] vectors in front of the embedded input.
PROMPT = "prompt"


def added(module: nn.Module, name: str) -> Float[Array, ...] | None:
    """Returns an array that a method added to the parameters of a module, or None."""
    return module.get_variable("params", name) if module.has_variable("params", name) else None


def scaled_by(
    x: Float[Array, "... W"], factors: Float[Array, " W"] | None
) -> Float[Array, "... W"]:
    """Returns x times the factors of its last axis, in the dtype of x; x itself without any."""
    return x if factors is None else x * factors.astype(x.dtype)
