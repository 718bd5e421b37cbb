"""Hugging Face's families of decoders: names of tensors, and `config.json` both ways.

What distinguishes the families is in `models/families.py`. Matrices are transposed there ([out,
in]). Rotary positions rotate halves of a head there as here, so rows keep their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from flan_jax.checkpoints.formats.config_reader import ConfigReader
from flan_jax.checkpoints.formats.huggingface_layers import (
    read_layers,
    read_rope,
    write_layers,
    write_rope,
)
from flan_jax.checkpoints.model_config import make_config
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.decoder_config import LOCAL, DecoderConfig
from flan_jax.models.families import FAMILIES, DecoderFamily

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
_THEIR_ACTIVATIONS = {"silu": "silu", "relu": "relu", "gelu": "gelu_pytorch_tanh"}
# Settings that change what the model computes, and that the decoder here does not have.
_UNSUPPORTED = ("mlp_bias", "attention_bias", "use_bidirectional_attention")
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
    family = FAMILIES[settings.choice("model_type", FAMILIES)]
    for name in _UNSUPPORTED:
        if settings.flag(name):
            raise UserError(
                f"{shown(path)} has {name}, which the decoder here does not have; convert a model "
                "without it."
            )
    heads, width = settings.whole("num_attention_heads"), settings.whole("hidden_size")
    layers = settings.whole("num_hidden_layers", most=most_layers)
    activation = settings.choice(family.activation_setting, _ACTIVATIONS)
    fields = {
        **family.fields,
        **read_rope(settings, family),
        **read_layers(settings, family, layers),
        **{name: _number(settings, *number) for name, number in family.numbers.items()},
        "vocab_size": settings.whole("vocab_size"),
        "emb_dim": width,
        "num_heads": heads,
        "head_dim": settings.whole("head_dim", width // heads),
        "mlp_dim": settings.whole("intermediate_size"),
        "num_layers": layers,
        "num_kv_heads": settings.whole("num_key_value_heads", heads),
        "mlp_activations": (_ACTIVATIONS[activation], "linear"),
        "logits_via_embedding": settings.flag("tie_word_embeddings", family.is_tied),
        "norm_epsilon": settings.number("rms_norm_eps", 1e-6),
    }
    if LOCAL not in fields["layer_pattern"]:
        fields.pop("local_rope_theta", None)
    if fields.get("query_scalar") == fields["head_dim"]:
        fields["query_scalar"] = None  # which means the same
    return make_config("decoder", fields, path)


def _number(settings: ConfigReader, name: str, default: float | None) -> float | None:
    """A number; null is none, and only a setting that is absent has its default."""
    return settings.number(name, None if name in settings.values else default)


def write_config(config: DecoderConfig, path: object) -> dict[str, Any]:
    """Returns the `config.json` of a decoder-only model, without dtype and special tokens.

    Args:
      config: the model's configuration.
      path: the checkpoint, for messages.

    Raises:
      UserError: for a decoder that none of the families can be.
    """
    family = family_of(config, path)
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
        family.activation_setting: _THEIR_ACTIVATIONS[config.mlp_activations[0]],
        "rms_norm_eps": config.norm_epsilon,
        **{number.setting: _value(config, name) for name, number in family.numbers.items()},
        **write_rope(config, family),
        **write_layers(config, family),
        "tie_word_embeddings": config.logits_via_embedding,
        "use_cache": True,
        **dict.fromkeys(family.bias_settings, False),
    }


def _value(config: DecoderConfig, field: str) -> float | None:
    """The number of a field as they have it: their query scalar is always given."""
    value = getattr(config, field)
    if field == "query_scalar":
        value = config.head_dim if value is None else value
        return int(value) if value == int(value) else value
    return value


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
