"""GGUF files of Llama-like models, read through the `gguf` package: weights dequantised one tensor at a time.

llama.cpp's converter interleaves the rows of Llama's query and key matrices, because its rotary positions turn
neighbours where ours turn halves; here they go back. Qwen2's are left as they are, there too.
"""

from __future__ import annotations

import importlib
import itertools
import pathlib
import re
from typing import Any

import ml_dtypes
import numpy as np

from flan_jax.errors import UserError
from flan_jax.interchange.huggingface_llama import llama_fields
from flan_jax.interchange.parameters import parameter_shapes
from flan_jax.interchange.source import Source, Tensor, check_tensors

_ARCHITECTURES = ("llama", "qwen2")
_MAGIC = b"GGUF"
_TOP = {"decoder/token_embedder/embedding": "token_embd.weight", "decoder/decoder_norm/scale": "output_norm.weight",
        "decoder/logits_dense/kernel": "output.weight"}
_IN_LAYER = {
    "pre_self_attention_layer_norm/scale": "attn_norm.weight", "pre_mlp_layer_norm/scale": "ffn_norm.weight",
    "self_attention/query/kernel": "attn_q.weight", "self_attention/key/kernel": "attn_k.weight",
    "self_attention/value/kernel": "attn_v.weight", "self_attention/out/kernel": "attn_output.weight",
    "self_attention/query/bias": "attn_q.bias", "self_attention/key/bias": "attn_k.bias",
    "self_attention/value/bias": "attn_v.bias", "mlp/wi_0/kernel": "ffn_gate.weight",
    "mlp/wi_1/kernel": "ffn_up.weight", "mlp/wo/kernel": "ffn_down.weight",
}
_LAYER = re.compile(r"decoder/layers_(\d+)/(.+)")
_FREQUENCIES = "rope_freqs.weight"


