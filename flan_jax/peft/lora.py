"""LoRA: a product of two matrices beside the kernel of a dense map. Hu et al., LoRA, 2021.

The first one, [D, R], is uniform between +-1/sqrt(D), the second one, [R, F], zero: step 0 is the
model itself.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flan_jax.errors import UserError
from flan_jax.messages import listed
from flan_jax.models.adapters import LORA_A, LORA_B
from flan_jax.peft.arrays import layer_keys
from flan_jax.peft.config import PeftConfig
from flan_jax.peft.module_paths import NAMED, matching

_KERNEL, _TABLE = "/kernel", "/embedding"


def added_arrays(config: PeftConfig, base: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns the two matrices of each target by path, boxed with their logical axes, float32.

    Args:
      config: the settings.
      base: the boxed parameters of the model by path.
      seed: of the first matrices.

    Raises:
      UserError: if the targets match nothing, or a module that cannot have LoRA.
    """
    arrays = {}
    for module in targets(config.lora_targets, base):
        kernel = base[module + _KERNEL]
        *layers, inputs, outputs = kernel.value.shape
        *layer_axes, input_axis, output_axis = kernel.names
        limit, shape = inputs**-0.5, (inputs, config.lora_rank)

        def first(key: jax.Array, limit: float = limit, shape: tuple = shape) -> jax.Array:
            return jax.random.uniform(key, shape, jnp.float32, -limit, limit)

        keys = layer_keys(seed, f"{module}/{LORA_A}", layers)
        a = jax.vmap(first)(keys) if layers else first(keys)
        b = jnp.zeros((*layers, config.lora_rank, outputs), jnp.float32)
        axes = (*layer_axes, input_axis, "lora_rank"), (*layer_axes, "lora_rank", output_axis)
        arrays[f"{module}/{LORA_A}"] = nn.LogicallyPartitioned(a, axes[0])
        arrays[f"{module}/{LORA_B}"] = nn.LogicallyPartitioned(b, axes[1])
    return arrays


def targets(expression: str, base: dict[str, Any]) -> list[str]:
    """Returns the paths of the modules with LoRA.

    Args:
      expression: LORA_TARGETS.
      base: the parameters of the model by path.

    Raises:
      UserError: if it matches nothing, or a module that cannot have LoRA.
    """
    endings = (_KERNEL, _TABLE, "/rel_embedding")
    modules = [name.rpartition("/")[0] for name in base if name.endswith(endings)]
    if expression in NAMED:  # what a model does not have, such as a second gate, is no mistake
        found = [name for name in modules if name.rpartition("/")[2] in NAMED[expression]]
    else:
        found = matching(expression, modules, "LORA_TARGETS")
    tables = [module for module in found if module + _KERNEL not in base]
    if tables:
        raise UserError(
            f"LORA_TARGETS {expression!r} matches {listed(tables)}, which is a table and not a "
            "matrix of a dense map; leave it out, or train it as a whole with ALSO_TRAIN."
        )
    return found
