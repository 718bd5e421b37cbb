"""Tiny checkpoints for the fuzzer, written once, and the comparison of what damaged copies of them
hold.
"""

import json
import pathlib
import shutil

import numpy as np

from flan_jax.checkpoints.formats import huggingface_llama, huggingface_t5, safetensors_files, t5x
from flan_jax.checkpoints.parameters import parameter_shapes
from flan_jax.checkpoints.read import open_checkpoint
from flan_jax.checkpoints.reader import Source, Tensor, check_tensors

LLAMA = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
T5 = {
    "model_type": "t5",
    "vocab_size": 8,
    "d_model": 6,
    "d_kv": 3,
    "d_ff": 5,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 4,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def huggingface_directory(
    path: pathlib.Path, config: dict, shard_bytes: int = 10**9
) -> pathlib.Path:
    """Writes a model of random numbers in Hugging Face's form; gives `path`."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    family = huggingface_t5 if config["model_type"] == "t5" else huggingface_llama
    is_t5 = family is huggingface_t5
    fields = family.fields_of(config, True, path) if is_t5 else family.fields_of(config, path)
    names, arrays = family.names(fields), {}
    for name, array in random_arrays("t5" if is_t5 else "decoder", fields).items():
        arrays[names[name]] = np.ascontiguousarray(array.T if family.is_turned(name) else array)
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    safetensors_files.write_directory(path, shapes, arrays.__getitem__, shard_bytes)
    return path


def random_arrays(model: str, fields: dict) -> dict[str, np.ndarray]:
    """Parameters by our names, all numbers different from one another."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in parameter_shapes(model, fields).items()
    }


def t5x_directory(path: pathlib.Path) -> pathlib.Path:
    """Writes `checkpoint_3` of a T5 in T5X's own form; gives its path."""
    arrays = random_arrays("t5", huggingface_t5.fields_of(T5, True, path))
    tensors = {
        name: Tensor(array.shape, array.dtype, lambda array=array: array)
        for name, array in arrays.items()
    }
    t5x.write_t5x(path, Source(path, 3, tensors, "t5"), None, lambda name: None)
    return path / "checkpoint_3"


def arrays_of(path: pathlib.Path, form: str | None = None) -> dict[str, np.ndarray]:
    """The parameters that our reader finds in a checkpoint, checked as `flan-jax convert` does."""
    source = open_checkpoint(path, form)
    check_tensors(
        {name: tensor.shape for name, tensor in source.tensors.items()},
        parameter_shapes(source.model, source.fields),
        source.path,
        "convert another checkpoint.",
    )
    return {name: tensor.read() for name, tensor in source.tensors.items()}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether the names, shapes, dtypes and bytes are equal."""
    return found.keys() == expected.keys() and all(
        array.dtype == expected[name].dtype
        and array.shape == expected[name].shape
        and array.tobytes() == expected[name].tobytes()
        for name, array in found.items()
    )


def with_file(
    original: pathlib.Path, copy: pathlib.Path, name: str, contents: bytes | str | None
) -> pathlib.Path:
    """Makes `copy` a copy of a directory with one file replaced (None: removed), and gives it."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    if contents is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return copy
