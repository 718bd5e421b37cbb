"""T5X's checkpoints: its own format is read and written, its Orbax form is read.

Own format: `checkpoint_<step>/checkpoint` is a msgpack index beside one zarr directory per array.
The index is a nested dict; a leaf is either the array itself (Flax's msgpack extension: scalars,
and the slots that T5X does not shard) or the tensorstore spec of the array's directory, its path
relative to the checkpoint. Layouts are those of T5X's `checkpoints.py`, version 3; Roberts et al.,
Scaling Up Models and Data with t5x and seqio, 2022.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from flan_jax.checkpoints.formats import orbax_files
from flan_jax.checkpoints.formats.scanned_layers import unstack_scanned
from flan_jax.checkpoints.formats.zarr_chunks import check_array, check_sizes
from flan_jax.checkpoints.formats.zarr_files import (
    chunk_shape,
    file_store,
    open_arrays,
    write_array,
)
from flan_jax.checkpoints.reader import CheckpointReader, Tensor, cast
from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.storage.files import readable
from flan_jax.storage.paths import inside

_VERSION = 3
_COMPRESSOR = {"id": "gzip", "level": 1}
SLOTS = ("v", "v_row", "v_col")  # of Adafactor


def is_t5x(path: pathlib.Path) -> bool:
    """Returns whether `path` is a checkpoint of T5X, in its own format or in its Orbax form."""
    return (path / "checkpoint").is_file() or _is_orbax(path)


def find_t5x(path: pathlib.Path, step: int | str | None = None) -> pathlib.Path | None:
    """Returns `path` if it is a checkpoint of T5X, else that of a step in it, or None.

    Args:
      path: a checkpoint, or a directory of several.
      step: a step's number; None for the latest.

    Raises:
      UserError: if there are checkpoints, but none of this step.
    """
    if is_t5x(path):
        return path
    steps = {
        int(child.name.removeprefix("checkpoint_")): child
        for child in path.glob("checkpoint_*")
        if child.name.removeprefix("checkpoint_").isdecimal() and is_t5x(child)
    }
    if not steps:
        return None
    if step is None:
        return steps[max(steps)]
    if step not in steps:
        raise UserError(
            f"no step {step} found in {shown(path)}; it has the steps {listed(sorted(steps))}."
        )
    return steps[step]


def open_t5x(path: pathlib.Path) -> CheckpointReader:
    """Returns the opened checkpoint; its `config` is None.

    Raises:
      UserError: when `path` is not such a checkpoint.
    """
    step, parameters, slots = _open(path)
    tensors = unstack_scanned(parameters, path)
    if slots and tensors.keys() != parameters.keys():
        # The second moments of scanned layers are factored over the layers too: they have no
        # counterpart here.
        slots = None
    return CheckpointReader(path, step, tensors, slots=slots)


def write_t5x(
    directory: pathlib.Path,
    checkpoint: CheckpointReader,
    dtype: np.dtype | None,
    progress: Callable[[str], None],
) -> None:
    """Writes `directory/checkpoint_<step>`, one array at a time, the index last.

    Args:
      directory: it exists.
      checkpoint: the model; optimizer slots, where it has them, are Adafactor's, and are written
        in float32.
      dtype: of the parameters; None keeps theirs.
      progress: called with the name of each parameter.
    """
    place = directory / f"checkpoint_{checkpoint.step}"
    index: dict[tuple[str, ...], Any] = {("state", "step"): np.asarray(checkpoint.step, np.int32)}
    for name, tensor in checkpoint.tensors.items():
        index["target", *name.split("/")] = _write(
            place, f"target/{name}", cast(tensor.read(), dtype or tensor.dtype)
        )
        progress(name)
    for name in checkpoint.tensors if checkpoint.slots is not None else ():
        slots = {slot: checkpoint.slots[f"{slot}/{name}"].read() for slot in SLOTS}
        for slot, value in {"m": np.zeros(1, np.float32), **slots}.items():
            inline = slot != "v" or value.shape == (1,)
            key = ("state", "param_states", *name.split("/"), slot)
            index[key] = np.asarray(value) if inline else _write(place, "/".join(key), value)
    place.mkdir(parents=True, exist_ok=True)
    contents = {"version": _VERSION, "optimizer": _sorted(traverse_util.unflatten_dict(index))}
    (place / "checkpoint").write_bytes(serialization.msgpack_serialize(contents, in_place=True))


def _write(place: pathlib.Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """Writes an array below `place`; returns its entry in the index."""
    directory = name.replace("/", ".")
    chunk = chunk_shape(array.shape, array.dtype.itemsize)
    write_array(place / directory, array, chunk, _COMPRESSOR)
    metadata = {
        "chunks": chunk,
        "compressor": dict(_COMPRESSOR),
        "shape": list(array.shape),
    }
    return {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "file", "path": f"{directory}/"},
        "metadata": metadata,
    }


def _sorted(tree: Any) -> Any:
    """Nested dicts with sorted keys, as in T5X's index; the keys of a spec keep their order."""
    if not isinstance(tree, dict) or "driver" in tree:
        return tree
    return {key: _sorted(tree[key]) for key in sorted(tree)}


