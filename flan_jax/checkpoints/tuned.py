"""Checkpoints that hold only what was trained: of a run with a frozen base, or adapters of peft.

They are opened beside their base, and read as a whole model: matrices with adapters are merged one
at a time, when they are read.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import posixpath
from typing import Any

import numpy as np

from flan_jax.checkpoints import base_record
from flan_jax.checkpoints.base_record import BaseRecord
from flan_jax.checkpoints.check import check_added
from flan_jax.checkpoints.formats import adapter_config, huggingface_peft, huggingface_prompt
from flan_jax.checkpoints.formats.gguf import is_gguf
from flan_jax.checkpoints.located import located
from flan_jax.checkpoints.model_config import infer_config, infer_sizes
from flan_jax.checkpoints.model_gin import fields_beside
from flan_jax.checkpoints.open import detect_format, open_checkpoint, open_tensors
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.config import run_directory
from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.adapters import LORA_B, SCALE_OUT
from flan_jax.models.architectures import model_fields
from flan_jax.peft.merge import check_mergeable, merged
from flan_jax.storage.copies import origin
from flan_jax.storage.places import is_remote


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was trained beside a frozen base.

    Attributes:
      checkpoint: what was trained, by our names.
      record: what it was trained on, and how.
      base: the model that was tuned.
    """

    checkpoint: CheckpointReader
    record: BaseRecord
    base: CheckpointReader


def open_tuned(
    path: str | os.PathLike,
    step: int | str | None = None,
    base: str | os.PathLike | None = None,
    otherwise: str | os.PathLike | None = None,
) -> Tuned | None:
    """Returns an opened checkpoint with its base; None if it has all parameters of its model.

    Args:
      path: a run, one of its steps, or a directory of an adapter.
      step: of a run, as in `open_checkpoint`.
      base: the base of an adapter; by default the directory or file that the adapter names.
      otherwise: its base, if `base` is None and what the adapter names is not here.

    Raises:
      UserError: if one of them cannot be read, or they do not fit.
    """
    path = located(path)
    if path.exists() and detect_format(path) == "peft":
        return _open_adapter(path, step, base, otherwise)
    record = base_record.find(path)
    if record is None:
        return None
    checkpoint = open_tensors(path, step=step)
    place, base_step = base_record.place_of(record, run_directory.run_of(path))
    tuned = open_tuned(place, base_step)
    whole = open_tensors(place, step=base_step) if tuned is None else merged_reader(tuned)
    check_added(checkpoint.shapes, whole.shapes, checkpoint.path)
    return Tuned(checkpoint, record, whole)


def prompt_length(path: str | os.PathLike) -> int | None:
    """Returns how many vectors the prompt of a run or adapter has; None for a whole model.

    Args:
      path: as in `open_tuned`.

    Raises:
      UserError: if its record is damaged, or the adapter is not supported.
    """
    path = located(path)
    if path.exists() and detect_format(path) == "peft":
        return adapter_config.read_config(path).prompt_length
    record = base_record.find(path)
    return None if record is None else record.prompt_length


def _open_adapter(
    path: pathlib.Path,
    step: int | str | None,
    base: str | os.PathLike | None,
    otherwise: str | os.PathLike | None,
) -> Tuned:
    if step is not None:
        raise UserError(f"{path} is one adapter and has no steps; leave --step={step} out.")
    config = adapter_config.read_config(path)
    whole = open_whole(_base_of_adapter(path, config.base, base, otherwise))
    is_prompt = config.method == "prompt"
    opened = huggingface_prompt.open_prompt if is_prompt else huggingface_peft.open_adapter
    return Tuned(*opened(path, config, whole), whole)


def _base_of_adapter(
    path: pathlib.Path,
    named: str,
    given: str | os.PathLike | None,
    otherwise: str | os.PathLike | None,
) -> pathlib.Path:
    """The base of an adapter, a directory or a GGUF file: as in `open_tuned`."""
    if named and given is None:
        for place in (_beside(path, named), pathlib.Path(named)):
            if place.is_dir() or is_gguf(place):
                return place.resolve()
    other = otherwise if given is None else given
    if other is not None and (place := located(other, "the base").resolve()) != path.resolve():
        return place
    raise UserError(
        f"the base of the adapter {shown(path)}, {quoted(named)}, is neither a directory "
        "nor a GGUF file here; download it, and give its path: with --base in `convert`, else with "
        "--gin.INITIAL_CHECKPOINT_PATH."
    )


