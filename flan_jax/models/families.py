"""The families of decoder-only models that other programs publish: one record for each.

To add a family, write its record (fields of `DecoderConfig` that all its models share, and the
names of its tensors) and add it to `FAMILIES`; `tests/test_families.py` checks it against the
network, and `tests/test_families_hf.py` against `transformers`. SmolLM2 and Llama 1 to 3 are
models of the family Llama.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flan_jax.models.decoder_config import GLOBAL, LOCAL, NO_POSITIONS

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


class Number(NamedTuple):
    """A setting of a config.json for a field of `DecoderConfig`.

    Attributes:
      setting: its name there.
      default: what it is where the file does not name it.
    """

    setting: str
    default: float | None


@dataclasses.dataclass(frozen=True)
class GgufRules:
    """What GGUF files of a family do not say, since llama.cpp has it in its code.

    Attributes:
      names: the names of the tensors.
      interleaves_heads: whether the rows of query and key matrices are interleaved, because
        llama.cpp rotates neighbors where we rotate halves.
      layer_pattern: the kinds of layers, where the file has a window or the family has them always.
      local_rope_theta: base of rotary positions in local layers.
      shared_scalar_at: a number of layers at which the query scalar is D / H instead of C.
      activation: of the gate of the feed-forward layers.
    """

    names: TensorNames
    interleaves_heads: bool = False
    layer_pattern: tuple[str, ...] = (GLOBAL,)
    local_rope_theta: float | None = None
    shared_scalar_at: int | None = None
    activation: str = "silu"


@dataclasses.dataclass(frozen=True)
class DecoderFamily:
    """What distinguishes a family of decoders.

    Attributes:
      name: `model_type` in a config.json.
      transformers_class: the class in `transformers`, which a config.json names.
      fields: the fields of `DecoderConfig` that all its models share.
      hugging_face: the names of its tensors in safetensors files.
      gguf: its GGUF files, with `gguf_name` as `general.architecture`; None where they have another
        family's.
      gguf_name: see `gguf`; None: `name`.
      kinds: the kinds of layers that its models may have.
      layer_pattern: the kinds of layers where a config.json has no list of them, repeated.
      pattern_setting: which layer is global, the sixth of every six for 6, in a config.json that
        was written before transformers 4.53 and has no list; None: such files have no such setting.
      window_switch: whether windows need the setting `use_sliding_window`, and then begin at layer
        `max_window_layers`.
      lists_layers: whether its config.json has `layer_types`.
      numbers: field -> setting, of numbers that not every family has.
      activation_setting: where the activation is.
      is_tied: whether logits are products with the embedding where a config.json does not say.
      default_rope_theta: base of rotary positions where a config.json has none.
      local_rope_theta: likewise of local layers that have a base of their own; None: they have not.
      bias_settings: settings of a config.json that a file of the family has, always false: biases
        that the family does not have.
    """

    name: str
    transformers_class: str
    fields: Mapping[str, Any]
    hugging_face: TensorNames
    gguf: GgufRules | None
    gguf_name: str | None = None
    kinds: tuple[str, ...] = (GLOBAL,)
    layer_pattern: tuple[str, ...] = (GLOBAL,)
    pattern_setting: str | None = None
    window_switch: bool = False
    lists_layers: bool = False
    numbers: Mapping[str, Number] = dataclasses.field(default_factory=dict)
    activation_setting: str = "hidden_act"
    is_tied: bool = False
    default_rope_theta: float = 10000.0
    local_rope_theta: float | None = None
    bias_settings: tuple[str, ...] = ()

    def has_fields_of(self, fields: Mapping[str, Any]) -> bool:
        """Returns whether a decoder with these fields of `DecoderConfig` is one of the family."""
        has_local_theta = fields["local_rope_theta"] is not None
        return (
            set(fields["layer_pattern"]) <= set(self.kinds)
            and not (has_local_theta and self.local_rope_theta is None)
            and all(fields[name] is None for name in _NUMBERS - self.numbers.keys())
            and all(
                fields[name] == value
                for name, value in self.fields.items()
                # Only logits through the embedding can be scaled.
                if name != "scale_tied_logits" or fields["logits_via_embedding"]
            )
        )


# Fields that only some families have, see `DecoderFamily.numbers`.
_NUMBERS = {"query_scalar", "attention_softcap", "logits_softcap"}

_OUTSIDE = {
    "decoder/token_embedder/embedding": "model.embed_tokens.weight",
    "decoder/decoder_norm/scale": "model.norm.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
}
_INSIDE = {
    "self_attention/query/kernel": "self_attn.q_proj.weight",
    "self_attention/key/kernel": "self_attn.k_proj.weight",
    "self_attention/value/kernel": "self_attn.v_proj.weight",
    "self_attention/out/kernel": "self_attn.o_proj.weight",
    "self_attention/query/bias": "self_attn.q_proj.bias",
    "self_attention/key/bias": "self_attn.k_proj.bias",
    "self_attention/value/bias": "self_attn.v_proj.bias",
    "self_attention/query_norm/scale": "self_attn.q_norm.weight",
    "self_attention/key_norm/scale": "self_attn.k_norm.weight",
    "mlp/wi_0/kernel": "mlp.gate_proj.weight",
    "mlp/wi_1/kernel": "mlp.up_proj.weight",
    "mlp/wo/kernel": "mlp.down_proj.weight",
}
_GGUF_OUTSIDE = {
    "decoder/token_embedder/embedding": "token_embd.weight",
    "decoder/decoder_norm/scale": "output_norm.weight",
    "decoder/logits_dense/kernel": "output.weight",
}
_GGUF_INSIDE = {
    "pre_self_attention_layer_norm/scale": "attn_norm.weight",
    "post_self_attention_layer_norm/scale": "post_attention_norm.weight",
    "pre_mlp_layer_norm/scale": "ffn_norm.weight",
    "post_mlp_layer_norm/scale": "post_ffw_norm.weight",
    "self_attention/query/kernel": "attn_q.weight",
    "self_attention/key/kernel": "attn_k.weight",
    "self_attention/value/kernel": "attn_v.weight",
    "self_attention/out/kernel": "attn_output.weight",
    "self_attention/query/bias": "attn_q.bias",
    "self_attention/key/bias": "attn_k.bias",
    "self_attention/value/bias": "attn_v.bias",
    "self_attention/query_norm/scale": "attn_q_norm.weight",
    "self_attention/key_norm/scale": "attn_k_norm.weight",
    "mlp/wi_0/kernel": "ffn_gate.weight",
    "mlp/wi_1/kernel": "ffn_up.weight",
    "mlp/wo/kernel": "ffn_down.weight",
}
_GGUF_NAMES = TensorNames(_GGUF_OUTSIDE, "blk.{}.", _GGUF_INSIDE)


def _hugging_face(**norms: str) -> TensorNames:
    """The names of a family's tensors, with its own of the norms of a layer."""
    of_norms = {f"{place}/scale": f"{name}.weight" for place, name in norms.items()}
    return TensorNames(_OUTSIDE, "model.layers.{}.", {**of_norms, **_INSIDE})


