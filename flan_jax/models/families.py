"""The families of decoder-only models that other programs publish: one record for each.

To add a family, write its record (fields of `DecoderConfig` that all its models share, and the
names of its tensors) and add it to `FAMILIES`; `tests/test_families.py` checks it against the
network. SmolLM2 and Llama 1 to 3 are models of the family Llama.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

_LAYER = re.compile(r"decoder/layers_(\d+)/(.+)")


@dataclasses.dataclass(frozen=True)
class TensorNames:
    """The names of a family's tensors in one format of files.

    Attributes:
      outside: the path of a parameter outside the layers -> its tensor.
      layer: what comes before the name of a tensor in layer `{}`.
      inside: the path of a parameter inside a layer -> the rest of its tensor's name.
    """

    outside: Mapping[str, str]
    layer: str
    inside: Mapping[str, str]

    def of_parameters(self, parameters: Iterable[str]) -> dict[str, str]:
        """Returns the name of the tensor for each parameter, in the order of `parameters`."""
        return {name: self._tensor(name) for name in parameters}

    def _tensor(self, parameter: str) -> str:
        match = _LAYER.fullmatch(parameter)
        if match is None:
            return self.outside[parameter]
        number, part = match.groups()
        return self.layer.format(number) + self.inside[part]


@dataclasses.dataclass(frozen=True)
class DecoderFamily:
    """What distinguishes a family of decoders.

    Attributes:
      name: `model_type` in a config.json, and `general.architecture` in a GGUF file.
      transformers_class: the class in `transformers`, which a config.json names.
      fields: the fields of `DecoderConfig` that all its models share.
      hugging_face: the names of its tensors in safetensors files.
      gguf: the names of its tensors in GGUF files.
      gguf_interleaves_heads: in GGUF files the rows of query and key matrices are interleaved,
        because llama.cpp rotates neighbors where we rotate halves.
      bias_settings: settings of a config.json that a file of the family has, always false: biases
        that the family does not have.
    """

    name: str
    transformers_class: str
    fields: Mapping[str, Any]
    hugging_face: TensorNames
    gguf: TensorNames
    gguf_interleaves_heads: bool = False
    bias_settings: tuple[str, ...] = ()

    def has_fields_of(self, fields: Mapping[str, Any]) -> bool:
        """Returns whether a decoder with these fields of `DecoderConfig` is one of the family."""
        return all(
            fields[name] == value
            for name, value in self.fields.items()
            # Only logits through the embedding can be scaled.
            if name != "scale_tied_logits" or fields["logits_via_embedding"]
        )


_HUGGING_FACE = TensorNames(
    outside={
        "decoder/token_embedder/embedding": "model.embed_tokens.weight",
        "decoder/decoder_norm/scale": "model.norm.weight",
        "decoder/logits_dense/kernel": "lm_head.weight",
    },
    layer="model.layers.{}.",
    inside={
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
    },
)
_GGUF = TensorNames(
    outside={
        "decoder/token_embedder/embedding": "token_embd.weight",
        "decoder/decoder_norm/scale": "output_norm.weight",
        "decoder/logits_dense/kernel": "output.weight",
    },
    layer="blk.{}.",
    inside={
        "pre_self_attention_layer_norm/scale": "attn_norm.weight",
        "pre_mlp_layer_norm/scale": "ffn_norm.weight",
        "self_attention/query/kernel": "attn_q.weight",
        "self_attention/key/kernel": "attn_k.weight",
        "self_attention/value/kernel": "attn_v.weight",
        "self_attention/out/kernel": "attn_output.weight",
        "self_attention/query/bias": "attn_q.bias",
        "self_attention/key/bias": "attn_k.bias",
        "self_attention/value/bias": "attn_v.bias",
        "mlp/wi_0/kernel": "ffn_gate.weight",
        "mlp/wi_1/kernel": "ffn_up.weight",
        "mlp/wo/kernel": "ffn_down.weight",
    },
)
_LLAMA_FIELDS = {
    "positions": "rotary",
    "scale_tied_logits": False,
    "scale_queries": True,
    "qkv_bias": False,
    "prefix": "causal",
}

# Touvron et al., LLaMA: Open and Efficient Foundation Language Models, 2023.
LLAMA = DecoderFamily(
    name="llama",
    transformers_class="LlamaForCausalLM",
    fields=_LLAMA_FIELDS,
    hugging_face=_HUGGING_FACE,
    gguf=_GGUF,
    gguf_interleaves_heads=True,
    bias_settings=("attention_bias", "mlp_bias"),
)
# The Qwen team, Qwen2 Technical Report, 2024: Llama with biases on queries, keys and values.
QWEN2 = DecoderFamily(
    name="qwen2",
    transformers_class="Qwen2ForCausalLM",
    fields={**_LLAMA_FIELDS, "qkv_bias": True},
    hugging_face=_HUGGING_FACE,
    gguf=_GGUF,
)
FAMILIES = {family.name: family for family in (LLAMA, QWEN2)}
