"""The parameter trees of both architectures as plain facts: name -> shape, from a configuration;
and the way back.

Pure functions of dicts: no network is built, so that a checkpoint of any size is checked before a
byte of it is read. Names and shapes are T5X's, layers unstacked. `tests/test_convert_t5x.py` holds
them against the networks themselves.
"""

from __future__ import annotations

import re
from typing import Any

from flan_jax.errors import UserError

Shapes = dict[str, tuple[int, ...]]

# The fields of T5Config and DecoderConfig that say what a model is; the others say how it is run.
FIELDS = {
    "t5": (
        "emb_dim",
        "num_heads",
        "head_dim",
        "mlp_dim",
        "num_encoder_layers",
        "num_decoder_layers",
        "mlp_activations",
        "logits_via_embedding",
        "relpos_buckets",
        "relpos_max_distance",
        "decoder_start_id",
    ),
    "decoder": (
        "emb_dim",
        "num_heads",
        "head_dim",
        "mlp_dim",
        "num_layers",
        "num_kv_heads",
        "positions",
        "relpos_buckets",
        "relpos_max_distance",
        "rope_theta",
        "rope_scaling",
        "mlp_activations",
        "logits_via_embedding",
        "scale_tied_logits",
        "scale_queries",
        "qkv_bias",
        "norm_epsilon",
        "prefix",
    ),
}
DEFAULTS = {
    "t5": {
        "mlp_activations": ("gelu", "linear"),
        "logits_via_embedding": False,
        "relpos_buckets": 32,
        "relpos_max_distance": 128,
        "decoder_start_id": 0,
    },
    "decoder": {
        "num_kv_heads": None,
        "positions": "relative",
        "relpos_buckets": 32,
        "relpos_max_distance": 128,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "mlp_activations": ("gelu", "linear"),
        "logits_via_embedding": True,
        "scale_tied_logits": True,
        "scale_queries": False,
        "qkv_bias": False,
        "norm_epsilon": 1e-6,
        "prefix": "causal",
    },
}


def parameter_shapes(model: str, fields: dict[str, Any]) -> Shapes:
    """Every parameter of a model ('t5' or 'decoder') with its shape; `fields` as in `Source`."""
    fields = {**DEFAULTS[model], **fields}
    return _t5_shapes(fields) if model == "t5" else _decoder_shapes(fields)


def _t5_shapes(fields: dict[str, Any]) -> Shapes:
    width, heads = fields["emb_dim"], fields["num_heads"]
    joined = heads * fields["head_dim"]
    shapes: Shapes = {"token_embedder/embedding": (fields["vocab_size"], width)}
    for stack, attentions in (
        ("encoder", ("attention",)),
        ("decoder", ("self_attention", "encoder_decoder_attention")),
    ):
        shapes[f"{stack}/relpos_bias/rel_embedding"] = (heads, fields["relpos_buckets"])
        for i in range(fields[f"num_{stack}_layers"]):
            layer = f"{stack}/layers_{i}"
            for attention in attentions:
                norm = attention.replace("encoder_decoder", "cross")
                shapes[f"{layer}/pre_{norm}_layer_norm/scale"] = (width,)
                shapes |= _attention(f"{layer}/{attention}", width, joined, joined)
            shapes |= _feed_forward(layer, width, fields)
        shapes[f"{stack}/{stack}_norm/scale"] = (width,)
    if not fields["logits_via_embedding"]:
        shapes["decoder/logits_dense/kernel"] = (width, fields["vocab_size"])
    return shapes