_NORMS_BEFORE = _hugging_face(
    pre_self_attention_layer_norm="input_layernorm",
    pre_mlp_layer_norm="post_attention_layernorm",
)
_NORMS_AFTER = _hugging_face(
    post_self_attention_layer_norm="post_attention_layernorm",
    post_mlp_layer_norm="post_feedforward_layernorm",
)
_NORMS_AROUND = _hugging_face(
    pre_self_attention_layer_norm="input_layernorm",
    post_self_attention_layer_norm="post_attention_layernorm",
    pre_mlp_layer_norm="pre_feedforward_layernorm",
    post_mlp_layer_norm="post_feedforward_layernorm",
)
_LLAMA_FIELDS = {
    "positions": "rotary",
    "scale_tied_logits": False,
    "scale_queries": True,
    "qkv_bias": False,
    "qk_norm": "none",
    "norms": "before",
    "norm_offset": False,
    "scale_embeddings": False,
    "prefix": "causal",
}
_GEMMA_FIELDS = {
    **_LLAMA_FIELDS,
    "norms": "around",
    "norm_offset": True,
    "scale_embeddings": True,
}
_GEMMA_NUMBERS = {
    "query_scalar": Number("query_pre_attn_scalar", 256.0),
    "attention_softcap": Number("attn_logit_softcapping", 50.0),
    "logits_softcap": Number("final_logit_softcapping", 30.0),
}
_FIVE_TO_ONE = (*[LOCAL] * 5, GLOBAL)

