"""Hugging Face's Llama and Qwen2: names, and `config.json` both ways.

Matrices are stored the other way round there ([out, in]). Rotary positions turn halves in both, so
weights stay as they are. Touvron et al., LLaMA, 2023; the Qwen team, Qwen2 Technical Report, 2024
(biases on queries, keys and values).
"""

from __future__ import annotations

import re
from typing import Any

from flan_jax.checkpoints.formats.typed_settings import Settings
from flan_jax.checkpoints.parameters import DEFAULTS, parameter_shapes
from flan_jax.errors import UserError
from flan_jax.messages import shown

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
_THEIRS = {"silu": "silu", "relu": "relu", "gelu": "gelu_pytorch_tanh"}
_CONTEXT = "original_max_position_embeddings"
# Frequencies that early checkpoints carry; they follow from rope_theta.
UNREAD = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")

_TOP = {
    "decoder/token_embedder/embedding": "model.embed_tokens.weight",
    "decoder/decoder_norm/scale": "model.norm.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
}
_IN_LAYER = {
    "pre_self_attention_layer_norm/scale": "input_layernorm.weight",
    "pre_mlp_layer_norm/scale": "post_attention_layernorm.weight",
    "self_attention/query/kernel": "self_attn.q_proj.weight",
    "self_attention/key/kernel": "self_attn.k_proj.weight",
    "self_attention/value/kernel": "self_attn.v_proj.weight",
    "self_attention/out/kernel": "self_attn.o_proj.weight",
    "self_attention/query/bias": "self_attn.q_proj.bias",
    "self_attention/key/bias": "self_attn.k_proj.bias",
    "self_attention/value/bias": "self_attn.v_proj.bias",
    "mlp/wi_0/kernel": "mlp.gate_proj.weight",
    "mlp/wi_1/kernel": "mlp.up_proj.weight",
    "mlp/wo/kernel": "mlp.down_proj.weight",
}
_LAYER = re.compile(r"decoder/layers_(\d+)/(.+)")


def names(fields: dict[str, Any]) -> dict[str, str]:
    """Our name of every parameter -> theirs."""
    result = {}
    for name in parameter_shapes("decoder", fields):
        match = _LAYER.fullmatch(name)
        result[name] = f"model.layers.{match[1]}.{_IN_LAYER[match[2]]}" if match else _TOP[name]
    return result


def is_turned(name: str) -> bool:
    """Whether a parameter of ours, by its name, has its axes exchanged there."""
    return name.endswith("kernel")


def fields_of(config: dict[str, Any], path, most_layers: int = 1_000) -> dict[str, Any]:
    """Returns the fields of `DecoderConfig` for a `config.json`; `most_layers` bounds how many
    layers it may claim.

    Raises:
      UserError: for a setting of a wrong type or size, and for what our decoder cannot be.
    """
    settings = Settings(config, path)
    for name in ("mlp_bias", "use_sliding_window", "attention_bias"):
        if settings.flag(name):
            raise UserError(
                f"{shown(path)} has {name}, which the decoder here does not have; convert a model "
                "without it."
            )
    kinds = config.get("layer_types")
    if kinds is not None and not (
        isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)
    ):
        raise UserError(
            f"{shown(path)} has layer_types {shown(kinds)}, but a decoder here has full "
            "attention in each layer; convert another model."
        )
    heads, width = settings.whole("num_attention_heads"), settings.whole("hidden_size")
    theta, scaling = _rope(settings)
    return llama_fields(
        vocab_size=settings.whole("vocab_size"),
        emb_dim=width,
        num_heads=heads,
        head_dim=settings.whole("head_dim", width // heads),
        mlp_dim=settings.whole("intermediate_size"),
        num_layers=settings.whole("num_hidden_layers", most=most_layers),
        num_kv_heads=settings.whole("num_key_value_heads", heads),
        rope_theta=theta,
        rope_scaling=scaling,
        mlp_activations=(_ACTIVATIONS[settings.choice("hidden_act", _ACTIVATIONS)], "linear"),
        logits_via_embedding=settings.flag("tie_word_embeddings"),
        qkv_bias=config["model_type"] == "qwen2",
        norm_epsilon=settings.number("rms_norm_eps", 1e-6),
    )


def llama_fields(**fields: Any) -> dict[str, Any]:
    """Fields of `DecoderConfig` with what all of this family have."""
    return {
        **DEFAULTS["decoder"],
        "positions": "rotary",
        "scale_tied_logits": False,
        "scale_queries": True,
        **fields,
    }


def _rope(settings: Settings) -> tuple[float, dict[str, Any] | None]:
    """Returns (theta, scaling or None) by the rules of `transformers` 5
    (`RotaryEmbeddingConfigMixin`).

    `rope_scaling`, the older setting, counts instead of `rope_parameters` where it is not empty; a
    theta inside the one that counts goes before the theta beside it;
    `original_max_position_embeddings` beside it goes before that inside.
    """
    older = settings.table("rope_scaling")
    rope = older if older.values else settings.table("rope_parameters")
    theta = rope.number("rope_theta", settings.number("rope_theta", 10000.0))
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    partial = rope.values.get("partial_rotary_factor", settings.values.get("partial_rotary_factor"))
    # one setting for each kind of layer
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


def config_of(fields: dict[str, Any], path) -> dict[str, Any]:
    """The `config.json` of a Llama or Qwen2, dtype and special tokens aside.

    Raises:
      UserError: for a decoder that neither of them can be.
    """
    kinds = tuple(fields["mlp_activations"])
    scaled = fields["logits_via_embedding"] and fields["scale_tied_logits"]
    fitting = {
        "rotary positions": fields["positions"] == "rotary",
        "scaled queries": fields["scale_queries"],
        "unscaled logits": not scaled,
        "a gated feed-forward layer": kinds[1:] == ("linear",),
        f"an activation of {', '.join(_THEIRS)}": kinds[0] in _THEIRS,
        "a causal prefix": fields["prefix"] == "causal",
        "emb_dim divisible by num_heads": fields["emb_dim"] % fields["num_heads"] == 0,
    }
    lacking = [what for what, holds in fitting.items() if not holds]
    if lacking:
        raise UserError(
            f"{path} has no counterpart in Hugging Face's Llama or Qwen2, which have "
            f"{', '.join(lacking)}; convert it to t5x or flan."
        )
    kind = "qwen2" if fields["qkv_bias"] else "llama"
    scaling = fields["rope_scaling"]
    config = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": fields["vocab_size"],
        "hidden_size": fields["emb_dim"],
        "intermediate_size": fields["mlp_dim"],
        "num_hidden_layers": fields["num_layers"],
        "num_attention_heads": fields["num_heads"],
        "num_key_value_heads": fields["num_kv_heads"] or fields["num_heads"],
        "head_dim": fields["head_dim"],
        "hidden_act": _THEIRS[kinds[0]],
        "rms_norm_eps": fields["norm_epsilon"],
        "rope_theta": fields["rope_theta"],
        # a type of its own goes before
        "rope_scaling": {"rope_type": "llama3", **scaling} if scaling else None,
        "tie_word_embeddings": fields["logits_via_embedding"],
        "use_cache": True,
        "max_position_embeddings": int(scaling["factor"] * scaling.get(_CONTEXT, 4096))
        if scaling
        else 4096,
    }
    return config if kind == "qwen2" else {**config, "attention_bias": False, "mlp_bias": False}
