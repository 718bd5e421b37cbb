"""Layers that T5X scanned: one array for all layers of a stack, unstacked here into one per layer.

T5X's `scalable_t5` names a stack twice (`encoder/encoder/attention/query/kernel`) and has its
layers along axis 1 (`param_scan_axis`); a tree of ours in memory has `encoder/layers/...` and the
layers along axis 0.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np

from flan_jax.checkpoints.reader import Tensor
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown

_STACKED = re.compile(r"(encoder|decoder)/(\1|layers)/(.+)")


def unstack_scanned(tensors: dict[str, Tensor], path: pathlib.Path) -> dict[str, Tensor]:
    """Returns the tensors by their unstacked names, `encoder/layers_0/...`.

    Those that are unstacked already stay. Layers of one name follow each other, and the last array
    is kept: reading in this order reads each array once.

    Args:
      tensors: by the names in the checkpoint.
      path: the checkpoint, for messages.

    Raises:
      UserError: when arrays of a stack have different numbers of layers; when a table that all
        layers share here is read, and differs between layers.
    """
    _check_counts(tensors, path)
    result: dict[str, Tensor] = {}
    last_array = _LastArray()
    for name, tensor in tensors.items():
        match = _STACKED.fullmatch(name)
        if not match:
            result[name] = tensor
            continue
        stack, level, rest = match.groups()
        axis = _layer_axis(tensors, stack, level)
        whole = last_array.wrap(name, tensor)
        if rest == "relpos_bias/rel_embedding":
            result[f"{stack}/{rest}"] = _shared(whole, axis, name, path)
        else:
            for i in range(tensor.shape[axis]):
                result[f"{stack}/layers_{i}/{rest}"] = whole.layer(axis, i)
    return result


def _check_counts(tensors: dict[str, Tensor], path: pathlib.Path) -> None:
    """Raises UserError unless all arrays of a stack have the same number of layers.

    Otherwise one array could claim a billion.
    """
    counts: dict[str, set[int]] = {}
    for name, tensor in tensors.items():
        match = _STACKED.fullmatch(name)
        if match:
            stack, level = match[1], match[2]
            axis = _layer_axis(tensors, stack, level)
            counts.setdefault(f"{stack}/{level}", set()).add(tensor.shape[axis])
    for prefix, numbers in counts.items():
        if len(numbers) > 1:
            raise UserError(
                f"{shown(path)} has {listed(sorted(numbers))} layers in the arrays of {prefix}, "
                "which should have the same number; download or copy it again."
            )


class _LastArray:
    """Keeps the array that was read last."""

    def __init__(self):
        self._name: str | None = None
        self._array: Any = None

    def wrap(self, name: str, tensor: Tensor) -> Tensor:
        """Returns the tensor; reading it again, with no other read between, reads no file."""

        def read() -> np.ndarray:
            if self._name != name:
                self._array = None  # Freed before the next one is read.
                self._name, self._array = name, tensor.read()
            return self._array

        return tensor._replace(open=read)


def _layer_axis(tensors: dict[str, Tensor], stack: str, level: str) -> int:
    """The axis of the layers.

    Norm scales are [D, N] or [N, D], and the last norm shows D.
    """
    if level != stack:
        return 0
    last = ("encoder_norm/scale", "decoder_norm/scale")
    width = next(tensor.shape[0] for name, tensor in tensors.items() if name.endswith(last))
    scale = next(
        tensor.shape
        for name, tensor in tensors.items()
        if name.startswith(f"{stack}/{level}") and name.endswith("norm/scale")
    )
    return 1 if scale[0] == width else 0


def _shared(whole: Tensor, axis: int, name: str, path: pathlib.Path) -> Tensor:
    """The one table of a stack whose layers each have a copy."""

    def read() -> np.ndarray:
        first, *others = np.moveaxis(whole.read(), axis, 0)
        if any(not np.array_equal(first, other) for other in others):
            raise UserError(
                f"{shown(path)} has another position table in each layer ({name}), but here all "
                "layers of a stack share one; convert a checkpoint of T5X's `t5` example network "
                "instead."
            )
        return first

    return whole.layer(axis, 0)._replace(open=read)
