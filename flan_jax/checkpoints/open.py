"""Opening a checkpoint of any format."""

from __future__ import annotations

import os
import pathlib

from flan_jax.checkpoints.formats.adapter_config import is_adapter
from flan_jax.checkpoints.formats.gguf import is_gguf, open_gguf
from flan_jax.checkpoints.formats.huggingface import is_huggingface, open_huggingface
from flan_jax.checkpoints.formats.ours import open_ours
from flan_jax.checkpoints.formats.t5x import find_t5x, open_t5x
from flan_jax.checkpoints.located import located
from flan_jax.checkpoints.model_config import infer_config
from flan_jax.checkpoints.model_gin import fields_beside
from flan_jax.checkpoints.reader import CheckpointReader
from flan_jax.config.run_directory import HUB, PACKAGE
from flan_jax.errors import UserError
from flan_jax.storage.files import readable


def open_checkpoint(
    path: str | os.PathLike, format: str | None = None, step: int | str | None = None
) -> CheckpointReader:
    """Returns the opened checkpoint, with the configuration of its model.

    What the shapes of its tensors do not show is read from a `model.gin` or `config.gin` beside it.

    Args:
      path: a checkpoint, or a directory of several.
      format: one of FORMATS; by default the one that its files show.
      step: which one of several: a number, 'best' of a run, None for the latest.

    Raises:
      UserError: if there is none of that format, one that is not whole, or one of a model that is
        not supported.
    """
    checkpoint = open_tensors(path, format, step)
    if checkpoint.config is None:
        known = fields_beside(checkpoint.path)
        checkpoint.config = infer_config(checkpoint.shapes, known, checkpoint.path)
    return checkpoint


def open_tensors(
    path: str | os.PathLike, format: str | None = None, step: int | str | None = None
) -> CheckpointReader:
    """Returns the opened checkpoint; its `config` is None where its format has no configuration.

    Raises:
      UserError: as `open_checkpoint`.
    """
    path = located(path)
    with readable(path):
        if not path.exists():
            hint = (
                "give a model by its name as MODEL"
                if str(path).startswith((HUB, PACKAGE))
                else "check the path"
            )
            raise UserError(f"no checkpoint found at {path}; {hint}.")
        return _open(path, format or detect_format(path), step)


def _open(path: pathlib.Path, format: str, step: int | str | None) -> CheckpointReader:
    if format in ("gguf", "hf") and step is not None:
        raise UserError(f"{path} is one checkpoint and has no steps; leave --step={step} out.")
    if format == "gguf":
        if not is_gguf(path):
            raise UserError(f"{path} is not a GGUF file; give the path of one.")
        return open_gguf(path)
    if format == "hf":
        if not is_huggingface(path):
            raise UserError(
                f"{path} has no config.json; give the directory of a Hugging Face model."
            )
        return open_huggingface(path)
    if format == "peft":
        raise UserError(
            f"{path} is not a whole model but an adapter, if anything; `flan-jax convert` merges "
            "an adapter into its base: --to=flan."
        )
    if format == "t5x":
        return open_t5x(find_t5x(path, step) or path)
    return open_ours(path, step)


def detect_format(path: pathlib.Path) -> str:
    """Returns the format of a checkpoint by its files; 'flan' where it is none of the others.

    Raises:
      UserError: if they cannot be read.
    """
    with readable(path):
        if is_gguf(path):
            return "gguf"
        if is_adapter(path):
            return "peft"
        if is_huggingface(path):
            return "hf"
        return "t5x" if find_t5x(path) else "flan"
