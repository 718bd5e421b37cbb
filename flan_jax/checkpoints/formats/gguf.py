"""GGUF files of Llama-like models: weights dequantized by the `gguf` package, one tensor at a time.

llama.cpp's converter interleaves the rows of Llama's query and key matrices, because its rotary
positions turn neighbours where ours turn halves; here they go back. Qwen2's are left as they are,
there too.
"""

from __future__ import annotations

import itertools
import pathlib
import re
from typing import Any

import ml_dtypes
import numpy as np

from flan_jax.checkpoints.formats.gguf_file import MAGIC, GgufFile, StoredTensor, open_file
from flan_jax.checkpoints.formats.huggingface_llama import llama_fields
from flan_jax.checkpoints.formats.typed_settings import Settings
from flan_jax.checkpoints.parameters import parameter_shapes
from flan_jax.checkpoints.reader import Source, Tensor, check_tensors
from flan_jax.errors import UserError
from flan_jax.messages import shown

_ARCHITECTURES = ("llama", "qwen2")
_TOP = {
    "decoder/token_embedder/embedding": "token_embd.weight",
    "decoder/decoder_norm/scale": "output_norm.weight",
    "decoder/logits_dense/kernel": "output.weight",
}
_IN_LAYER = {
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
}
_LAYER = re.compile(r"decoder/layers_(\d+)/(.+)")
_FREQUENCIES = "rope_freqs.weight"


