"""The parameters of a checkpoint of any format, read straight onto a mesh, array by array."""

from __future__ import annotations

import logging
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from flan_jax.checkpoints import base_record
from flan_jax.checkpoints.base_record import BaseRecord
from flan_jax.checkpoints.check import advice_on, check_added, check_same_model, check_tensors
from flan_jax.checkpoints.model_gin import fields_beside
from flan_jax.checkpoints.open import open_tensors
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.config import run_directory
from flan_jax.errors import UserError
from flan_jax.models.architectures import architecture_of, model_fields
from flan_jax.models.stacking import named
from flan_jax.peft.merge import merged
from flan_jax.peft.module_paths import plain
from flan_jax.peft.tuning import flat, joined, nested

_STACKED = re.compile(r"(.+/)?layers/(.+)")

_log = logging.getLogger(__name__)


def load_parameters(
    path: str | os.PathLike,
    abstract: Any,
    step: int | str | None = None,
    config: Any = None,
    bases: dict[str, Any] | None = None,
) -> tuple[int, Any]:
    """Returns (step, parameters) of a checkpoint of any format.

    Each device's part of an array is read when the array is made, so that the host holds one part
    of one array at a time. A run with frozen parameters gives those of its base, as `base.json`
    names it, joined with what it trained: more arrays than `abstract` has.

    Args:
      path: as in `open_checkpoint`.
      abstract: a tree of ShapeDtypeStructs with the shapes, dtypes and shardings of the result; its
        layers may be stacked.
      step: as in `open_checkpoint`.
      config: as in `find_parameters`.
      bases: the base that was read last, by digest; runs that tune the same one read it once.

    Raises:
      UserError: as `find_parameters`.
    """
    record = base_record.find(path)
    if record is None:
        return _load(*find_parameters(path, abstract, step, config), abstract)
    checkpoint, _ = find_parameters(path, abstract, step, config)
    bases = {} if bases is None else bases
    if record.digest not in bases:
        bases.clear()  # where one base fits, two may not
        directory = run_directory.run_of(pathlib.Path(path))
        bases[record.digest] = load_base(record, abstract, directory)
    base = bases[record.digest]
    trained = _trained_arrays(checkpoint, abstract)
    frozen = {name: leaf for name, leaf in flat(base).items() if name not in trained}
    return checkpoint.step, joined(nested(trained), nested(frozen), record.scale)


def load_base(record: BaseRecord, abstract: Any, directory: pathlib.Path) -> Any:
    """Returns the parameters that a run tunes, as it had them in memory.

    Args:
      record: of the run.
      abstract: as in `load_parameters`; the dtype is that of the record.
      directory: of the run, for messages.

    Raises:
      UserError: if they are gone, or others than the run began with.
    """
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, record.dtype, sharding=x.sharding), abstract
    )
    if not os.path.exists(record.path):
        raise UserError(
            f"{directory} tunes the model of {record.path}, which is not there; put it back, or "
            f"correct the path in {directory / base_record.FILE}."
        )
    step = record.step if base_record.has_steps(record.path) else None
    base = merged_into(abstract, load_parameters(record.path, abstract, step)[1])
    base_record.check_digest(record, base_record.base_digest(base), record.path, directory)
    return base


def merged_into(abstract: Any, params: Any) -> Any:
    """Returns parameters with their adapters, if there are any, merged into the kernels.

    Args:
      abstract: shapes and shardings of the parameters of the model alone.
      params: as `load_parameters` returns them.

    Raises:
      UserError: for a prompt; see `peft.merge.merged`.
    """
    if jax.tree.structure(params) == jax.tree.structure(abstract):
        return params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(merged, out_shardings=shardings)(params)


def _trained_arrays(checkpoint: CheckpointReader, abstract: Any) -> dict[str, jax.Array]:
    """Returns what a run trained, float32, stacked as `abstract` is; adapters are replicated."""
    leaves = flat(abstract)
    is_stacked = any(_STACKED.fullmatch(name) for name in leaves)
    by_name: dict[str, list[Tensor]] = {}
    for name, tensor in sorted(checkpoint.tensors.items(), key=_place):
        by_name.setdefault(plain(name) if is_stacked else name, []).append(tensor)
    arrays = {}
    for name, tensors in by_name.items():
        stacked = _STACKED.fullmatch(name) is not None
        shape = (len(tensors), *tensors[0].shape) if stacked else tensors[0].shape
        like = leaves.get(name, next(iter(leaves.values())))
        sharding = like.sharding
        if name not in leaves and isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, PartitionSpec())
        leaf = jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)
        arrays[name] = _make_array(leaf, tensors, stacked)
    return arrays


