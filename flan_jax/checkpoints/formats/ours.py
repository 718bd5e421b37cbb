"""Checkpoints of a run, `checkpoints/<step>/params` and `state`, read and written by array."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from flan_jax.checkpoints.formats import orbax_files
from flan_jax.checkpoints.reader import CheckpointReader, cast
from flan_jax.checkpoints.steps import checkpoint_path

_OPTIMIZER = "opt_state/"


def open_ours(path: pathlib.Path, step: int | str | None = None) -> CheckpointReader:
    """Returns the opened checkpoint of a run, or of one of its steps; its `config` is None.

    Raises:
      UserError: when there is none.
    """
    directory = pathlib.Path(checkpoint_path(path, step))
    tensors = orbax_files.open_tree(directory / "params")
    slots = None
    if (directory / "state" / "_METADATA").is_file():
        state = orbax_files.open_tree(directory / "state")
        slots = {
            name.removeprefix(_OPTIMIZER): tensor
            for name, tensor in state.items()
            if name.startswith(_OPTIMIZER) and name.count("/") > 1
        }
    number = int(directory.name) if directory.name.isdecimal() else 0
    return CheckpointReader(directory, number, tensors, slots=slots)


def write_ours(
    directory: pathlib.Path,
    checkpoint: CheckpointReader,
    dtype: np.dtype | None,
    progress: Callable[[str], None],
) -> None:
    """Writes `directory/checkpoints/<step>`; with optimizer slots a run can resume from it.

    Args:
      directory: it exists.
      checkpoint: the model.
      dtype: of the parameters; None keeps theirs.
      progress: called with the name of each parameter.
    """
    step_directory = directory / "checkpoints" / str(checkpoint.step)

    def parameters() -> Iterator[tuple[str, np.ndarray]]:
        for name, tensor in checkpoint.tensors.items():
            yield name, cast(tensor.read(), dtype or tensor.dtype)
            progress(name)

    def state() -> Iterator[tuple[str, np.ndarray]]:
        yield "step", np.int32(checkpoint.step)
        yield "opt_state/count", np.int32(checkpoint.step)
        for name, tensor in checkpoint.slots.items():
            yield f"{_OPTIMIZER}{name}", tensor.read()

    orbax_files.write_tree(step_directory / "params", parameters())
    if checkpoint.slots is not None:
        orbax_files.write_tree(step_directory / "state", state())
