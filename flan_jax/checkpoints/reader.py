"""An opened checkpoint: the configuration of its model, and its tensors by our names, on disk."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flan_jax.models.architectures import architecture_of
from flan_jax.storage.files import readable

FORMATS = ("t5x", "hf", "gguf", "flan", "peft")
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Tensor(NamedTuple):
    """A tensor on disk.

    Attributes:
      shape: its shape.
      dtype: its dtype.
      open: returns what can be sliced and made an array, such as a memory map.
      file: the file it is read from, for messages.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    open: Callable[[], Any]
    file: str = "memory"

    def read(self, index: Any = ...) -> np.ndarray:
        """Returns the tensor, or the part of it at `index`.

        Raises:
          UserError: if its file cannot be read.
        """
        with readable(self.file):
            return np.asarray(self.open()[index])

    def transposed(self) -> Tensor:
        """Returns the same matrix with its axes exchanged, still on disk."""
        return self._replace(shape=self.shape[::-1], open=lambda: self.open().T)

    def layer(self, axis: int, i: int) -> Tensor:
        """Returns layer `i` of a tensor that has all layers along `axis`, still on disk."""
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        return self._replace(shape=shape, open=lambda: self.open()[(slice(None),) * axis + (i,)])


@dataclasses.dataclass
class CheckpointReader:
    """An opened checkpoint.

    Attributes:
      path: the checkpoint.
      step: the number of updates its parameters have had (0 where its format has no such number).
      tensors: parameters by the path in our tree, unstacked:
        `encoder/layers_0/attention/query/kernel`.
      config: the model's `T5Config` or `DecoderConfig`; None until `open_checkpoint` infers it,
        for formats without one.
      slots: of the optimizer, such as Adafactor's by `v/<parameter>`, `v_row/<parameter>` and
        `v_col/<parameter>`, or AdamW's by `mu/<parameter>` and `nu/<parameter>`; None if there are
        none.
      tokenizer: the files of its tokenizer, by name; empty until a caller adds them.
      notes: facts for the user, one sentence each.
      base: the checkpoint of the model that this one tunes, where it holds only what was trained.
    """

    path: pathlib.Path
    step: int
    tensors: dict[str, Tensor]
    config: Any = None
    slots: dict[str, Tensor] | None = None
    tokenizer: dict[str, bytes] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    base: pathlib.Path | None = None

    @property
    def architecture(self) -> str:
        """The architecture of `config`: 't5' or 'decoder'."""
        return architecture_of(self.config)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns the array in C order and `dtype`; integers, such as step counts, keep theirs."""
    if array.dtype.kind not in "iu":
        array = array.astype(dtype, order="C", copy=False)
    return np.ascontiguousarray(array)
