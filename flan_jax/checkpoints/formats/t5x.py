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
from flan_jax.checkpoints.formats.scanned import unscanned
from flan_jax.checkpoints.formats.zarr_chunks import check_array, check_sizes
from flan_jax.checkpoints.formats.zarr_files import chunk_shape, file_store, open_array, write_array
from flan_jax.checkpoints.reader import Source, Tensor, cast
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.storage.files import readable
from flan_jax.storage.paths import inside

_VERSION = 3
_COMPRESSOR = {"id": "gzip", "level": 1}
_SLOTS = ("v", "v_row", "v_col")


def is_t5x(path) -> bool:
    """Tells whether `path` is a checkpoint of T5X (`checkpoint_<step>`), in its own format or in
    its Orbax form.
    """
    path = pathlib.Path(path)
    return (path / "checkpoint").is_file() or _is_orbax(path)


def find_t5x(path: pathlib.Path, step: int | str | None = None) -> pathlib.Path | None:
    """`path` itself if it is a checkpoint of T5X, else that of `step` (the latest) in it, else
    None.
    """
    if is_t5x(path):
        return path
    found = {
        int(child.name.removeprefix("checkpoint_")): child
        for child in path.glob("checkpoint_*")
        if child.name.removeprefix("checkpoint_").isdecimal() and is_t5x(child)
    }
    if step is not None and found and step not in found:
        raise UserError(
            f"There is no step {step} in {shown(path)}; there is {listed(sorted(found))}."
        )
    return found[max(found) if step is None else step] if found else None


def open_t5x(path: pathlib.Path) -> Source:
    """The opened checkpoint, `model` and `fields` aside.

    Raises:
      UserError: when `path` is no such checkpoint.
    """
    step, parameters, slots = _open(path)
    tensors = unscanned(parameters, path)
    if slots and tensors.keys() != parameters.keys():
        # Of scanned layers the second moments are factored over the layers too: they have no
        # counterpart.
        slots = None
    return Source(path, step, tensors, slots=slots)


def write_t5x(
    directory: pathlib.Path, source: Source, dtype: np.dtype | None, progress: Callable[[str], None]
) -> None:
    """Writes `directory/checkpoint_<step>`, one array at a time, the index last.

    Parameters are stored in `dtype` (None: in theirs); the optimizer's slots, where the source has
    them, in float32.
    """
    place = directory / f"checkpoint_{source.step}"
    index: dict[tuple[str, ...], Any] = {("state", "step"): np.asarray(source.step, np.int32)}
    for name, tensor in source.tensors.items():
        index["target", *name.split("/")] = _write(
            place, f"target/{name}", cast(tensor.read(), dtype or tensor.dtype)
        )
        progress(name)
    for name in source.tensors if source.slots is not None else ():
        slots = {slot: source.slots[f"{slot}/{name}"].read() for slot in _SLOTS}
        for slot, value in {"m": np.zeros(1, np.float32), **slots}.items():
            inline = slot != "v" or value.shape == (1,)
            key = ("state", "param_states", *name.split("/"), slot)
            index[key] = np.asarray(value) if inline else _write(place, "/".join(key), value)
    place.mkdir(parents=True, exist_ok=True)
    contents = {"version": _VERSION, "optimizer": _sorted(traverse_util.unflatten_dict(index))}
    (place / "checkpoint").write_bytes(serialization.msgpack_serialize(contents, in_place=True))


def _write(place: pathlib.Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """Writes an array below `place`; gives its entry in the index."""
    directory = name.replace("/", ".")
    write_array(place / directory, array, _COMPRESSOR)
    metadata = {
        "chunks": chunk_shape(array.shape, array.dtype.itemsize),
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
    """Nested dicts with their keys in order, as T5X's index has them; the keys of a spec stay where
    they are.
    """
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
            f"{path} is no T5X checkpoint (no file `checkpoint` in it): give a directory "
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
        if name.startswith("state/param_states/") and slot in _SLOTS:
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
    tensors = {name: _leaf(leaf, name, path) for name, leaf in leaves.items()}
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


def _leaf(leaf: Any, name: str, path: pathlib.Path) -> Tensor:
    if not _is_spec(leaf):
        with readable(path / "checkpoint"):
            array = _numbers(leaf, name)
        return Tensor(array.shape, array.dtype, lambda: array)
    with readable(path / "checkpoint"):
        directory = inside(path, leaf["kvstore"]["path"], path / "checkpoint")
        if leaf["driver"] != "zarr":
            raise ValueError(f"{name} has the driver {leaf['driver']!r}")
    check_array(directory)
    with readable(directory):
        tensor = open_array(file_store(directory), leaf["driver"])
        shape, dtype = (
            leaf.get("metadata", {}).get("shape", tensor.shape),
            leaf.get("dtype", tensor.dtype.name),
        )
        if tuple(shape) != tensor.shape or dtype != tensor.dtype.name:
            raise ValueError(
                f"the index has {tuple(shape)} {dtype}, its own metadata {tensor.shape} "
                f"{tensor.dtype}"
            )
    return tensor


def _numbers(leaf: Any, name: str) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiuV" or array.dtype.hasobject:  # V: bfloat16
        raise ValueError(f"{name} is {shown(repr(leaf))}")
    return array
