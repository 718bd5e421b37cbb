"""Small random models in Hugging Face's form, and adapters of them, written without peft."""

import dataclasses
import json

import jax
import numpy as np

from flan_jax.checkpoints.formats import (
    huggingface_decoder,
    huggingface_t5,
    safetensors_files,
)
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.models.architectures import model_of
from flan_jax.models.shapes import parameter_shapes
from flan_jax.parallel import partitioning
from support.converting import decoder_batch, t5_batch

_LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
_T5 = {
    "model_type": "t5",
    "vocab_size": 64,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
# (rows, columns) of the matrices of a layer of `_LLAMA`, [out, in].
_SHAPES = {
    "q_proj": ("self_attn", 16, 16),
    "k_proj": ("self_attn", 8, 16),
    "v_proj": ("self_attn", 8, 16),
    "o_proj": ("self_attn", 16, 16),
    "gate_proj": ("mlp", 24, 16),
    "up_proj": ("mlp", 24, 16),
    "down_proj": ("mlp", 16, 24),
}


def random_llama(path, **changes):
    """Writes a Llama of two layers."""
    config = {**_LLAMA, **changes}
    shapes = parameter_shapes(huggingface_decoder.read_config(config, path))
    names = huggingface_decoder.tensor_names(config["model_type"], shapes)
    _write(path, config, shapes, names, huggingface_decoder.is_transposed)


def random_t5(path, **changes):
    """Writes a T5 1.1 of two layers on each side."""
    config = {**_T5, **changes}
    shapes = parameter_shapes(
        huggingface_t5.read_config(config, not config["tie_word_embeddings"], path)
    )
    names = huggingface_t5.tensor_names(shapes)
    _write(path, config, shapes, names, huggingface_t5.is_transposed)


def _write(path, config, shapes, names, is_transposed):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        theirs = shape[::-1] if is_transposed(name) else shape
        array = rng.standard_normal(theirs) * 0.3
        arrays[names[name]] = (1 + array if name.endswith("scale") else array).astype(np.float32)
    _save(path / "model.safetensors", arrays)


def _save(path, arrays):
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    safetensors_files.write_file(path, shapes, arrays.__getitem__)


def lora_arrays(ends, layers=(0, 1), rank=2):
    """Random matrices of LoRA for the modules of `random_llama` with these names."""
    rng, arrays = np.random.default_rng(0), {}
    for i in layers:
        for end in ends:
            inside, outputs, inputs = _SHAPES[end]
            key = f"base_model.model.model.layers.{i}.{inside}.{end}"
            a, b = rng.standard_normal((rank, inputs)), rng.standard_normal((outputs, rank))
            arrays[f"{key}.lora_A.weight"] = (0.3 * a).astype(np.float32)
            arrays[f"{key}.lora_B.weight"] = (0.3 * b).astype(np.float32)
    return arrays


def save_adapter(path, arrays, base="../base", **fields):
    """Writes a directory of an adapter, by default LoRA of rank 2 and alpha 8."""
    path.mkdir()
    common = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": 2,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "modules_to_save": None,
    }
    (path / "adapter_config.json").write_text(json.dumps({**common, **fields}))
    _save(path / "adapter_model.safetensors", arrays)


def save_prompt(path, vectors, base="../base", **fields):
    """Writes a directory of a prompt [P, D] for a decoder, as peft does."""
    path.mkdir()
    common = {
        "peft_type": "PROMPT_TUNING",
        "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": vectors.shape[0],
        "num_transformer_submodules": 1,
        "token_dim": vectors.shape[1],
        "prompt_tuning_init": "RANDOM",
        "modules_to_save": None,
    }
    (path / "adapter_config.json").write_text(json.dumps({**common, **fields}))
    _save(path / "adapter_model.safetensors", {"prompt_embeddings": vectors})


def abstract_of(path, scan_layers=True):
    """Shapes of the parameters in memory of the model of a checkpoint."""
    config = dataclasses.replace(open_checkpoint(path).config, scan_layers=scan_layers)
    batch = {**t5_batch(8), **decoder_batch(8)}
    model = model_of(config)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    return partitioning.unbox(boxed)