def _is_orbax(path: pathlib.Path) -> bool:
    return (path / "state" / "_METADATA").is_file() and not (path / "params").is_dir()


def _open(path: pathlib.Path) -> tuple[int, dict[str, Tensor], dict[str, Tensor] | None]:
    """(step, parameters, slots by `<slot>/<parameter>` or None)."""
    if _is_orbax(path):
        flat: Mapping[str, Tensor] = orbax_files.open_tree(path / "state")
    elif (path / "checkpoint").is_file():
        flat = _open_index(path)
    else:
        raise UserError(
            f"{path} is not a T5X checkpoint (it has no file `checkpoint`): give a directory "
            "`checkpoint_<step>`."
        )
    parameters = {
        name.removeprefix("target/"): tensor
        for name, tensor in flat.items()
        if name.startswith("target/")
    }
    slots = {}
    for name, tensor in flat.items():
        parameter, _, slot = name.removeprefix("state/param_states/").rpartition("/")
        if name.startswith("state/param_states/") and slot in SLOTS:
            slots[f"{slot}/{parameter}"] = tensor
    with readable(path):
        step = int(flat["state/step"].read().item())
        if not 0 <= step < 2**62:
            raise ValueError(f"its step is {step}")
    return step, parameters, slots or None


def _open_index(path: pathlib.Path) -> dict[str, Tensor]:
    file = inside(path, "checkpoint", path / "checkpoint")
    with readable(file):
        contents = serialization.msgpack_restore(file.read_bytes())
        leaves = dict(_leaves(contents["optimizer"]))
    directories = {
        name: _array_directory(leaf, name, path) for name, leaf in leaves.items() if _is_spec(leaf)
    }
    stored = {name: (file_store(place), place) for name, place in directories.items()}
    opened = open_arrays(stored)
    for name, tensor in opened.items():
        _check_leaf(leaves[name], tensor, directories[name])
    tensors = {
        name: opened[name] if name in opened else _in_memory(leaf, name, path)
        for name, leaf in leaves.items()
    }
    check_sizes(
        (math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values()), path
    )
    return tensors


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dicts by their path."""
    if not isinstance(node, dict) or _is_spec(node):
        yield name, node
        return
    for key, child in node.items():
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} in {name} is not a text")
        yield from _leaves(child, f"{name}/{key}" if name else key)


def _is_spec(node: Any) -> bool:
    return isinstance(node, dict) and "driver" in node


def _array_directory(leaf: Any, name: str, path: pathlib.Path) -> pathlib.Path:
    """Returns the directory of an array; all of its chunks are there."""
    with readable(path / "checkpoint"):
        directory = inside(path, leaf["kvstore"]["path"], path / "checkpoint")
        if leaf["driver"] != "zarr":
            raise ValueError(f"{name} has the driver {leaf['driver']!r}")
    check_array(directory)
    return directory


def _check_leaf(leaf: Any, tensor: Tensor, directory: pathlib.Path) -> None:
    """Checks an array against what the index says of it."""
    with readable(directory):
        shape = leaf.get("metadata", {}).get("shape", tensor.shape)
        dtype = leaf.get("dtype", tensor.dtype.name)
        if tuple(shape) != tensor.shape or dtype != tensor.dtype.name:
            raise ValueError(
                f"the index has {tuple(shape)} {dtype}, its own metadata {tensor.shape} "
                f"{tensor.dtype}"
            )


def _in_memory(leaf: Any, name: str, path: pathlib.Path) -> Tensor:
    """Returns an array that is in the index itself."""
    with readable(path / "checkpoint"):
        array = _numbers(leaf, name)
    return Tensor(array.shape, array.dtype, lambda: array)


def _numbers(leaf: Any, name: str) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiuV" or array.dtype.hasobject:  # V: bfloat16
        raise ValueError(f"{name} is {quoted(leaf)}")
    return array
