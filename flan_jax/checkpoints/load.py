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
from flan_jax.checkpoints.check import advice_on, check_same_model, check_tensors
from flan_jax.checkpoints.located import located
from flan_jax.checkpoints.model_gin import fields_beside
from flan_jax.checkpoints.open import open_tensors
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.checkpoints.tuned import Tuned, open_tuned
from flan_jax.config import run_directory
from flan_jax.models.adapters import SCALE_IN, SCALE_OUT
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
    base: str | None = None,
) -> tuple[int, Any]:
    """Returns (step, parameters) of a checkpoint of any format.

    Each device's part of an array is read when the array is made, so that the host holds one part
    of one array at a time. A run with frozen parameters, or an adapter of Hugging Face, gives those
    of its base joined with what was trained: more arrays than `abstract` has.

    Args:
      path: as in `open_checkpoint`, or an adapter.
      abstract: a tree of ShapeDtypeStructs with the shapes, dtypes and shardings of the result; its
        layers may be stacked.
      step: as in `open_checkpoint`.
      config: as in `find_parameters`.
      bases: the base that was read last, by digest or path; what tunes the same one reads it once.
      base: as in `find_parameters`.

    Raises:
      UserError: as `find_parameters`.
    """
    tuned = open_tuned(path, step, otherwise=base)
    if tuned is None:
        return _load(*find_parameters(path, abstract, step, config), abstract)
    directory = run_directory.run_of(located(path))
    _check_base(tuned, directory, abstract, config)
    _log_notes(tuned.checkpoint)
    bases, key = {} if bases is None else bases, tuned.record.digest or tuned.record.path
    if key not in bases:
        bases.clear()  # where one base fits, two may not
        bases[key] = load_base(tuned.record, abstract, directory)
    whole = bases[key]
    trained = _trained_arrays(tuned.checkpoint, whole)
    frozen = {name: leaf for name, leaf in flat(whole).items() if name not in trained}
    return tuned.checkpoint.step, joined(nested(trained), nested(frozen), tuned.record.scale)


def _check_base(tuned: Tuned, directory: pathlib.Path, abstract: Any, config: Any) -> None:
    """Raises a UserError if the base of a run or of an adapter does not match the model."""
    path, step = base_record.place_of(tuned.record, directory)
    find_parameters(path, abstract, step, config)


def load_base(record: BaseRecord, abstract: Any, directory: pathlib.Path) -> Any:
    """Returns the parameters that a run tunes, as it had them in memory.

    Args:
      record: of the run.
      abstract: as in `load_parameters`; the dtype is that of the record, if it has one.
      directory: of the run, for messages.

    Raises:
      UserError: if they are gone, or others than the run began with.
    """
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, record.dtype or x.dtype, sharding=x.sharding),
        abstract,
    )
    path, step = base_record.place_of(record, directory)
    base = merged_into(abstract, load_parameters(path, abstract, step)[1])
    if record.digest:
        base_record.check_digest(record, base_record.base_digest(base), path, directory)
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


def _trained_arrays(checkpoint: CheckpointReader, base: Any) -> dict[str, jax.Array]:
    """Returns what was trained, float32, stacked as `base` is; adapters are replicated.

    Of a stack, some layers may have been trained only: the others have adapters without effect.
    """
    leaves = flat(base)
    counts = {
        match[1]: leaf.shape[0]
        for name, leaf in leaves.items()
        if (match := _STACKED.fullmatch(name))
    }
    by_name: dict[str, dict[int, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        number = re.search(r"layers_(\d+)", name)
        stacked = plain(name) if counts else name
        by_name.setdefault(stacked, {})[int(number[1]) if number else 0] = tensor
    arrays = {}
    for name, tensors in by_name.items():
        match, first = _STACKED.fullmatch(name), next(iter(tensors.values()))
        if match is None:
            arrays[name] = _make_array(_like(name, first.shape, leaves), [first], False)
        elif name in leaves and len(tensors) < counts[match[1]]:
            leaf = _like(name, (len(tensors), *first.shape), leaves)
            numbers = sorted(tensors)
            part = _make_array(leaf, [tensors[i] for i in numbers], True)
            arrays[name] = leaves[name].astype(np.float32).at[np.array(numbers)].set(part)
        else:
            layers = range(counts[match[1]])
            neutral = _without_effect(name, first.shape)
            leaf = _like(name, (len(layers), *first.shape), leaves)
            arrays[name] = _make_array(leaf, [tensors.get(i, neutral) for i in layers], True)
    return arrays


def _like(name: str, shape: tuple[int, ...], leaves: dict[str, Any]) -> jax.ShapeDtypeStruct:
    """The shape of an array that was trained, float32, with the sharding of the base's array."""
    sharding = leaves.get(name, next(iter(leaves.values()))).sharding
    if name not in leaves and isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)


def _without_effect(name: str, shape: tuple[int, ...]) -> Tensor:
    """An adapter that changes nothing."""
    value = 1 if name.endswith((SCALE_IN, SCALE_OUT)) else 0
    return Tensor(shape, np.dtype(np.float32), lambda: np.full(shape, value, np.float32))


def _load(checkpoint: CheckpointReader, leaves: dict[str, Any], abstract: Any) -> tuple[int, Any]:
    _log_notes(checkpoint)
    arrays = []
    for name, leaf in leaves.items():
        tensors = [checkpoint.tensors[unstacked] for unstacked in _unstacked(name, leaf.shape)]
        arrays.append(_make_array(leaf, tensors, _STACKED.fullmatch(name) is not None))
    return checkpoint.step, jax.tree.unflatten(jax.tree.structure(abstract), arrays)


def _log_notes(checkpoint: CheckpointReader) -> None:
    if jax.process_index() == 0:
        for note in checkpoint.notes:
            _log.info("note: %s", note)


def find_parameters(
    path: str | os.PathLike,
    abstract: Any,
    step: int | str | None = None,
    config: Any = None,
    base: str | None = None,
) -> tuple[CheckpointReader, dict[str, Any]]:
    """Returns (checkpoint, the leaves of `abstract` by name), checked before a tensor is read.

    Args:
      path: as in `open_checkpoint`.
      abstract: as in `load_parameters`.
      step: as in `open_checkpoint`.
      config: the model's `T5Config` or `DecoderConfig`, compared with the checkpoint's own files.
      base: a checkpoint of the base of an adapter, where the adapter names none that is here.

    Raises:
      UserError: if there is no checkpoint, or it does not match the model.
    """
    leaves = named(abstract)
    tuned = open_tuned(path, step, otherwise=base)
    if tuned is not None:
        directory = run_directory.run_of(located(path))
        _check_base(tuned, directory, abstract, config)
        return tuned.checkpoint, leaves
    checkpoint = open_tensors(path, step=step)
    expected: dict[str, tuple[int, ...]] = {}
    for name, leaf in leaves.items():
        expected |= _unstacked(name, leaf.shape)
    stored = checkpoint.shapes
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
