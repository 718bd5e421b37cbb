"""The shapes of a model's parameters, from the model itself; no array is made."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from flan_jax.models.architectures import model_of
from flan_jax.models.stacking import named, unstack

# Every feature that a model of either architecture reads.
_FEATURES = tuple(
    f"{side}_{feature}"
    for side in ("encoder", "decoder")
    for feature in ("input_tokens", "segment_ids", "positions", "causal_attention")
)


def parameter_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter by its name in T5X's form, with layers unstacked.

    Names are paths, such as `encoder/layers_0/mlp/wo/kernel`, in the order of the tree (sorted).
    The model is traced with its layers scanned, so that the time does not grow with their number.

    Args:
      config: a `T5Config` or a `DecoderConfig`.
    """
    model = model_of(dataclasses.replace(config, scan_layers=True, remat="none"))
    batch = dict.fromkeys(_FEATURES, np.ones((1, 1), np.int32))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    parameters = jax.tree.map(_unboxed, boxed, is_leaf=_is_box)
    return {name: leaf.shape for name, leaf in named(unstack(parameters)).items()}


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)


def _unboxed(leaf: Any) -> Any:
    # Without the sharding constraint that Flax adds where a mesh is set: these are not arrays.
    return leaf.unbox(apply_constraint=False) if _is_box(leaf) else leaf