def _decoder_shapes(fields: dict[str, Any]) -> Shapes:
    width, heads = fields["emb_dim"], fields["num_heads"]
    queries, keys = (n * fields["head_dim"] for n in (heads, fields["num_kv_heads"] or heads))
    shapes: Shapes = {"decoder/token_embedder/embedding": (fields["vocab_size"], width)}
    if fields["positions"] == "relative":
        shapes["decoder/relpos_bias/rel_embedding"] = (heads, fields["relpos_buckets"])
    for i in range(fields["num_layers"]):
        layer = f"decoder/layers_{i}"
        shapes[f"{layer}/pre_self_attention_layer_norm/scale"] = (width,)
        shapes |= _attention(f"{layer}/self_attention", width, queries, keys)
        if fields["qkv_bias"]:
            for part, size in (("query", queries), ("key", keys), ("value", keys)):
                shapes[f"{layer}/self_attention/{part}/bias"] = (size,)
        shapes |= _feed_forward(layer, width, fields)
    shapes["decoder/decoder_norm/scale"] = (width,)
    if not fields["logits_via_embedding"]:
        shapes["decoder/logits_dense/kernel"] = (width, fields["vocab_size"])
    return shapes


def _attention(name: str, width: int, queries: int, keys: int) -> Shapes:
    return {
        f"{name}/query/kernel": (width, queries),
        f"{name}/key/kernel": (width, keys),
        f"{name}/value/kernel": (width, keys),
        f"{name}/out/kernel": (queries, width),
    }


def _feed_forward(layer: str, width: int, fields: dict[str, Any]) -> Shapes:
    count, hidden = len(fields["mlp_activations"]), fields["mlp_dim"]
    inward = ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]
    return {
        f"{layer}/pre_mlp_layer_norm/scale": (width,),
        **{f"{layer}/mlp/{name}/kernel": (width, hidden) for name in inward},
        f"{layer}/mlp/wo/kernel": (hidden, width),
    }


def sizes_of(shapes: Shapes) -> tuple[str | None, dict[str, Any]]:
    """('t5' or 'decoder', those fields that the shapes of a tree tell); (None, {}) for a tree of
    neither.
    """
    model = "t5" if any(name.startswith("encoder/") for name in shapes) else "decoder"
    table = shapes.get(
        "token_embedder/embedding" if model == "t5" else "decoder/token_embedder/embedding"
    )
    query = next(
        (shape for name, shape in shapes.items() if name.endswith("attention/query/kernel")), None
    )
    wide = next((shape for name, shape in shapes.items() if name.endswith("mlp/wo/kernel")), None)
    if table is None or query is None or wide is None:
        return None, {}
    relative = shapes.get("decoder/relpos_bias/rel_embedding")
    fields: dict[str, Any] = {
        "vocab_size": table[0],
        "emb_dim": table[1],
        "mlp_dim": wide[0],
        "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
    }
    if not any(name.endswith("mlp/wi_0/kernel") for name in shapes):
        fields["mlp_activations"] = ("relu",)
    for stack in ("encoder", "decoder"):
        layers = {
            match[1] for name in shapes if (match := re.match(rf"{stack}/layers_(\d+)/", name))
        }
        if model == "t5" or stack == "decoder":
            fields["num_layers" if model == "decoder" else f"num_{stack}_layers"] = len(layers)
    if relative:
        fields |= {
            "num_heads": relative[0],
            "head_dim": query[1] // relative[0],
            "relpos_buckets": relative[1],
        }
    return model, fields


def fields_of(shapes: Shapes, known: dict[str, dict[str, Any]], path) -> tuple[str, dict[str, Any]]:
    """('t5' or 'decoder', fields) of a tree; those that `known` has of this model win, else shapes,
    else defaults.

    Raises:
      UserError: if the tree is of no such model, or its heads cannot be told (rotary positions
        leave no trace).
    """
    model, fields = sizes_of(shapes)
    if model is None:
        raise UserError(
            f"{path} holds neither a T5 nor a decoder-only model in T5X's names (its first "
            f"parameters are {', '.join(list(shapes)[:3]) or 'none'}); convert a checkpoint of one "
            "of these."
        )
    fields = {**DEFAULTS[model], **fields, **known.get(model, {})}
    if not {"num_heads", "head_dim"} <= fields.keys():
        raise UserError(
            f"{path} has no position table, so nothing in it tells how many heads it has: put the "
            "file model.gin (DecoderConfig.num_heads and the rest) beside it."
        )
    return model, fields