def _place(item: tuple[str, Tensor]) -> list[int]:
    return [int(number) for number in re.findall(r"layers_(\d+)", item[0])]


def _load(checkpoint: CheckpointReader, leaves: dict[str, Any], abstract: Any) -> tuple[int, Any]:
    if jax.process_index() == 0:
        for note in checkpoint.notes:
            _log.info("note: %s", note)
    arrays = []
    for name, leaf in leaves.items():
        tensors = [checkpoint.tensors[unstacked] for unstacked in _unstacked(name, leaf.shape)]
        arrays.append(_make_array(leaf, tensors, _STACKED.fullmatch(name) is not None))
    return checkpoint.step, jax.tree.unflatten(jax.tree.structure(abstract), arrays)


def find_parameters(
    path: str | os.PathLike, abstract: Any, step: int | str | None = None, config: Any = None
) -> tuple[CheckpointReader, dict[str, Any]]:
    """Returns (checkpoint, the leaves of `abstract` by name), checked before a tensor is read.

    Args:
      path: as in `open_checkpoint`.
      abstract: as in `load_parameters`.
      step: as in `open_checkpoint`.
      config: the model's `T5Config` or `DecoderConfig`, compared with the checkpoint's own files.

    Raises:
      UserError: if there is no checkpoint, or it does not match the model.
    """
    checkpoint = open_tensors(path, step=step)
    leaves = named(abstract)
    expected: dict[str, tuple[int, ...]] = {}
    for name, leaf in leaves.items():
        expected |= _unstacked(name, leaf.shape)
    stored = checkpoint.shapes
    record = base_record.find(path)
    if record is not None:
        find_parameters(record.path, abstract, None, config)
        check_added(stored, expected, checkpoint.path)
        return checkpoint, leaves
    check_tensors(stored, expected, checkpoint.path, advice_on(stored, expected))
    if config is not None:
        check_same_model(_known_fields(checkpoint, config), config, checkpoint.path)
    return checkpoint, leaves


def _known_fields(checkpoint: CheckpointReader, config: Any) -> dict[str, Any]:
    """The fields of the model that the checkpoint's own files have."""
    architecture = architecture_of(config)
    if checkpoint.config is not None:
        if checkpoint.architecture != architecture:
            return {}
        return {name: getattr(checkpoint.config, name) for name in model_fields(architecture)}
    # Of one of ours the gin file beside it is its own; beside T5X's it is usually somebody's.
    is_ours = (checkpoint.path / "params").is_dir()
    return fields_beside(checkpoint.path).get(architecture, {}) if is_ours else {}


def _unstacked(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The parameters, unstacked, that an array in memory consists of, with their shapes."""
    match = _STACKED.fullmatch(name)
    if not match:
        return {name: tuple(shape)}
    return {f"{match[1] or ''}layers_{i}/{match[2]}": tuple(shape[1:]) for i in range(shape[0])}


def _make_array(leaf: jax.ShapeDtypeStruct, tensors: list[Tensor], is_stacked: bool) -> jax.Array:
    def read_part(index: tuple[slice, ...]) -> np.ndarray:
        if not is_stacked:
            return np.ascontiguousarray(tensors[0].read(index).astype(leaf.dtype))
        layers, within = tensors[index[0]], index[1:]
        sides = zip(within, leaf.shape[1:])
        shape = tuple(len(range(*part.indices(size))) for part, size in sides)
        result = np.empty((len(layers), *shape), leaf.dtype)
        for i, tensor in enumerate(layers):
            result[i] = tensor.read(within)
        return result

    if leaf.sharding is None:
        return jax.numpy.asarray(read_part((slice(None),) * len(leaf.shape)))
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, read_part)
