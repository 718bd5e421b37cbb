"""Hugging Face's T5 and mT5: names, and `config.json` both ways. `T5 1.1` and Flan-T5 are gated and
untied, T5 1.0 is 'relu' and tied.

Matrices are stored the other way round there ([out, in]), and so is the position table ([buckets,
heads]).
"""

from __future__ import annotations

import re
from typing import Any

from flan_jax.checkpoints.formats.typed_settings import Settings
from flan_jax.checkpoints.parameters import parameter_shapes
from flan_jax.errors import UserError
from flan_jax.messages import shown

_ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_PROJECTIONS = [*_ACTIVATIONS, *(f"gated-{kind}" for kind in _ACTIVATIONS), "gated-gelu"]
_THEIRS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu"}
_EPSILON = 1e-6
EMBEDDING_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# A table that early exports have in the first cross-attention; no T5 reads it.
UNREAD = re.compile(
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)

_TOP = {
    "token_embedder/embedding": "shared.weight",
    "encoder/relpos_bias/rel_embedding": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "decoder/relpos_bias/rel_embedding": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
}
# Sub-layer of a stack -> its number there, and the name of its module.
_SUBLAYERS = {
    "encoder": {"attention": (0, "SelfAttention"), "mlp": (1, "DenseReluDense")},
    "decoder": {
        "self_attention": (0, "SelfAttention"),
        "encoder_decoder_attention": (1, "EncDecAttention"),
        "mlp": (2, "DenseReluDense"),
    },
}
_NORMED = {
    "attention": "attention",
    "self_attention": "self_attention",
    "cross_attention": "encoder_decoder_attention",
    "mlp": "mlp",
}
_PARTS = {"query": "q", "key": "k", "value": "v", "out": "o"}
_LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.+)")


def names(fields: dict[str, Any]) -> dict[str, str]:
    """Our name of every parameter -> theirs."""
    return {name: _their_name(name) for name in parameter_shapes("t5", fields)}


def _their_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    stack, i, rest = _LAYER.fullmatch(name).groups()
    if rest.endswith("_layer_norm/scale"):
        number, _ = _SUBLAYERS[stack][
            _NORMED[rest.removeprefix("pre_").removesuffix("_layer_norm/scale")]
        ]
        return f"{stack}.block.{i}.layer.{number}.layer_norm.weight"
    sublayer, part, _ = rest.split("/")
    number, module = _SUBLAYERS[stack][sublayer]
    return f"{stack}.block.{i}.layer.{number}.{module}.{_PARTS.get(part, part)}.weight"


def is_turned(name: str) -> bool:
    """Whether a parameter of ours, by its name, has its axes exchanged there."""
    return name.endswith(("kernel", "rel_embedding"))


def fields_of(
    config: dict[str, Any], has_head: bool, path, most_layers: int = 1_000
) -> dict[str, Any]:
    """Returns the fields of `T5Config` for a `config.json`.

    Args:
      config: the settings.
      has_head: there is an output matrix besides the embedding.
      path: the file, for messages.
      most_layers: bounds how many layers each stack may claim.

    Raises:
      UserError: for a setting of a wrong type or size, and for what our T5 cannot be.
    """
    settings = Settings(config, path)
    activation = settings.choice(
        "feed_forward_proj", _PROJECTIONS, "relu" if config["model_type"] == "t5" else "gated-gelu"
    )
    gated = activation.startswith("gated-")
    kind = "gelu_new" if activation == "gated-gelu" else activation.removeprefix("gated-")
    if settings.number("layer_norm_epsilon", _EPSILON) != _EPSILON:
        raise UserError(
            f"{shown(path)} has layer_norm_epsilon {config['layer_norm_epsilon']}, but a T5 here "
            f"has {_EPSILON}."
        )
    scaled = is_scaled(config, path)
    if has_head and scaled:
        raise UserError(
            f"{shown(path)} has an output matrix of its own and logits that are scaled as if it "
            f"had none: "
            'say "tie_word_embeddings": false in its config.json if it is T5 1.1 or Flan-T5.'
        )
    layers = settings.whole("num_layers", most=most_layers)
    return {
        "vocab_size": settings.whole("vocab_size"),
        "emb_dim": settings.whole("d_model"),
        "num_heads": settings.whole("num_heads"),
        "head_dim": settings.whole("d_kv"),
        "mlp_dim": settings.whole("d_ff"),
        "num_encoder_layers": layers,
        "num_decoder_layers": settings.whole("num_decoder_layers", layers, most=most_layers),
        "mlp_activations": (_ACTIVATIONS[kind], "linear") if gated else (_ACTIVATIONS[kind],),
        # Tied logits that are not scaled: the embedding stands in both places.
        "logits_via_embedding": scaled,
        "relpos_buckets": settings.whole("relative_attention_num_buckets", 32),
        "relpos_max_distance": settings.whole("relative_attention_max_distance", 128),
        "decoder_start_id": settings.whole(
            "decoder_start_token_id", 0, least=0, most=settings.whole("vocab_size") - 1
        ),
    }


def is_scaled(config: dict[str, Any], path) -> bool:
    """Returns whether the logits are scaled by d_model^-0.5: T5 1.0. `transformers` 5 has a setting
    of its own for it.

    Raises:
      UserError: for a setting of another type.
    """
    if config["model_type"] == "mt5":
        return False
    settings = Settings(config, path)
    return settings.flag("scale_decoder_outputs", settings.flag("tie_word_embeddings", True))


def config_of(fields: dict[str, Any], path) -> dict[str, Any]:
    """The `config.json` of a T5, dtype and special tokens aside. Where nobody tells, dropout is
    that of T5.

    Raises:
      UserError: for an activation that has no counterpart there.
    """
    kinds = fields["mlp_activations"]
    if kinds[0] not in _THEIRS or tuple(kinds[1:]) not in ((), ("linear",)):
        raise UserError(
            f"{path} has mlp_activations {tuple(kinds)}, for which Hugging Face's T5 has no "
            "feed_forward_proj; convert it to t5x or flan."
        )
    gated = len(kinds) == 2
    # "gated-gelu" is the tanh form there.
    name = "gelu" if gated and kinds[0] == "gelu" else _THEIRS[kinds[0]]
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": fields["vocab_size"],
        "d_model": fields["emb_dim"],
        "d_kv": fields["head_dim"],
        "d_ff": fields["mlp_dim"],
        "num_heads": fields["num_heads"],
        "num_layers": fields["num_encoder_layers"],
        "num_decoder_layers": fields["num_decoder_layers"],
        "feed_forward_proj": f"gated-{name}" if gated else name,
        "layer_norm_epsilon": _EPSILON,
        "relative_attention_num_buckets": fields["relpos_buckets"],
        "relative_attention_max_distance": fields["relpos_max_distance"],
        "dropout_rate": fields.get("dropout_rate", 0.1),
        "initializer_factor": 1.0,
        "use_cache": True,
        # Left out, it would mean true, and the logits would be scaled by d_model^-0.5.
        "tie_word_embeddings": fields["logits_via_embedding"],
    }
