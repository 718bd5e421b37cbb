"""Our own checkpoints, `checkpoints/<step>/params` (and `state`): opened array by array, and
written so.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np

from flan_jax.checkpoints.formats import orbax_files
from flan_jax.checkpoints.manager import checkpoint_path
from flan_jax.checkpoints.reader import Source, cast

_OPTIMIZER = "opt_state/"


def open_ours(path: pathlib.Path, step: int | str | None = None) -> Source:
    """The opened checkpoint of a run, or of one of its steps, `model` and `fields` aside.

    Raises:
      UserError: when there is none.
    """
    place = pathlib.Path(checkpoint_path(path, step))
    tensors = orbax_files.open_tree(place / "params")
    slots = None
    if (place / "state" / "_METADATA").is_file():
        state = orbax_files.open_tree(place / "state")
        slots = {
            name.removeprefix(_OPTIMIZER): tensor
            for name, tensor in state.items()
            if name.startswith(_OPTIMIZER) and name.count("/") > 1
        }
    found = int(place.name) if place.name.isdecimal() else 0
    return Source(place, found, tensors, slots=slots)


def write_ours(
    directory: pathlib.Path, source: Source, dtype: np.dtype | None, progress: Callable[[str], None]
) -> None:
    """Writes `directory/checkpoints/<step>`; with the source's slots it holds a state that a run
    resumes from.
    """
    place = directory / "checkpoints" / str(source.step)

    def parameters():
        for name, tensor in source.tensors.items():
            yield name, cast(tensor.read(), dtype or tensor.dtype)
            progress(name)

    def state():
        yield "step", np.int32(source.step)
        yield "opt_state/count", np.int32(source.step)
        for name, tensor in source.slots.items():
            yield f"{_OPTIMIZER}{name}", tensor.read()

    orbax_files.write_tree(place / "params", parameters())
    if source.slots is not None:
        orbax_files.write_tree(place / "state", state())