def _beside(path: pathlib.Path, named: str) -> pathlib.Path:
    """Where an adapter has its base by a name: in a bucket, or relative to it on disk or there."""
    if is_remote(named):
        return located(named)
    remote = origin(path)
    if remote is None or posixpath.isabs(named):
        return path / named
    key = posixpath.normpath(posixpath.join(remote.key, named))
    is_inside = not key.startswith("..") and key != "."
    return located(str(dataclasses.replace(remote, key=key))) if is_inside else path / named


def config_of(tuned: Tuned) -> Any:
    """Returns the configuration of the whole model: the base's, and what a run's settings say.

    Args:
      tuned: the model.

    Raises:
      UserError: if it is not known.
    """
    base, run = tuned.base, fields_beside(tuned.checkpoint.path)
    architecture, _ = infer_sizes(base.shapes)
    if base.config is None:
        of_base = fields_beside(base.path).get(architecture, {})
    else:
        of_base = {name: getattr(base.config, name) for name in model_fields(architecture)}
    known = {architecture: {**of_base, **run.get(architecture, {})}}
    return infer_config(base.shapes, known, tuned.checkpoint.path)


def open_described(path: str | os.PathLike) -> CheckpointReader:
    """Returns an opened checkpoint with the configuration of its whole model.

    Unlike that of `open_whole`, one of adapters or of a prompt holds only what was trained.

    Args:
      path: as in `open_whole`.

    Raises:
      UserError: as `open_checkpoint` and `open_tuned`.
    """
    tuned = open_tuned(path)
    if tuned is None:
        return open_checkpoint(path)
    return dataclasses.replace(
        tuned.checkpoint, config=config_of(tuned), slots=None, base=tuned.base.path
    )


def open_whole(
    path: str | os.PathLike,
    step: int | str | None = None,
    format: str | None = None,
    base: str | os.PathLike | None = None,
    dtype: np.dtype | None = None,
) -> CheckpointReader:
    """Returns a checkpoint as one of a whole model, adapters merged.

    Args:
      path: a checkpoint of any format.
      step: as in `open_checkpoint`.
      format: as in `open_checkpoint`.
      base: as in `open_tuned`.
      dtype: that merged arrays are rounded to; by default that of the array in the base.

    Raises:
      UserError: as `open_checkpoint` and `open_tuned`; and for what cannot be merged.
    """
    tuned = open_tuned(path, step, base) if format in (None, "peft", "flan") else None
    if tuned is None:
        return open_checkpoint(path, format, step)
    checkpoint = merged_reader(tuned, dtype)
    checkpoint.config = config_of(tuned)
    return checkpoint


def merged_reader(tuned: Tuned, dtype: np.dtype | None = None) -> CheckpointReader:
    """Returns a whole model of what was trained and its base.

    Args:
      tuned: both.
      dtype: as in `open_whole`.

    Raises:
      UserError: for what is no part of an array, such as a prompt.
    """
    check_mergeable(tuned.checkpoint.tensors)
    added: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tuned.checkpoint.tensors.items():
        module, _, last = name.rpartition("/")
        if name not in tuned.base.tensors:
            added.setdefault(module, {})[last] = tensor
    tensors = {}
    for name, tensor in tuned.base.tensors.items():
        module, _, last = name.rpartition("/")
        stored = tuned.checkpoint.tensors.get(name, tensor)
        beside = added.get(module, {})
        is_changed = last == "kernel" or (last == "bias" and SCALE_OUT in beside)
        if not (beside and is_changed):
            beside = {}
        if beside or stored is not tensor:
            stored = _merged(last, stored, beside, dtype or tensor.dtype, tuned.record.scale)
        tensors[name] = stored
    notes = [*tuned.base.notes, *tuned.checkpoint.notes]
    return dataclasses.replace(
        tuned.checkpoint, tensors=tensors, slots=None, notes=notes, base=tuned.base.path
    )


def _merged(
    name: str, tensor: Tensor, beside: dict[str, Tensor], dtype: np.dtype, scale: float
) -> Tensor:
    """The array of a module with its adapters; it is computed when it is read."""

    def read() -> np.ndarray:
        arrays = {last: added.read().astype(np.float32) for last, added in beside.items()}
        if LORA_B in arrays:
            arrays[LORA_B] = arrays[LORA_B] * np.float32(scale)
        arrays["kernel"] = np.zeros((1, 1), np.float32)
        arrays[name] = tensor.read().astype(np.float32)
        return merged(arrays)[name].astype(dtype)

    return Tensor(tensor.shape, np.dtype(dtype), read, tensor.file)
