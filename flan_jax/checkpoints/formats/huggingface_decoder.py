"""Hugging Face's families of decoders: names of tensors, and `config.json` both ways.

What distinguishes the families is in `models/families.py`. Matrices are transposed there ([out,
in]). Rotary positions rotate halves of a head there as here, so rows keep their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from flan_jax.checkpoints.formats.config_reader import ConfigReader
from flan_jax.checkpoints.model_config import make_config
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.decoder import DecoderConfig
from flan_jax.models.families import FAMILIES, DecoderFamily

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
_THEIR_ACTIVATIONS = {"silu": "silu", "relu": "relu", "gelu": "gelu_pytorch_tanh"}
_CONTEXT = "original_max_position_embeddings"
# Settings that change what the model computes, and that the decoder here does not have.
_UNSUPPORTED = ("mlp_bias", "use_sliding_window", "attention_bias")
# Frequencies that early checkpoints have; they follow from rope_theta.
UNREAD = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def tensor_names(family: str, parameters: Iterable[str]) -> dict[str, str]:
    """Returns the name of the tensor for each parameter, in the order of `parameters`."""
    return FAMILIES[family].hugging_face.of_parameters(parameters)


def is_transposed(parameter: str) -> bool:
    """Returns whether a parameter of ours, by its path, has its axes exchanged there."""
    return parameter.endswith("kernel")


def read_config(config: dict[str, Any], path: object, most_layers: int = 1_000) -> DecoderConfig:
    """Returns the configuration of the model that a `config.json` describes.

    Args:
      config: its contents.
      path: the file, for messages.
      most_layers: how many layers it may claim at most.

    Raises:
      UserError: for a setting of a wrong type or size, and for a model that the decoder here cannot
        compute.
    """
    settings = ConfigReader(config, path)
    _check_supported(settings)
    family = FAMILIES[settings.choice("model_type", FAMILIES)]
    heads, width = settings.whole("num_attention_heads"), settings.whole("hidden_size")
    theta, scaling = _rope(settings)
    activation = settings.choice("hidden_act", _ACTIVATIONS)
    fields = {
        **family.fields,
        "vocab_size": settings.whole("vocab_size"),
        "emb_dim": width,
        "num_heads": heads,
        "head_dim": settings.whole("head_dim", width // heads),
        "mlp_dim": settings.whole("intermediate_size"),
        "num_layers": settings.whole("num_hidden_layers", most=most_layers),
        "num_kv_heads": settings.whole("num_key_value_heads", heads),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "mlp_activations": (_ACTIVATIONS[activation], "linear"),
        "logits_via_embedding": settings.flag("tie_word_embeddings"),
        "norm_epsilon": settings.number("rms_norm_eps", 1e-6),
    }
    return make_config("decoder", fields, path)


def _check_supported(settings: ConfigReader) -> None:
    for name in _UNSUPPORTED:
        if settings.flag(name):
            raise UserError(
                f"{shown(settings.path)} has {name}, which the decoder here does not have; convert "
                "a model without it."
            )
    kinds = settings.values.get("layer_types")
    if kinds is None:
        return
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise UserError(
            f"{shown(settings.path)} has layer_types {shown(kinds)}, but a decoder here has full "
            "attention in each layer; convert another model."
        )


def _rope(settings: ConfigReader) -> tuple[float, dict[str, Any] | None]:
    """Returns (theta, scaling or None) by the rules of transformers 5.

    Its `RotaryEmbeddingConfigMixin`: `rope_scaling`, the older setting, replaces `rope_parameters`
    where it is not empty; a theta inside the one in use goes before the theta beside it;
    `original_max_position_embeddings` beside it goes before that inside.
    """
    older = settings.table("rope_scaling")
    rope = older if older.values else settings.table("rope_parameters")
    theta = rope.number("rope_theta", settings.number("rope_theta", 10000.0))
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    partial = rope.values.get("partial_rotary_factor", settings.values.get("partial_rotary_factor"))
    # A table of tables has settings for each kind of layer.
    is_nested = any(isinstance(value, dict) for value in rope.values.values())
    if kind not in ("default", "linear", "llama3") or partial not in (None, 1) or is_nested:
        raise UserError(
            f"{shown(rope.path)} has rotary positions of type {shown(repr(kind))} "
            f"(partial_rotary_factor {shown(partial)}), but a decoder here has 'default', 'linear' "
            "or 'llama3', over whole heads and alike in all layers; convert another model."
        )
    if kind == "linear":
        return theta, {"rope_type": "linear", "factor": rope.number("factor")}
    if kind == "default":
        return theta, None
    inside = rope.number(_CONTEXT, settings.number("max_position_embeddings", None))
    context = settings.number(_CONTEXT, inside)
    if context is None:
        raise UserError(
            f"{shown(rope.path)} is not readable (it lacks {_CONTEXT!r}); download or copy it "
            f"again."
        )
    scaling = {
        name: rope.number(name) for name in ("factor", "low_freq_factor", "high_freq_factor")
    }
    return theta, {**scaling, _CONTEXT: int(context) if context == int(context) else context}


def write_config(config: DecoderConfig, path: object) -> dict[str, Any]:
    """Returns the `config.json` of a decoder-only model, without dtype and special tokens.

    Args:
      config: the model's configuration.
      path: the checkpoint, for messages.

    Raises:
      UserError: for a decoder that none of the families can be.
    """
    family = family_of(config, path)
    scaling = config.rope_scaling
    context = 4096
    if scaling:
        context = int(scaling["factor"] * scaling.get(_CONTEXT, 4096))
    return {
        "architectures": [family.transformers_class],
        "model_type": family.name,
        "vocab_size": config.vocab_size,
        "hidden_size": config.emb_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": _THEIR_ACTIVATIONS[config.mlp_activations[0]],
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        # A rope_type in `scaling`, such as 'linear', replaces Llama 3's.
        "rope_scaling": {"rope_type": "llama3", **scaling} if scaling else None,
        "tie_word_embeddings": config.logits_via_embedding,
        "use_cache": True,
        "max_position_embeddings": context,
        **dict.fromkeys(family.bias_settings, False),
    }


def family_of(config: DecoderConfig, path: object) -> DecoderFamily:
    """Returns the family that a decoder-only model is one of.

    Args:
      config: the model's configuration.
      path: the checkpoint, for messages.

    Raises:
      UserError: for a decoder that none of the families can be.
    """
    families = [family for family in FAMILIES.values() if family.has_fields_of(vars(config))]
    activation, *gates = config.mlp_activations
    is_scaled = config.logits_via_embedding and config.scale_tied_logits
    requirements = {
        "rotary positions": config.positions == "rotary",
        "scaled queries": config.scale_queries,
        "unscaled logits": not is_scaled,
        "a gated feed-forward layer": gates == ["linear"],
        f"an activation of {', '.join(_THEIR_ACTIVATIONS)}": activation in _THEIR_ACTIVATIONS,
        "a causal prefix": config.prefix == "causal",
        "emb_dim divisible by num_heads": config.emb_dim % config.num_heads == 0,
    }
    lacking = [name for name, is_met in requirements.items() if not is_met]
    if lacking or not families:
        raise UserError(
            f"{shown(path)} has no counterpart in Hugging Face's {' or '.join(FAMILIES)}, which "
            f"have {', '.join(lacking) or 'other settings'}; convert it to t5x or flan."
        )
    return families[0]