def is_gguf(path: pathlib.Path) -> bool:
    """Tells whether `path` is a GGUF file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


def open_gguf(path: pathlib.Path) -> Source:
    """The opened model; `notes` say how its weights are stored.

    Raises:
      UserError: without the `gguf` package, or for a model that ours cannot be.
    """
    package, reader = _package(), open_reader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()
                if not name.startswith("tokenizer.ggml.")}
    architecture = metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UserError(f"{path} is a model of architecture {architecture!r}, but can be one of "
                        f"{', '.join(_ARCHITECTURES)}.")
    stored = {str(tensor.name): tensor for tensor in reader.tensors}
    frequencies = stored.pop(_FREQUENCIES, None)
    fields = _fields(metadata, architecture, stored, path)
    if frequencies is not None:
        fields["rope_scaling"] = _llama3_scaling(np.asarray(frequencies.data, np.float32).reshape(-1), fields, path)
    names = _names(fields)
    shapes = parameter_shapes("decoder", fields)
    expected = {names[name]: shape[::-1] if name.endswith("kernel") else shape for name, shape in shapes.items()}
    check_tensors({name: _shape(tensor) for name, tensor in stored.items()}, expected, path,
                  '"there" is the tensors of the file, "here" is what its metadata say:', lists_all=True)
    heads = {"query": fields["num_heads"], "key": fields["num_kv_heads"]} if architecture == "llama" else {}
    tensors = {name: _tensor(package, stored[theirs], name, heads, path) for name, theirs in names.items()}
    kinds = sorted({tensor.tensor_type.name for tensor in stored.values()})
    return Source(path, 0, tensors, "decoder", fields, notes=[f"its weights are stored as {', '.join(kinds)}"])


def open_reader(path: pathlib.Path) -> Any:
    """The `gguf` package's reader of a file.

    Raises:
      UserError: without the package, or for a file that it cannot read.
    """
    try:
        return _package().GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} is not readable as GGUF ({error}); download it again.") from error


def _package() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise UserError("reading GGUF files needs the package gguf; type pip install 'flan_jax[hf]'.") from None


def _fields(metadata: dict[str, Any], architecture: str, stored: dict[str, Any], path) -> dict[str, Any]:
    def get(name: str, default: Any = None) -> Any:
        value = metadata.get(f"{architecture}.{name}", default)
        if value is None:
            raise UserError(f"{path} does not say {architecture}.{name}; convert the model to GGUF again.")
        return value

    width, heads = int(get("embedding_length")), int(get("attention.head_count"))
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    head_dim = int(get("attention.key_length", width // heads))
    if kind != "none" or int(get("rope.dimension_count", head_dim)) != head_dim:
        raise UserError(f"{path} has rotary positions of type {kind!r} over {get('rope.dimension_count', head_dim)} of "
                        f"{head_dim} dimensions, but a decoder here has plain or Llama 3 ones over whole heads.")
    if "token_embd.weight" not in stored:
        raise UserError(f"{path} has no token_embd.weight, so it is not a whole model (one part of several?).")
    return llama_fields(
        vocab_size=_shape(stored["token_embd.weight"])[0], emb_dim=width, num_heads=heads, head_dim=head_dim,
        mlp_dim=int(get("feed_forward_length")), num_layers=int(get("block_count")),
        num_kv_heads=int(get("attention.head_count_kv", heads)), rope_theta=float(get("rope.freq_base", 10000.0)),
        rope_scaling=None, mlp_activations=("silu", "linear"), logits_via_embedding="output.weight" not in stored,
        qkv_bias="blk.0.attn_q.bias" in stored, norm_epsilon=_decimal(get("attention.layer_norm_rms_epsilon")))


def _decimal(value: float) -> float:
    """The short decimal that a float32 was: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _llama3_scaling(factors: np.ndarray, fields: dict[str, Any], path) -> dict[str, Any]:
    """Llama 3's scaling; the file has only the factors that follow from it, one per frequency."""
    half = np.arange(0, fields["head_dim"], 2, dtype=np.float32)
    wavelengths = 2 * np.pi * fields["rope_theta"] ** (half / fields["head_dim"])
    for factor, context in itertools.product((8.0, 32.0, 16.0, 4.0), (8192,)):
        smooth = np.clip((context / wavelengths - 1.0) / (4.0 - 1.0), 0.0, 1.0)
        if np.allclose(factors, 1.0 / ((1.0 - smooth) / factor + smooth), rtol=1e-4):
            return {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": context}
    raise UserError(f"{path} scales its rotary positions ({_FREQUENCIES}) in another way than Llama 3.1 to 3.3 do; "
                    "convert the model from its Hugging Face form.")


def _names(fields: dict[str, Any]) -> dict[str, str]:
    """Our name of every parameter -> theirs."""
    result = {}
    for name in parameter_shapes("decoder", fields):
        match = _LAYER.fullmatch(name)
        result[name] = f"blk.{match[1]}.{_IN_LAYER[match[2]]}" if match else _TOP[name]
    return result


def _shape(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor as an array in C order; GGUF counts axes from the innermost."""
    return tuple(int(size) for size in reversed(tensor.shape))


def _tensor(package: Any, stored: Any, name: str, heads: dict[str, int], path: pathlib.Path) -> Tensor:
    """A tensor under our name; what is quantised comes out as float32."""
    kind = stored.tensor_type.name
    dtype = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}.get(kind, np.dtype(np.float32))
    part = name.split("/")[-2]

    def read() -> np.ndarray:
        array = package.dequantize(stored.data, stored.tensor_type).reshape(_shape(stored)).astype(dtype, copy=False)
        if part in heads:
            array = _halves(array, heads[part])
        return array.T if name.endswith("kernel") else array

    shape = _shape(stored)[:: -1 if name.endswith("kernel") else 1]
    return Tensor(shape, dtype, read, f"{path} ({stored.name})")


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows [H * C, ...] whose neighbours turn together, in the order in which halves do."""
    rows = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)
