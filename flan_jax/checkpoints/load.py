"""The parameters of a checkpoint of any format, read straight onto a mesh, array by array."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import jax
import numpy as np

from flan_jax.checkpoints.check import advice_on, check_same_model, check_tensors
from flan_jax.checkpoints.model_gin import fields_beside
from flan_jax.checkpoints.open import open_tensors
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.models.architectures import architecture_of, model_fields
from flan_jax.models.stacking import named

_STACKED = re.compile(r"(.+/)?layers/(.+)")

_log = logging.getLogger(__name__)


def load_parameters(
    path: str | os.PathLike, abstract: Any, step: int | str | None = None, config: Any = None
) -> tuple[int, Any]:
    """Returns (step, parameters) of a checkpoint of any format.

    Each device's part of an array is read when the array is made, so that the host holds one part
    of one array at a time.

    Args:
      path: as in `open_checkpoint`.
      abstract: a tree of ShapeDtypeStructs with the shapes, dtypes and shardings of the result; its
        layers may be stacked.
      step: as in `open_checkpoint`.
      config: as in `find_parameters`.

    Raises:
      UserError: as `find_parameters`.
    """
    checkpoint, leaves = find_parameters(path, abstract, step, config)
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