def is_gguf(path: pathlib.Path) -> bool:
    """Returns whether `path` is a GGUF file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def open_gguf(path: pathlib.Path) -> Source:
    """Returns the opened model; `notes` say how its weights are stored.

    Raises:
      UserError: without the `gguf` package, or for a model that ours cannot be.
    """
    file = open_file(path)
    settings = Settings(file.metadata, path)
    architecture = settings.choice("general.architecture", _ARCHITECTURES)
    stored = dict(file.tensors)
    frequencies = stored.pop(_FREQUENCIES, None) if architecture == "llama" else None
    fields = _fields(settings, architecture, stored)
    if frequencies is not None:
        fields["rope_scaling"] = _llama3_scaling(file.read(frequencies).reshape(-1), fields, path)
    names = _names(fields)
    shapes = parameter_shapes("decoder", fields)
    expected = {
        names[name]: shape[::-1] if name.endswith("kernel") else shape
        for name, shape in shapes.items()
    }
    check_tensors(
        {name: tensor.shape for name, tensor in stored.items()},
        expected,
        path,
        '"there" is the tensors of the file, "here" is what its metadata say:',
        lists_all=True,
    )
    heads = (
        {"query": fields["num_heads"], "key": fields["num_kv_heads"]}
        if architecture == "llama"
        else {}
    )
    tensors = {name: _tensor(file, stored[theirs], name, heads) for name, theirs in names.items()}
    kinds = sorted({tensor.kind.name for tensor in stored.values()})
    return Source(
        path, 0, tensors, "decoder", fields, notes=[f"its weights are stored as {', '.join(kinds)}"]
    )


def _fields(
    settings: Settings, architecture: str, stored: dict[str, StoredTensor]
) -> dict[str, Any]:
    table, path = "token_embd.weight", shown(settings.path)
    if settings.whole("split.count", 0, least=0) > 1:
        raise UserError(
            f"{path} is one of the {settings.values['split.count']} parts of a model; put them "
            "together with `llama-gguf-split --merge`, and give the result."
        )
    if table not in stored:
        raise UserError(
            f"{path} has no {table}, so it is not a whole model (one part of several?)."
        )
    layers = settings.whole(f"{architecture}.block_count", most=len(stored))
    key = _LayerSettings(settings, architecture, layers)
    width, heads = key.whole("embedding_length"), key.whole("attention.head_count")
    head_dim = key.whole("attention.key_length", width // heads)
    turned, is_causal = (
        key.whole("rope.dimension_count", head_dim),
        key.settings.flag("attention.causal", True),
    )
    if turned != head_dim or not is_causal:
        raise UserError(
            f"{path} has rotary positions over {turned} of {head_dim} dimensions and "
            f"attention.causal {is_causal}, but a decoder here has them over whole heads, and is "
            "causal; convert another model."
        )
    return llama_fields(
        vocab_size=stored[table].shape[0],
        emb_dim=width,
        num_heads=heads,
        head_dim=head_dim,
        mlp_dim=key.whole("feed_forward_length"),
        num_layers=layers,
        num_kv_heads=key.whole("attention.head_count_kv", heads),
        rope_theta=key.settings.number("rope.freq_base", 10000.0),
        rope_scaling=_linear_scaling(key.settings),
        mlp_activations=("silu", "linear"),
        logits_via_embedding="output.weight" not in stored,
        qkv_bias="blk.0.attn_q.bias" in stored,
        norm_epsilon=_decimal(key.settings.number("attention.layer_norm_rms_epsilon")),
    )


class _LayerSettings:
    """The settings of an architecture. llama.cpp reads a number for all layers, or an array with
    one for each.
    """

    def __init__(self, settings: Settings, architecture: str, layers: int):
        prefix = f"{architecture}."
        values = {
            name.removeprefix(prefix): value
            for name, value in settings.values.items()
            if name.startswith(prefix)
        }
        self.settings, self._layers = (
            Settings(values, f"{settings.path} ({architecture}.*)"),
            layers,
        )

    def whole(self, name: str, default: Any = None) -> int:
        value = self.settings.values.get(name)
        if isinstance(value, list):
            if len(value) != self._layers or any(number != value[0] for number in value):
                raise UserError(
                    f"{shown(self.settings.path)} has {name} {shown(value)}, but a decoder here "
                    f"has the same in each of its {self._layers} layers; convert another model."
                )
            return Settings({name: value[0]}, self.settings.path).whole(name)
        return self.settings.whole(name, *([] if default is None else [default]))


def _linear_scaling(settings: Settings) -> dict[str, Any] | None:
    """Returns the scaling of rotary positions, by the rules of llama.cpp (`load_hparams` in
    src/llama-model.cpp).

    A file that names no type is of type 'linear'; `rope.scale_linear` is the older name of the
    factor, and 0 means none; of type 'none' the factor has no effect. YaRN and LongRoPE, which also
    read the original context length, `rope.scaling.yarn_*` and the tensors `rope_factors_*`, are
    refused, and so is a factor on the attention.
    """
    kind = settings.choice("rope.scaling.type", ("none", "linear", "yarn", "longrope"), "linear")
    attention = settings.values.get("rope.scaling.attn_factor", 1.0)
    if kind in ("yarn", "longrope") or attention != 1.0:
        raise UserError(
            f"{shown(settings.path)} has rope.scaling.type {kind!r} and rope.scaling.attn_factor "
            f"{shown(attention)}, but a decoder here has 'none' or 'linear', and Llama 3's; "
            "convert another model."
        )
    name = "rope.scaling.factor" if settings.has("rope.scaling.factor") else "rope.scale_linear"
    if kind == "none" or settings.values.get(name) == 0:
        return None
    factor = settings.number(name, 1.0)
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _decimal(value: float) -> float:
    """The short decimal that a float32 was: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _llama3_scaling(factors: np.ndarray, fields: dict[str, Any], path) -> dict[str, Any] | None:
    """Returns Llama 3's scaling; the file has only the factors that follow from it, one per
    frequency.
    """
    if factors.size == fields["head_dim"] // 2 and np.all(factors == 1.0):
        return fields["rope_scaling"]
    if factors.size == fields["head_dim"] // 2 and fields["rope_scaling"] is None:
        half = np.arange(0, fields["head_dim"], 2, dtype=np.float32)
        wavelengths = 2 * np.pi * fields["rope_theta"] ** (half / fields["head_dim"])
        for factor, context in itertools.product((8.0, 32.0, 16.0, 4.0), (8192,)):
            smooth = np.clip((context / wavelengths - 1.0) / (4.0 - 1.0), 0.0, 1.0)
            if np.allclose(factors, 1.0 / ((1.0 - smooth) / factor + smooth), rtol=1e-4):
                return {
                    "factor": factor,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": context,
                }
    raise UserError(
        f"{shown(path)} scales its rotary positions ({_FREQUENCIES}) in another way than Llama 3.1 "
        "to 3.3 do; convert the model from its Hugging Face form."
    )


def _names(fields: dict[str, Any]) -> dict[str, str]:
    """Our name of every parameter -> theirs."""
    result = {}
    for name in parameter_shapes("decoder", fields):
        match = _LAYER.fullmatch(name)
        result[name] = f"blk.{match[1]}.{_IN_LAYER[match[2]]}" if match else _TOP[name]
    return result


def _tensor(file: GgufFile, stored: StoredTensor, name: str, heads: dict[str, int]) -> Tensor:
    """A tensor under our name; what is quantized comes out as float32."""
    dtype = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}.get(
        stored.kind.name, np.dtype(np.float32)
    )
    part = name.split("/")[-2]

    def read() -> np.ndarray:
        array = file.read(stored).astype(dtype, copy=False)
        if part in heads:
            array = _halves(array, heads[part])
        return array.T if name.endswith("kernel") else array

    shape = stored.shape[:: -1 if name.endswith("kernel") else 1]
    return Tensor(shape, dtype, read, f"{file.path} ({stored.name})")


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows [H * C, ...] whose neighbours turn together, in the order in which halves do."""
    rows = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)
