"""IA3: factors of keys, values and hidden feed-forward activations. Liu et al., T-Few, 2022.

Those of a key or value are of the output [F], those of a feed-forward's second map of its input
[D]; all are 1 at step 0.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from flan_jax.models.adapters import SCALE_IN, SCALE_OUT
from flan_jax.peft.config import PeftConfig

_OUTPUTS, _INPUTS = ("key", "value"), ("wo",)


def added_arrays(config: PeftConfig, base: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns the factors by path, boxed with their logical axes, float32.

    Args:
      config: the settings.
      base: the boxed parameters of the model by path.
      seed: not used: all factors are 1.
    """
    arrays = {}
    for name, kernel in base.items():
        module, _, leaf = name.rpartition("/")
        if leaf != "kernel":
            continue
        *layers, inputs, outputs = kernel.value.shape
        *layer_axes, input_axis, output_axis = kernel.names
        last = module.rpartition("/")[2]
        if last in _OUTPUTS:
            ones, axes = jnp.ones((*layers, outputs), jnp.float32), (*layer_axes, output_axis)
            arrays[f"{module}/{SCALE_OUT}"] = nn.LogicallyPartitioned(ones, axes)
        elif last in _INPUTS:
            ones, axes = jnp.ones((*layers, inputs), jnp.float32), (*layer_axes, input_axis)
            arrays[f"{module}/{SCALE_IN}"] = nn.LogicallyPartitioned(ones, axes)
    return arrays
