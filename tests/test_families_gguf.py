"""GGUF files of every family, written by the `gguf` package as llama.cpp's converter does.

The names of tensors are those of the package's own map from Hugging Face's, and the changes to the
weights those of `convert_hf_to_gguf.py`: interleaved heads (Llama, SmolLM 3), 1 + weight (Gemma).
"""

import json

import numpy as np
import pytest

from flan_jax.checkpoints.formats import safetensors_files
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.errors import UserError
from support import q4_k
from support.adapters import random_llama
from support.converting import decoder_batch, our_logits

gguf = pytest.importorskip("gguf", reason="NOT CHECKED: reading GGUF needs the extra [hf]")

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
}
# Rows of whole blocks of Q4_K.
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,  # which only the Gemmas read
}
GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 6,
    "query_pre_attn_scalar": 8,
    "tie_word_embeddings": True,
}
# (architecture in the file, settings of config.json)
CASES = {
    "llama": ("LLAMA", {"model_type": "llama", "rope_theta": 1e4}),
    "qwen2": ("QWEN2", {"model_type": "qwen2", "rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen3": ("QWEN3", {"model_type": "qwen3", "rope_theta": 1e6}),
    "olmo2": ("OLMO2", {"model_type": "olmo2", "rope_theta": 5e5}),
    "smollm3": ("SMOLLM3", {"model_type": "smollm3", "rope_theta": 5e6}),
    "gemma2": (
        "GEMMA2",
        {
            **GEMMA,
            "model_type": "gemma2",
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "GEMMA3",
        {
            **GEMMA,
            "model_type": "gemma3_text",
            "rope_theta": 1e6,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
}
INTERLEAVED = ("llama", "smollm3")
OPTIONAL = {
    "sliding_window": "add_sliding_window",
    "attn_logit_softcapping": "add_attn_logit_softcapping",
    "final_logit_softcapping": "add_final_logit_softcapping",
}


def write_gguf(path, name, config, arrays, quantize=None):
    """Writes a file as llama.cpp's converter does for this architecture."""
    architecture = getattr(gguf.MODEL_ARCH, CASES[name][0])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta", 1e4))
    for setting, method in OPTIONAL.items():
        if setting in config:
            getattr(writer, method)(config[setting])
    if "rope_scaling" in config:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for theirs, array in arrays.items():
        tensor = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        if name in INTERLEAVED and (".q_proj" in theirs or ".k_proj" in theirs):
            of_keys = ".k_proj" in theirs
            heads = config["num_key_value_heads" if of_keys else "num_attention_heads"]
            rows = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
            array = np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(array.shape)
        if name.startswith("gemma") and "norm" in theirs:
            array = array + 1
        if quantize and array.ndim == 2:
            writer.add_tensor(tensor, quantized(array, quantize), raw_dtype=quantize)
        else:
            writer.add_tensor(tensor, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantized(array, kind):
    """The bytes of a matrix; the package dequantizes Q4_K, but does not quantize it."""
    return q4_k.quantize(array) if kind.name == "Q4_K" else gguf.quantize(array, kind)


def random_model(name, path, **sizes):
    """(config.json, arrays) of a directory in Hugging Face's form that it writes."""
    random_llama(path, **{**SIZES, **CASES[name][1], **sizes})
    tensors = safetensors_files.open_directory(path)
    arrays = {theirs: tensor.read() for theirs, tensor in tensors.items()}
    return json.loads((path / "config.json").read_text()), arrays


@pytest.mark.parametrize("name", CASES)
def test_a_gguf_file_is_the_model_it_was_made_from(name, tmp_path):
    config, arrays = random_model(name, tmp_path / "theirs")
    write_gguf(tmp_path / "model.gguf", name, config, arrays)
    batch = decoder_batch(config["vocab_size"])
    expected = our_logits(tmp_path / "theirs", batch)
    np.testing.assert_allclose(our_logits(tmp_path / "model.gguf", batch), expected, atol=1e-4)
    ours = open_checkpoint(tmp_path / "model.gguf").config
    assert ours == open_checkpoint(tmp_path / "theirs").config


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", pytest.param("Q5_1", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_quantized_weights_are_those_that_the_package_dequantizes(name, tmp_path, kind):
    sizes = WIDE if kind == "Q4_K" else {}
    kind = getattr(gguf.GGMLQuantizationType, kind)
    config, arrays = random_model(name, tmp_path / "theirs", **sizes)
    write_gguf(tmp_path / "model.gguf", name, config, arrays, kind)
    rounded = {
        theirs: gguf.dequantize(quantized(array, kind), kind) if array.ndim == 2 else array
        for theirs, array in arrays.items()
    }
    shapes = {theirs: (array.shape, array.dtype) for theirs, array in rounded.items()}
    (tmp_path / "theirs/model.safetensors").unlink()
    safetensors_files.write_file(
        tmp_path / "theirs/model.safetensors", shapes, lambda theirs: rounded[theirs]
    )
    batch = decoder_batch(config["vocab_size"])
    expected = our_logits(tmp_path / "theirs", batch)
    np.testing.assert_allclose(our_logits(tmp_path / "model.gguf", batch), expected, atol=1e-4)


def test_q4_k_keeps_four_bits_of_a_weight():
    """The encoder against the package: within half of the 15 steps between a part's ends."""
    kind = gguf.GGMLQuantizationType.Q4_K
    rng = np.random.default_rng(0)
    array = rng.normal(size=(5, 512)) * rng.uniform(0.2, 3.0, (5, 16)).repeat(32, axis=1)
    array = (array + rng.normal(size=(5, 16)).repeat(32, axis=1)).astype(np.float32)
    error = np.abs(gguf.dequantize(q4_k.quantize(array), kind) - array).reshape(5, 16, 32)
    parts = array.reshape(5, 16, 32)
    steps = (np.maximum(parts.max(-1), 0) - np.minimum(parts.min(-1), 0)) / 15
    largest = steps.reshape(5, 2, 8).max(-1).repeat(8, axis=1).reshape(5, 16)
    # Scales and minima are rounded to the 63rd of the largest of their block, too.
    assert (error.max(-1) < 0.55 * steps + 0.6 * largest).all()
    assert error.mean() < 0.35 * steps.mean()


def test_the_largest_gemmas_have_another_query_scalar(tmp_path):
    config, arrays = random_model("gemma2", tmp_path / "theirs", num_hidden_layers=46)
    write_gguf(tmp_path / "model.gguf", "gemma2", config, arrays)
    assert open_checkpoint(tmp_path / "model.gguf").config.query_scalar == 32 / 4


def test_a_family_that_is_not_supported_is_refused_by_name(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen3moe")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="general.architecture .*'qwen3moe'.*but it must be one of"):
        open_checkpoint(tmp_path / "model.gguf")
