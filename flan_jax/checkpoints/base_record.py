"""`base.json`: the model that a run with frozen parameters tunes, and what the run adds to it.

The checkpoints of such a run hold only what trains. The record says where the rest is, and has a
digest of it: the same adapters on another base are another model.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flan_jax.checkpoints.located import located
from flan_jax.checkpoints.reader import Tensor
from flan_jax.config import run_directory
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models import stacking
from flan_jax.models.array_hash import array_hash
from flan_jax.peft.config import is_prompt_file
from flan_jax.peft.module_paths import plain
from flan_jax.peft.tuning import Tuning
from flan_jax.storage.files import read_json, readable, write_file
from flan_jax.storage.hashing import digest

FILE = "base.json"
_ADVICE = "put the file back that the run wrote"


@dataclasses.dataclass(frozen=True)
class BaseRecord:
    """The base of a run and the method of its tuning.

    Attributes:
      path: of the checkpoint with the base.
      step: of that checkpoint.
      digest: of the base's parameters as they are in memory, see `base_digest`; '' if unknown.
      dtype: of the base in memory; '' if any will do.
      method: 'lora', 'prompt' or 'ia3'.
      rank: of LoRA; 0 for other methods.
      alpha: of LoRA.
      scale: the factor of LoRA's product.
      targets: the paths of the modules that arrays were added to, without numbers of layers.
      also_trained: the paths of arrays of the model that train as a whole, likewise.
      prompt_length: vectors of a prompt; 0 for other methods.
      prompt_init: what a prompt began as; '' for other methods.
    """

    path: str
    step: int
    digest: str
    dtype: str
    method: str
    rank: int
    alpha: float
    scale: float
    targets: list[str]
    also_trained: list[str]
    prompt_length: int = 0
    prompt_init: str = ""


def base_digest(params: Any) -> str:
    """Returns a digest of parameters: of each array's name, place and bits.

    It is the same on any mesh, and for stacked and unstacked layers.
    """
    hashes = {name: _hashes(leaf, "layers" in name.split("/")) for name, leaf in _named(params)}
    values = {}
    for name, per_layer in jax.device_get(hashes).items():
        if per_layer.ndim == 1:
            values[name] = per_layer.tolist()
            continue
        before, after = name.split("layers/", 1)
        for i, of_layer in enumerate(per_layer):
            values[f"{before}layers_{i}/{after}"] = of_layer.tolist()
    return digest(dict(sorted(values.items())))


def stored_digest(tensors: Mapping[str, Tensor], dtype: str) -> str:
    """Returns the digest that parameters on disk have in memory; one is read at a time.

    Args:
      tensors: by their names, unstacked.
      dtype: of the parameters in memory.
    """
    values = {
        name: _hashes(tensor.read().astype(dtype), False).tolist()
        for name, tensor in tensors.items()
    }
    return digest(dict(sorted(values.items())))


def _named(params: Any) -> list[tuple[str, jax.Array]]:
    return list(stacking.named(params).items())


@jax.jit(static_argnums=1)
def _hashes(leaf: jax.Array, is_stacked: bool) -> jax.Array:
    """Two hashes of an array, uint32 [2]; of a stack of layers [N, 2]."""

    def both(x: jax.Array) -> jax.Array:
        return jax.numpy.stack([array_hash(x, np.uint32(seed)) for seed in (1, 2)])

    return jax.vmap(both)(leaf) if is_stacked else both(leaf)


def record_of(tuning: Tuning, path: str, step: int, base: Any) -> BaseRecord:
    """Returns the record of a run.

    Args:
      tuning: of the run.
      path: of the checkpoint with the base.
      step: of that checkpoint.
      base: its parameters, on the mesh.
    """
    settings = _settings(tuning, str(jax.tree.leaves(base)[0].dtype))
    path = str(run_directory.absolute(path))
    return BaseRecord(path=path, step=step, digest=base_digest(base), **settings)


def _settings(tuning: Tuning, dtype: str) -> dict[str, Any]:
    """Returns the fields of a record that the settings give."""
    config = tuning.config
    is_lora = config.method == "lora"
    start = config.prompt_init if config.method == "prompt" else ""
    if start and is_prompt_file(start):
        start = str(run_directory.absolute(start))
    return {
        "dtype": dtype,
        "method": str(config.method),
        "rank": config.lora_rank if is_lora else 0,
        "alpha": config.lora_alpha if is_lora else 0.0,
        "scale": config.scale if is_lora else 1.0,
        "targets": tuning.modules,
        "also_trained": sorted(set(map(plain, tuning.also_trained))),
        "prompt_length": config.prompt_tokens,
        "prompt_init": start,
    }


def find(checkpoint: str | os.PathLike) -> BaseRecord | None:
    """Returns the record of the run that a checkpoint belongs to; None if all its parameters train.

    Raises:
      UserError: if the record is damaged.
    """
    file = run_directory.run_of(located(checkpoint)) / FILE
    if not file.is_file():
        return None
    values = read_json(file, advice=_ADVICE)
    with readable(file, _ADVICE):
        return BaseRecord(
            **{
                field.name: values[field.name]
                for field in dataclasses.fields(BaseRecord)
                if field.name in values or field.default is dataclasses.MISSING
            }
        )


def place_of(record: BaseRecord, directory: object) -> tuple[str, int | None]:
    """Returns the path of a base and its step, None where it has one only.

    Args:
      record: of a run.
      directory: of the run, for messages.

    Raises:
      UserError: if there is nothing at the path.
    """
    if not located(record.path).exists():
        raise UserError(
            f"{directory} tunes the model of {record.path}, which is not there; put it back, or "
            f"correct the path in {os.path.join(str(directory), FILE)}."
        )
    return record.path, chosen_step(record.path, record.step)


def chosen_step(path: str, step: int | None) -> int | None:
    """Returns the step that is to be chosen of a path: None where it is a single checkpoint."""
    return step if (located(path) / run_directory.CHECKPOINTS).is_dir() else None


def keep(directory: pathlib.Path, record: BaseRecord, is_new: bool) -> None:
    """Writes the record at the start of a run; compares the base when the run is resumed.

    Args:
      directory: of the run.
      record: of the present settings and base.
      is_new: whether the run has no checkpoint yet.

    Raises:
      UserError: if the run was begun with another base.
    """
    before = None if is_new else find(directory)
    if before is not None:
        check_digest(before, record.digest, record.path, directory)
    if jax.process_index() == 0:
        write(directory, record)


def write(directory: pathlib.Path, record: BaseRecord) -> None:
    """Writes the record of a run into its directory."""
    write_file(directory / FILE, json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def check_settings(directory: pathlib.Path, tuning: Tuning, dtype: str) -> None:
    """Compares the record of a run that is resumed with the present settings.

    Raises:
      UserError: if they differ, or the one tunes all parameters and the other does not.
    """
    before = find(directory)
    if before is None and tuning.is_full:
        return
    if before is None or tuning.is_full:
        method = before.method if before else None
        raise UserError(
            f"MODEL_DIR {str(directory)!r} holds a run with PEFT={method!r}, and the settings give "
            f"PEFT={tuning.config.method!r}; use the settings it began with, or another MODEL_DIR "
            f"(a run with PEFT has {FILE}: if it was removed, put it back)."
        )
    for name, value in _settings(tuning, dtype).items():
        if getattr(before, name) != value:
            raise UserError(
                f"MODEL_DIR {str(directory)!r} holds a run whose {name} is "
                f"{shown(getattr(before, name))} (see {FILE} there), and the settings give "
                f"{shown(value)}; use the settings it began with, or another MODEL_DIR."
            )


def check_digest(record: BaseRecord, found: str, path: str, directory: object) -> None:
    """Checks that a base is the one that a run began with.

    Raises:
      UserError: if it is not.
    """
    if record.digest and record.digest != found:
        raise UserError(
            f"{path} is not the base that {directory} was tuned on: its parameters (as "
            f"{record.dtype}) have the digest {found[:12]}, and {FILE} there says "
            f"{record.digest[:12]}; give the base it began with ({record.path})."
        )
