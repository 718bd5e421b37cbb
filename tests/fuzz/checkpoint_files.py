"""Tiny checkpoints for the fuzzer, and the comparison of what damaged copies of them hold.

They are written once.
"""

import json
import pathlib
import shutil

import numpy as np

from flan_jax.checkpoints.check import check_tensors
from flan_jax.checkpoints.formats import huggingface_decoder, huggingface_t5, safetensors_files, t5x
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.models.shapes import parameter_shapes

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
    if config["model_type"] == "t5":
        family, ours = huggingface_t5, random_arrays(huggingface_t5.read_config(config, True, path))
        names = huggingface_t5.tensor_names(ours)
    else:
        family = huggingface_decoder
        ours = random_arrays(huggingface_decoder.read_config(config, path))
        names = huggingface_decoder.tensor_names(config["model_type"], ours)
    arrays = {}
    for name, array in ours.items():
        arrays[names[name]] = np.ascontiguousarray(array.T if family.is_transposed(name) else array)
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    safetensors_files.write_directory(path, shapes, arrays.__getitem__, shard_bytes)
    return path


def random_arrays(config) -> dict[str, np.ndarray]:
    """Parameters by our names, all numbers different from one another."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }


def t5x_directory(path: pathlib.Path) -> pathlib.Path:
    """Writes `checkpoint_3` of a T5 in T5X's own form; gives its path."""
    arrays = random_arrays(huggingface_t5.read_config(T5, True, path))
    tensors = {
        name: Tensor(array.shape, array.dtype, lambda array=array: array)
        for name, array in arrays.items()
    }
    t5x.write_t5x(path, CheckpointReader(path, 3, tensors), None, lambda name: None)
    return path / "checkpoint_3"


def arrays_of(path: pathlib.Path, form: str | None = None) -> dict[str, np.ndarray]:
    """The parameters that our reader finds in a checkpoint, checked as `flan-jax convert` does."""
    checkpoint = open_checkpoint(path, form)
    check_tensors(
        checkpoint.shapes,
        parameter_shapes(checkpoint.config),
        checkpoint.path,
        "convert another checkpoint.",
    )
    return {name: tensor.read() for name, tensor in checkpoint.tensors.items()}


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
