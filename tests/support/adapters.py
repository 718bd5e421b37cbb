"""Small random models in Hugging Face's form, and adapters of them, written without peft."""

import dataclasses
import json

import jax
import numpy as np

from flan_jax.checkpoints.base_record import BaseRecord
from flan_jax.checkpoints.formats import safetensors_files
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.checkpoints.tuned import Tuned
from flan_jax.models.architectures import model_of
from flan_jax.models.stacking import named, unstack
from flan_jax.parallel import partitioning
from flan_jax.peft.module_paths import plain
from flan_jax.peft.tuning import Tuning
from support.converting import LLAMA, decoder_batch, random_tensors, t5_batch

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
# (rows, columns) of the matrices of a layer of `LLAMA`, [out, in].
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
    _write(path, {**LLAMA, **changes})


def random_t5(path, **changes):
    """Writes a T5 1.1 of two layers on each side."""
    _write(path, {**_T5, **changes})


def _write(path, config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    _save(path / "model.safetensors", random_tensors(config, _small))


def _small(name, array):
    return 1 + 0.3 * array if name.endswith("scale") else 0.3 * array


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


def random_tuned(base, config):
    """What a run would have trained of the model at `base`, with random numbers."""
    checkpoint = open_checkpoint(base)
    model, batch = model_of(checkpoint.config), {**t5_batch(8), **decoder_batch(8)}
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    _, params = load_parameters(base, partitioning.unbox(boxed))
    is_box = partitioning.is_box
    whole = jax.tree.map(lambda box, x: box.replace_boxed(x), boxed, params, is_leaf=is_box)
    tuning = Tuning(config, boxed)
    trained = partitioning.unbox(tuning.fresh(whole, 0))
    rng, tensors = np.random.default_rng(0), {}
    for name, leaf in named(unstack(trained)).items():
        array = np.asarray(leaf) + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)
        tensors[name] = Tensor(array.shape, array.dtype, lambda array=array: array)
    record = BaseRecord(
        path=str(base),
        step=0,
        digest="",
        dtype="float32",
        method=config.method,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        scale=config.scale if config.method == "lora" else 1.0,
        targets=tuning.modules,
        also_trained=sorted(set(map(plain, tuning.also_trained))),
        prompt_length=config.prompt_tokens,
    )
    reader = CheckpointReader(base, 0, tensors, checkpoint.config)
    return Tuned(reader, record, checkpoint)


def abstract_of(path, scan_layers=True):
    """Shapes of the parameters in memory of the model of a checkpoint."""
    config = dataclasses.replace(open_checkpoint(path).config, scan_layers=scan_layers)
    batch = {**t5_batch(8), **decoder_batch(8)}
    model = model_of(config)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    return partitioning.unbox(boxed)