# Touvron et al., LLaMA: Open and Efficient Foundation Language Models, 2023.
LLAMA = DecoderFamily(
    name="llama",
    transformers_class="LlamaForCausalLM",
    fields=_LLAMA_FIELDS,
    hugging_face=_NORMS_BEFORE,
    gguf=GgufRules(_GGUF_NAMES, interleaves_heads=True),
    bias_settings=("attention_bias", "mlp_bias"),
)
# The Qwen team, Qwen2 Technical Report, 2024: Llama with biases on queries, keys and values.
QWEN2 = DecoderFamily(
    name="qwen2",
    transformers_class="Qwen2ForCausalLM",
    fields={**_LLAMA_FIELDS, "qkv_bias": True},
    hugging_face=_NORMS_BEFORE,
    gguf=GgufRules(_GGUF_NAMES),
    kinds=(GLOBAL, LOCAL),
    window_switch=True,
    lists_layers=True,
)
# The Qwen team, Qwen3 Technical Report, 2025: norms of queries and keys in place of the biases.
QWEN3 = DecoderFamily(
    name="qwen3",
    transformers_class="Qwen3ForCausalLM",
    fields={**_LLAMA_FIELDS, "qk_norm": "head"},
    hugging_face=_NORMS_BEFORE,
    gguf=GgufRules(_GGUF_NAMES),
    kinds=(GLOBAL, LOCAL),
    window_switch=True,
    lists_layers=True,
    bias_settings=("attention_bias",),
)
# Jiang et al., Mistral 7B, 2023: Llama with a window in every layer; its GGUF files are Llama's.
MISTRAL = DecoderFamily(
    name="mistral",
    transformers_class="MistralForCausalLM",
    fields=_LLAMA_FIELDS,
    hugging_face=_NORMS_BEFORE,
    gguf=None,
    kinds=(LOCAL,),
    layer_pattern=(LOCAL,),
)
# Mistral with a list of the kinds of its layers.
MINISTRAL = DecoderFamily(
    name="ministral",
    transformers_class="MinistralForCausalLM",
    fields=_LLAMA_FIELDS,
    hugging_face=_NORMS_BEFORE,
    gguf=None,
    kinds=(GLOBAL, LOCAL),
    layer_pattern=(LOCAL,),
    lists_layers=True,
)
# Gemma Team, Gemma 2: Improving Open Language Models at a Practical Size, 2024.
GEMMA2 = DecoderFamily(
    name="gemma2",
    transformers_class="Gemma2ForCausalLM",
    fields=_GEMMA_FIELDS,
    hugging_face=_NORMS_AROUND,
    gguf=GgufRules(
        _GGUF_NAMES, layer_pattern=(LOCAL, GLOBAL), shared_scalar_at=46, activation="gelu"
    ),
    kinds=(GLOBAL, LOCAL),
    layer_pattern=(LOCAL, GLOBAL),
    lists_layers=True,
    numbers=_GEMMA_NUMBERS,
    activation_setting="hidden_activation",
    is_tied=True,
    bias_settings=("attention_bias",),
)
# Gemma Team, Gemma 3 Technical Report, 2025; the text models.
GEMMA3 = DecoderFamily(
    name="gemma3_text",
    transformers_class="Gemma3ForCausalLM",
    fields={**_GEMMA_FIELDS, "qk_norm": "head"},
    hugging_face=_NORMS_AROUND,
    gguf=GgufRules(
        _GGUF_NAMES,
        layer_pattern=_FIVE_TO_ONE,
        local_rope_theta=10000.0,
        shared_scalar_at=62,
        activation="gelu",
    ),
    gguf_name="gemma3",
    kinds=(GLOBAL, LOCAL),
    layer_pattern=_FIVE_TO_ONE,
    pattern_setting="sliding_window_pattern",
    lists_layers=True,
    # transformers and llama.cpp do not cap its attention scores, whatever its settings say.
    numbers={
        "query_scalar": Number("query_pre_attn_scalar", 256.0),
        "logits_softcap": Number("final_logit_softcapping", None),
    },
    activation_setting="hidden_activation",
    is_tied=True,
    default_rope_theta=1e6,
    local_rope_theta=10000.0,
    bias_settings=("attention_bias",),
)
# Team OLMo, 2 OLMo 2 Furious, 2024: norms after the blocks, and of all queries and keys together.
OLMO2 = DecoderFamily(
    name="olmo2",
    transformers_class="Olmo2ForCausalLM",
    fields={**_LLAMA_FIELDS, "norms": "after", "qk_norm": "all"},
    hugging_face=_NORMS_AFTER,
    gguf=GgufRules(_GGUF_NAMES),
    bias_settings=("attention_bias",),
)
# Bakouch et al., SmolLM3, 2025: Llama with every fourth layer without positions (Yang et al., RoPE
# to NoPE and Back Again, 2025).
SMOLLM3 = DecoderFamily(
    name="smollm3",
    transformers_class="SmolLM3ForCausalLM",
    fields=_LLAMA_FIELDS,
    hugging_face=_NORMS_BEFORE,
    gguf=GgufRules(
        _GGUF_NAMES,
        interleaves_heads=True,
        layer_pattern=(GLOBAL, GLOBAL, GLOBAL, NO_POSITIONS),
    ),
    kinds=(GLOBAL, NO_POSITIONS),
    layer_pattern=(GLOBAL, GLOBAL, GLOBAL, NO_POSITIONS),
    is_tied=True,
    default_rope_theta=2e6,
    bias_settings=("attention_bias", "mlp_bias"),
)
# A decoder is exported as the first of these that it fits.
FAMILIES = {
    family.name: family
    for family in (
        LLAMA,
        QWEN2,
        MISTRAL,
        MINISTRAL,
        QWEN3,
        GEMMA2,
        GEMMA3,
        OLMO2,
        SMOLLM3,
    )
}
