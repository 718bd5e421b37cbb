"""A stack of equal layers: scanned over one stacked subtree, or one after the other."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from flan_jax.models.layers import REMATS


def layer_stack(layer_class: type[nn.Module], config: Any, num_layers: int) -> Any:
    """Returns one layer to scan over (`scan_layers`), or a list of `num_layers` layers.

    Assigned to `layers` in `setup`, both get T5X's names.
    """
    if config.scan_layers:
        return layer_class(config)
    return [layer_class(config) for _ in range(num_layers)]


def run_layers(
    config: Any, stack: Any, num_layers: int, body: Callable, carry: Any, scanned: Any = None
) -> tuple[Any, Any]:
    """Runs `carry, out = body(layer, carry, scanned[i])` over the layers of a `layer_stack`.

    Args:
      config: the model's configuration (`scan_layers`, `remat`).
      stack: the `layer_stack`.
      num_layers: N.
      body: what runs a layer.
      carry: what the first layer receives.
      scanned: a tree of arrays [N, ...], or None. Without `scan_layers` it may have lists of N
        arrays instead, which are split for free.

    Returns:
      The last carry, and the outs stacked [N, ...], or without `scan_layers` lists of N outs.
    """
    # 'auto' is resolved where a run is set up; what does not train has no backward pass.
    if config.remat not in ("none", "auto"):
        body = nn.remat(body, prevent_cse=not config.scan_layers, policy=REMATS[config.remat])
    if config.scan_layers:
        scan = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
            # The check would trace the layer once more. Random parameters of a seed stay what they
            # are with it: a trace advances Linen's counters of keys.
            check_constancy_invariants=stack.is_initializing(),
        )
        return scan(stack, carry, scanned)
    outs = []
    for i, layer in enumerate(stack):
        carry, out = body(layer, carry, _layer_of(scanned, i))
        outs.append(out)
    return carry, jax.tree.map(lambda *xs: list(xs), *outs)


def _layer_of(scanned: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], scanned, is_leaf=lambda x: isinstance(x, list))
