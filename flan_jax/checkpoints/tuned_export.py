"""What was trained beside a frozen base, written without the base: as a run of ours, for peft."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import ml_dtypes
import numpy as np

from flan_jax.checkpoints import base_record
from flan_jax.checkpoints.formats import huggingface_peft, huggingface_prompt, ours
from flan_jax.checkpoints.formats.huggingface import is_huggingface
from flan_jax.checkpoints.located import located
from flan_jax.checkpoints.provenance import cached_repository
from flan_jax.checkpoints.tuned import Tuned
from flan_jax.storage.copies import name_of


def write_run(
    directory: pathlib.Path, tuned: Tuned, dtype: np.dtype | None, progress: Callable[[str], None]
) -> None:
    """Writes `checkpoints/<step>` and `base.json`, which evaluation and generation read.

    Args:
      directory: it exists.
      tuned: what was trained, and its base.
      dtype: of the arrays; None keeps theirs.
      progress: called with the name of each array.
    """
    record = tuned.record
    if not record.digest:
        stored = {tensor.dtype for tensor in tuned.base.tensors.values()}
        kind = "bfloat16" if stored == {np.dtype(ml_dtypes.bfloat16)} else "float32"
        digest = base_record.stored_digest(tuned.base.tensors, kind)
        record = dataclasses.replace(record, digest=digest, dtype=kind)
    ours.write_ours(directory, tuned.checkpoint, dtype, progress)
    base_record.write(directory, record)


def write_peft(
    directory: pathlib.Path,
    tuned: Tuned,
    base_name: str | None,
    dtype: np.dtype | None,
    progress: Callable[[str], None],
) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`.

    Args:
      directory: it exists.
      tuned: what was trained, and its base.
      base_name: what peft loads as the base, a repository or a path; None for where it is.
      dtype: of the arrays; None keeps theirs.
      progress: called with the name of each array.

    Raises:
      UserError: for what peft has no counterpart of.
    """
    is_prompt = tuned.record.method == "prompt"
    write = huggingface_prompt.write_prompt if is_prompt else huggingface_peft.write_adapter
    write(
        directory,
        tuned.checkpoint,
        tuned.record,
        tuned.base,
        base_name or _base_name(tuned),
        dtype,
        progress,
    )


def _base_name(tuned: Tuned) -> str:
    """The repository of a base in the hub's cache, else the path of the base."""
    path = located(tuned.record.path).absolute()
    if not is_huggingface(path):
        tuned.checkpoint.notes.append(
            f"its base {name_of(path)} is not a directory of Hugging Face's form, which peft "
            "needs: convert it with --to=hf, and name that one with --base"
        )
    return cached_repository(path) or name_of(path)
