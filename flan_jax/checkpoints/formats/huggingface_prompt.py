"""Prompts as Hugging Face's peft has them (PROMPT_TUNING): read and written.

The directory has one tensor, `prompt_embeddings` [P, D]. peft puts its rows in front of the
embedded input of a decoder, or of a T5's encoder, as the model here does. By default it gives a T5
a table of 2P rows: `PeftModelForSeq2SeqLM.forward` and `generate` read the first P, and the others
have no effect and no gradient.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from flan_jax.checkpoints.base_record import BaseRecord
from flan_jax.checkpoints.formats import adapter_config, huggingface
from flan_jax.checkpoints.formats.adapter_config import AdapterConfig
from flan_jax.checkpoints.formats.huggingface_peft import (
    open_stored,
    write_settings,
    write_tensors,
)
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.models.adapters import PROMPT
from flan_jax.storage.copies import name_of

_KEY = "prompt_embeddings"
_TABLE = "token_embedder/embedding"


def open_prompt(
    path: pathlib.Path, config: AdapterConfig, base: CheckpointReader
) -> tuple[CheckpointReader, BaseRecord]:
    """Returns the opened prompt by our names, and what `base.json` says of a run of ours.

    The record has no digest, because an adapter has none of its base.

    Args:
      path: the directory.
      config: its settings.
      base: the model that was tuned.

    Raises:
      UserError: if it is no prompt of this model.
    """
    (table,) = (name for name in base.tensors if name.endswith(_TABLE))
    module, width = table.rpartition("/")[0], base.tensors[table].shape[1]
    tensor, notes = _open_vectors(path, config)
    if tensor.shape[1] != width:
        raise UserError(
            f"the prompt {shown(path)} does not match its base model: its vectors have "
            f"{tensor.shape[1]} numbers, those of the model {width}; give the base that it was "
            "made for."
        )
    record = BaseRecord(
        path=name_of(base.path),
        step=base.step,
        digest="",
        dtype="",
        method=config.method,
        rank=0,
        alpha=0.0,
        scale=1.0,
        targets=[module],
        also_trained=[],
        prompt_length=config.prompt_length,
    )
    tensors = {f"{module}/{PROMPT}": tensor}
    return CheckpointReader(path, 0, tensors, base.config, notes=notes, base=base.path), record


def read_vectors(path: pathlib.Path) -> np.ndarray:
    """Returns the prompt [P, D] in a directory, for any model.

    Raises:
      UserError: if it has none.
    """
    config = adapter_config.read_config(path)
    if config.method != "prompt":
        raise UserError(
            f"{shown(path)} has an adapter of the kind {config.method}, and no prompt; give a "
            "directory with one."
        )
    return _open_vectors(path, config)[0].read()


def _open_vectors(path: pathlib.Path, config: AdapterConfig) -> tuple[Tensor, list[str]]:
    """(the vectors [P, D] that peft reads, notes for the user)."""
    stored, rows, length = open_stored(path), config.prompt_rows, config.prompt_length
    others = sorted(stored.keys() - {_KEY})
    if others or _KEY not in stored:
        found = listed(others) if others else "no tensor"
        raise UserError(
            f"the prompt {shown(path)} must have {_KEY} and nothing else, and it has "
            f"{shown(found)}; save it with `save_pretrained` of peft."
        )
    tensor, notes = stored[_KEY], []
    if len(tensor.shape) != 2 or tensor.shape[0] != rows:
        raise UserError(
            f"{_KEY} of {shown(path)} has the shape {tensor.shape}, and its "
            f"{adapter_config.FILE} says {rows} rows (num_virtual_tokens times "
            "num_transformer_submodules); correct the file."
        )
    if rows > length:
        notes.append(
            f"its table has {rows} rows of which peft reads the first {length}: the others are "
            "left out"
        )
        tensor = tensor._replace(
            shape=(length, tensor.shape[1]), open=lambda: stored[_KEY].open()[:length]
        )
    return tensor, notes


def write_prompt(
    directory: pathlib.Path,
    adapter: CheckpointReader,
    record: BaseRecord,
    base: CheckpointReader,
    base_name: str,
    dtype: np.dtype | None,
    progress: Callable[[str], None],
) -> None:
    """Writes the tensor and, last, `adapter_config.json`.

    Args:
      directory: it exists.
      adapter: what was trained, by our names.
      record: how it was trained.
      base: the model that was tuned.
      base_name: its name or its path for peft.
      dtype: of the tensor; None keeps its own.
      progress: called with the name of the tensor.

    Raises:
      UserError: for what peft has no counterpart of.
    """
    huggingface.tensor_names(base.config, adapter.path)  # raises where peft has no such model
    prompts = [name for name in adapter.tensors if name.rpartition("/")[2] == PROMPT]
    others = sorted(adapter.tensors.keys() - set(prompts))
    if others:
        raise UserError(
            f"{shown(adapter.path)} has a prompt and has trained {listed(others)} as a whole, "
            "which is not written for peft; use the run itself, or train one without ALSO_TRAIN."
        )
    tensor = adapter.tensors[prompts[0]]
    write_tensors(directory, {_KEY: tensor}, dtype, progress)
    write_settings(directory, _settings(tensor.shape, base, base_name))


def _settings(shape: tuple[int, ...], base: CheckpointReader, base_name: str) -> dict[str, Any]:
    """The contents of `adapter_config.json`; all that peft would infer of the model is there."""
    config = base.config
    is_t5 = base.architecture == "t5"
    return {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_encoder_layers if is_t5 else config.num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": shape[0],
        "peft_type": adapter_config.PROMPT_TUNING,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": adapter_config.TASKS[base.architecture],
        "token_dim": shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
