"""The shapes of a model's parameters, from the model itself; no array is made."""

from __future__ import annotations

import dataclasses
import functools
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
# The parts of the paths of parameters, in the order in which a model applies them.
_ORDER = (
    "token_embedder",
    "encoder",
    "decoder",
    "relpos_bias",
    "layers",
    "pre_attention_layer_norm",
    "attention",
    "pre_self_attention_layer_norm",
    "self_attention",
    "post_self_attention_layer_norm",
    "pre_cross_attention_layer_norm",
    "encoder_decoder_attention",
    "pre_mlp_layer_norm",
    "mlp",
    "post_mlp_layer_norm",
    "query",
    "key",
    "value",
    "out",
    "query_norm",
    "key_norm",
    "wi",
    "wi_0",
    "wi_1",
    "wo",
    "encoder_norm",
    "decoder_norm",
    "logits_dense",
)


def parameter_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter by its name in T5X's form, with layers unstacked.

    Names are paths, such as `encoder/layers_0/mlp/wo/kernel`, in the order in which the model
    applies them. The model is traced with its layers scanned, so that the time does not grow with
    their number; results are kept.

    Args:
      config: a `T5Config` or a `DecoderConfig`.
    """
    return dict(_shapes(dataclasses.replace(config, scan_layers=True, remat="none")))


@functools.lru_cache(maxsize=8)
def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    model = model_of(config)
    batch = dict.fromkeys(_FEATURES, np.ones((1, 1), np.int32))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    parameters = jax.tree.map(_unboxed, boxed, is_leaf=_is_box)
    shapes = {name: leaf.shape for name, leaf in named(unstack(parameters)).items()}
    return {name: shapes[name] for name in sorted(shapes, key=_position)}


def _position(name: str) -> list[tuple[int, int]]:
    """Where a parameter is in the order in which the model applies them."""
    *parts, leaf = name.split("/")
    places = []
    for part in parts:
        part, _, number = part.partition("layers_")
        name = part or "layers"
        place = _ORDER.index(name) if name in _ORDER else len(_ORDER)  # new parts come last
        places.append((place, int(number or 0)))
    if leaf == "bias":  # those of an attention come after all its kernels
        places[-1] = (len(_ORDER), places[-1][0])
    return places


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)


def _unboxed(leaf: Any) -> Any:
    # Without the sharding constraint that Flax adds where a mesh is set: these are not arrays.
    return leaf.unbox(apply_constraint=False) if _is_box(leaf) else leaf
