"""A model's directory in Hugging Face's form, read and written: `config.json` and safetensors."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from flan_jax.checkpoints.check import check_tensors
from flan_jax.checkpoints.formats import huggingface_decoder, huggingface_t5, safetensors_files
from flan_jax.checkpoints.formats.config_reader import ConfigReader
from flan_jax.checkpoints.formats.tokenizer_files import read_special_ids
from flan_jax.checkpoints.reader import CheckpointReader, Tensor, cast
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.models.architectures import architecture_of
from flan_jax.models.families import FAMILIES
from flan_jax.models.shapes import parameter_shapes
from flan_jax.storage.files import read_json
from flan_jax.storage.paths import inside

_T5_FAMILIES = ("t5", "mt5")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def is_huggingface(path: pathlib.Path) -> bool:
    """Returns whether `path` is the directory of a model: it has a `config.json`."""
    return (path / "config.json").is_file()


def open_huggingface(path: pathlib.Path) -> CheckpointReader:
    """Returns the opened model.

    Raises:
      UserError: for a model that the networks here cannot compute, or files in which tensors are
        missing, unexpected or of another shape.
    """
    _refuse_adapters(path)
    file = path / "config.json"
    contents = {**read_json(inside(path, file.name, file)), **read_special_ids(path)}
    family = ConfigReader(contents, file).choice("model_type", (*_T5_FAMILIES, *FAMILIES))
    weights, notes = safetensors_files.find_weights(path, contents.get("transformers_weights"))
    stored = safetensors_files.open_weights(weights)
    if family in _T5_FAMILIES:
        config = _read_t5(contents, stored, path, notes)
    else:
        config = _read_decoder(contents, stored, path)
    return CheckpointReader(
        path, 0, _by_our_names(stored, family, config, path), config, notes=notes
    )


def _read_t5(
    contents: dict[str, Any], stored: dict[str, Tensor], path: pathlib.Path, notes: list[str]
) -> Any:
    """The configuration of a T5; its tensors in `stored` become those that a T5 here has."""
    file = path / "config.json"
    _remove_unread(stored, huggingface_t5.UNREAD)
    _remove_aliases(stored, path)
    scales_logits = huggingface_t5.has_scaled_logits(contents, file)
    if scales_logits:
        _remove_copied_head(stored, "shared.weight")
    has_head = "lm_head.weight" in stored
    config = huggingface_t5.read_config(contents, has_head, file, most_layers=len(stored))
    if not scales_logits and not has_head and "shared.weight" in stored:
        stored["lm_head.weight"] = stored["shared.weight"]
        notes.append(
            "the logits are tied to the embedding but not scaled, so the embedding is written twice"
        )
    return config


def _read_decoder(contents: dict[str, Any], stored: dict[str, Tensor], path: pathlib.Path) -> Any:
    """The configuration of a decoder-only model; `stored` keeps the tensors that it has here."""
    file = path / "config.json"
    _remove_unread(stored, huggingface_decoder.UNREAD)
    if ConfigReader(contents, file).flag("tie_word_embeddings"):
        _remove_copied_head(stored, "model.embed_tokens.weight")
    return huggingface_decoder.read_config(contents, file, most_layers=len(stored))


def _remove_unread(stored: dict[str, Tensor], pattern: re.Pattern[str]) -> None:
    for name in [name for name in stored if pattern.fullmatch(name)]:
        del stored[name]


def _remove_copied_head(stored: dict[str, Tensor], table: str) -> None:
    """Removes the output matrix where it is the embedding once more."""
    head = stored.get("lm_head.weight")
    if head is not None and table in stored and _are_equal(stored[table], head):
        del stored["lm_head.weight"]


def _refuse_adapters(path: pathlib.Path) -> None:
    """Raises a UserError for an adapter: it changes what the weights beside it compute."""
    present = [name for name in _ADAPTER if (path / name).is_file()]
    if present:
        raise UserError(
            f"{shown(path)} has an adapter ({listed(present)}) and the weights of a model; move "
            "the adapter's files to another directory to use them with these weights as their "
            "base, or remove them to use the weights without it."
        )


def _remove_aliases(stored: dict[str, Tensor], path: pathlib.Path) -> None:
    """Keeps the shared embedding under one name, `shared.weight`."""
    for alias in huggingface_t5.EMBEDDING_ALIASES:
        if alias not in stored:
            continue
        copy = stored.pop(alias)
        if "shared.weight" not in stored:
            stored["shared.weight"] = copy
        elif not _are_equal(copy, stored["shared.weight"]):
            raise UserError(
                f"{shown(path)} has an embedding {alias} that differs from shared.weight, but "
                "encoder and decoder share one here."
            )


def _are_equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and np.array_equal(first.read(), second.read())


def tensor_names(config: Any, path: object) -> dict[str, str]:
    """Returns the tensor of each parameter of a model, as `transformers` names it.

    Args:
      config: the `T5Config` or `DecoderConfig`.
      path: the checkpoint, for messages.

    Raises:
      UserError: for a model that has no counterpart there.
    """
    is_t5 = architecture_of(config) == "t5"
    family = "t5" if is_t5 else huggingface_decoder.family_of(config, path).name
    return _tensor_names(family, parameter_shapes(config))


def is_transposed(config: Any, parameter: str) -> bool:
    """Returns whether a parameter of a model has its axes exchanged there."""
    return _is_transposed("t5" if architecture_of(config) == "t5" else "", parameter)


def _tensor_names(family: str, parameters: Iterable[str]) -> dict[str, str]:
    if family in _T5_FAMILIES:
        return huggingface_t5.tensor_names(parameters)
    return huggingface_decoder.tensor_names(family, parameters)


def _is_transposed(family: str, parameter: str) -> bool:
    module = huggingface_t5 if family in _T5_FAMILIES else huggingface_decoder
    return module.is_transposed(parameter)


def _by_our_names(
    stored: dict[str, Tensor], family: str, config: Any, path: pathlib.Path
) -> dict[str, Tensor]:
    shapes = parameter_shapes(config)
    names = _tensor_names(family, shapes)
    transposed = {name for name in shapes if _is_transposed(family, name)}
    check_tensors(
        {name: tensor.shape for name, tensor in stored.items()},
        {
            names[name]: shape[::-1] if name in transposed else shape
            for name, shape in shapes.items()
        },
        path,
        "the shapes of the config follow from its config.json:",
        list_all=True,
    )
    return {
        name: stored[theirs].transposed() if name in transposed else stored[theirs]
        for name, theirs in names.items()
    }


def write_huggingface(
    directory: pathlib.Path,
    checkpoint: CheckpointReader,
    dtype: np.dtype | None,
    ids: dict[str, Any],
    progress: Callable[[str], None],
    shard_bytes: int = safetensors_files.SHARD_BYTES,
) -> None:
    """Writes the weights and, last, `config.json`.

    Args:
      directory: it exists.
      checkpoint: the model.
      dtype: of the weights; None keeps theirs.
      ids: of special tokens, for `config.json`.
      progress: called with the name of each tensor.
      shard_bytes: see `safetensors_files.write_directory`.

    Raises:
      UserError: for a model that has no counterpart there.
    """
    is_t5 = checkpoint.architecture == "t5"
    write_config = huggingface_t5.write_config if is_t5 else huggingface_decoder.write_config
    contents = write_config(checkpoint.config, checkpoint.path)
    family = contents["model_type"]
    tensors = {
        theirs: _as_stored(checkpoint.tensors[name], family, name)
        for name, theirs in _tensor_names(family, parameter_shapes(checkpoint.config)).items()
    }
    shapes = {
        theirs: (tensor.shape, np.dtype(dtype or tensor.dtype))
        for theirs, tensor in tensors.items()
    }

    def read(theirs: str) -> np.ndarray:
        progress(theirs)
        return cast(tensors[theirs].read(), shapes[theirs][1])

    safetensors_files.write_directory(directory, shapes, read, shard_bytes)
    first = next(iter(checkpoint.tensors.values()))
    contents |= {**ids, "torch_dtype": np.dtype(dtype or first.dtype).name}
    (directory / "config.json").write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def _as_stored(tensor: Tensor, family: str, parameter: str) -> Tensor:
    return tensor.transposed() if _is_transposed(family, parameter) else tensor
