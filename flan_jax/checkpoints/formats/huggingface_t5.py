"""Hugging Face's T5 and mT5: names of tensors, and `config.json` both ways.

T5 1.1 and Flan-T5 are gated, with an output matrix; T5 1.0 is 'relu' and tied to the embedding.
Matrices are transposed there ([out, in]), and so is the position table ([buckets, heads]).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from flan_jax.checkpoints.formats.config_reader import ConfigReader
from flan_jax.checkpoints.model_config import make_config
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.t5 import T5Config

_ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_PROJECTIONS = [*_ACTIVATIONS, *(f"gated-{kind}" for kind in _ACTIVATIONS), "gated-gelu"]
_THEIR_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu"}
_EPSILON = 1e-6
EMBEDDING_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# A table that early exports have in the first cross-attention; no T5 reads it.
UNREAD = re.compile(
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)


# Our path of a parameter, `{}` for a layer's number -> theirs.
_TENSOR_NAMES = {
    "token_embedder/embedding": "shared.weight",
    "encoder/relpos_bias/rel_embedding": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "encoder/layers_{}/pre_attention_layer_norm/scale": (
        "encoder.block.{}.layer.0.layer_norm.weight"
    ),
    "encoder/layers_{}/attention/query/kernel": "encoder.block.{}.layer.0.SelfAttention.q.weight",
    "encoder/layers_{}/attention/key/kernel": "encoder.block.{}.layer.0.SelfAttention.k.weight",
    "encoder/layers_{}/attention/value/kernel": "encoder.block.{}.layer.0.SelfAttention.v.weight",
    "encoder/layers_{}/attention/out/kernel": "encoder.block.{}.layer.0.SelfAttention.o.weight",
    "encoder/layers_{}/pre_mlp_layer_norm/scale": "encoder.block.{}.layer.1.layer_norm.weight",
    "encoder/layers_{}/mlp/wi/kernel": "encoder.block.{}.layer.1.DenseReluDense.wi.weight",
    "encoder/layers_{}/mlp/wi_0/kernel": "encoder.block.{}.layer.1.DenseReluDense.wi_0.weight",
    "encoder/layers_{}/mlp/wi_1/kernel": "encoder.block.{}.layer.1.DenseReluDense.wi_1.weight",
    "encoder/layers_{}/mlp/wo/kernel": "encoder.block.{}.layer.1.DenseReluDense.wo.weight",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/relpos_bias/rel_embedding": (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "decoder/layers_{}/pre_self_attention_layer_norm/scale": (
        "decoder.block.{}.layer.0.layer_norm.weight"
    ),
    "decoder/layers_{}/self_attention/query/kernel": (
        "decoder.block.{}.layer.0.SelfAttention.q.weight"
    ),
    "decoder/layers_{}/self_attention/key/kernel": (
        "decoder.block.{}.layer.0.SelfAttention.k.weight"
    ),
    "decoder/layers_{}/self_attention/value/kernel": (
        "decoder.block.{}.layer.0.SelfAttention.v.weight"
    ),
    "decoder/layers_{}/self_attention/out/kernel": (
        "decoder.block.{}.layer.0.SelfAttention.o.weight"
    ),
    "decoder/layers_{}/pre_cross_attention_layer_norm/scale": (
        "decoder.block.{}.layer.1.layer_norm.weight"
    ),
    "decoder/layers_{}/encoder_decoder_attention/query/kernel": (
        "decoder.block.{}.layer.1.EncDecAttention.q.weight"
    ),
    "decoder/layers_{}/encoder_decoder_attention/key/kernel": (
        "decoder.block.{}.layer.1.EncDecAttention.k.weight"
    ),
    "decoder/layers_{}/encoder_decoder_attention/value/kernel": (
        "decoder.block.{}.layer.1.EncDecAttention.v.weight"
    ),
    "decoder/layers_{}/encoder_decoder_attention/out/kernel": (
        "decoder.block.{}.layer.1.EncDecAttention.o.weight"
    ),
    "decoder/layers_{}/pre_mlp_layer_norm/scale": "decoder.block.{}.layer.2.layer_norm.weight",
    "decoder/layers_{}/mlp/wi/kernel": "decoder.block.{}.layer.2.DenseReluDense.wi.weight",
    "decoder/layers_{}/mlp/wi_0/kernel": "decoder.block.{}.layer.2.DenseReluDense.wi_0.weight",
    "decoder/layers_{}/mlp/wi_1/kernel": "decoder.block.{}.layer.2.DenseReluDense.wi_1.weight",
    "decoder/layers_{}/mlp/wo/kernel": "decoder.block.{}.layer.2.DenseReluDense.wo.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
}


def tensor_names(parameters: Iterable[str]) -> dict[str, str]:
    """Returns the name of the tensor for each parameter, in the order of `parameters`."""
    names = {}
    for parameter in parameters:
        layer = re.search(r"/layers_(\d+)/", parameter)
        pattern = re.sub(r"/layers_\d+/", "/layers_{}/", parameter)
        names[parameter] = _TENSOR_NAMES[pattern].format(layer[1] if layer else "")
    return names


def is_transposed(parameter: str) -> bool:
    """Returns whether a parameter of ours, by its path, has its axes exchanged there."""
    return parameter.endswith(("kernel", "rel_embedding"))


def read_config(
    config: dict[str, Any], has_head: bool, path: object, most_layers: int = 1_000
) -> T5Config:
    """Returns the configuration of the model that a `config.json` describes.

    Args:
      config: its contents.
      has_head: whether there is an output matrix besides the embedding.
      path: the file, for messages.
      most_layers: how many layers each stack may claim at most.

    Raises:
      UserError: for a setting of a wrong type or size, and for a model that the T5 here cannot
        compute.
    """
    settings = ConfigReader(config, path)
    if settings.number("layer_norm_epsilon", _EPSILON) != _EPSILON:
        raise UserError(
            f"{shown(path)} has layer_norm_epsilon {config['layer_norm_epsilon']}, but a T5 here "
            f"has {_EPSILON}."
        )
    scales_logits = has_scaled_logits(config, path)
    if has_head and scales_logits:
        raise UserError(
            f"{shown(path)} has an output matrix and logits that are scaled as if it had none: set "
            '"tie_word_embeddings": false in its config.json if it is T5 1.1 or Flan-T5.'
        )
    layers = settings.whole("num_layers", most=most_layers)
    vocab_size = settings.whole("vocab_size")
    fields = {
        "vocab_size": vocab_size,
        "emb_dim": settings.whole("d_model"),
        "num_heads": settings.whole("num_heads"),
        "head_dim": settings.whole("d_kv"),
        "mlp_dim": settings.whole("d_ff"),
        "num_encoder_layers": layers,
        "num_decoder_layers": settings.whole("num_decoder_layers", layers, most=most_layers),
        "mlp_activations": _activations(settings),
        # Tied logits that are not scaled have a copy of the embedding as their output matrix here.
        "logits_via_embedding": scales_logits,
        "relpos_buckets": settings.whole("relative_attention_num_buckets", 32),
        "relpos_max_distance": settings.whole("relative_attention_max_distance", 128),
        "decoder_start_id": settings.whole(
            "decoder_start_token_id", 0, least=0, most=vocab_size - 1
        ),
    }
    return make_config("t5", fields, path)


def _activations(settings: ConfigReader) -> tuple[str, ...]:
    default = "relu" if settings.values["model_type"] == "t5" else "gated-gelu"
    projection = settings.choice("feed_forward_proj", _PROJECTIONS, default)
    kind = "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-")
    activation = _ACTIVATIONS[kind]
    return (activation, "linear") if projection.startswith("gated-") else (activation,)


def has_scaled_logits(config: dict[str, Any], path: object) -> bool:
    """Returns whether the logits are scaled by d_model^-0.5, as in T5 1.0.

    `transformers` 5 has a setting for it, which goes before `tie_word_embeddings`.

    Raises:
      UserError: for a setting of another type.
    """
    if config["model_type"] == "mt5":
        return False
    settings = ConfigReader(config, path)
    return settings.flag("scale_decoder_outputs", settings.flag("tie_word_embeddings", True))


def write_config(config: T5Config, path: object) -> dict[str, Any]:
    """Returns the `config.json` of a T5, without dtype and special tokens.

    Args:
      config: the model's configuration.
      path: the checkpoint, for messages.

    Raises:
      UserError: for an activation that has no counterpart there.
    """
    activation, *gates = config.mlp_activations
    if activation not in _THEIR_ACTIVATIONS or gates not in ([], ["linear"]):
        raise UserError(
            f"{shown(path)} has mlp_activations {config.mlp_activations}, for which Hugging Face's "
            "T5 has no feed_forward_proj; convert it to t5x or flan."
        )
    # 'gated-gelu' is the tanh form there, and 'gelu_new' without a gate.
    name = "gelu" if gates and activation == "gelu" else _THEIR_ACTIVATIONS[activation]
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": f"gated-{name}" if gates else name,
        "layer_norm_epsilon": _EPSILON,
        "relative_attention_num_buckets": config.relpos_buckets,
        "relative_attention_max_distance": config.relpos_max_distance,
        "dropout_rate": config.dropout_rate,
        "initializer_factor": 1.0,
        "use_cache": True,
        # Left out, it would mean true, and the logits would be scaled by d_model^-0.5.
        "tie_word_embeddings": config.logits_via_embedding,
    }
