"""A checkpoint of any form, opened: what its model is, and its tensors by our names, none of them
in memory yet.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flan_jax.checkpoints.parameters import Shapes, sizes_of
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import readable

_LISTED = 60  # tensors in a message
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Tensor(NamedTuple):
    """A tensor on disk. `open` gives what can be sliced and made an array, such as a memory map;
    `file` is where.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    open: Callable[[], Any]
    file: str = "memory"

    def read(self, index=...) -> np.ndarray:
        """The tensor, or the part of it at `index`.

        Raises:
          UserError: if its file cannot be read.
        """
        with readable(self.file):
            return np.asarray(self.open()[index])

    def transposed(self) -> Tensor:
        """The same matrix with its axes exchanged, still on disk."""
        return self._replace(shape=self.shape[::-1], open=lambda: self.open().T)

    def layer(self, axis: int, i: int) -> Tensor:
        """Layer `i` of a tensor that holds all layers along `axis`."""
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        return self._replace(shape=shape, open=lambda: self.open()[(slice(None),) * axis + (i,)])


@dataclasses.dataclass
class Source:
    """An opened checkpoint.

    Attributes:
      path: where it is.
      step: updates it has seen (0 where its form does not say).
      tensors: parameters by the path in our tree, unstacked:
        `encoder/layers_0/attention/query/kernel`.
      model: 't5' or 'decoder'; None while nobody has told (`load.open_checkpoint` does).
      fields: of `T5Config` or `DecoderConfig`, `vocab_size` included.
      slots: Adafactor's, by `v/<parameter>`, `v_row/<parameter>` and `v_col/<parameter>`; None if
        there are none.
      tokenizer: the files of its tokenizer, by name; filled by who asks for them.
      notes: what the reader should know, one sentence each.
    """

    path: pathlib.Path
    step: int
    tensors: dict[str, Tensor]
    model: str | None = None
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    slots: dict[str, Tensor] | None = None
    tokenizer: dict[str, bytes] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def check_tensors(
    found: Shapes, expected: Shapes, path, advice: str, lists_all: bool = False
) -> None:
    """Compares the shapes of a checkpoint's tensors, by name, with those that its model has.

    Raises:
      UserError: one sentence that says which sizes differ, names three tensors, and ends with
        `advice`; or, with `lists_all`, the tensors that are missing, unexpected or of another
        shape, one a line, 60 at most.
    """
    lines = [f"missing: {name}" for name in expected if name not in found]
    lines += [f"unexpected: {name}" for name in found if name not in expected]
    lines += [
        f"of another shape: {name}: {tuple(found[name])} there, {tuple(shape)} here"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if lines and lists_all:
        more = [f"and {len(lines) - _LISTED:,} more"] if len(lines) > _LISTED else []
        raise UserError(
            "\n  ".join(
                [
                    f"The checkpoint {path} is of another model; {advice}",
                    *(shown(line) for line in lines[:_LISTED]),
                    *more,
                ]
            )
        )
    if lines:
        more = [f"and {len(lines) - 3:,} more"] if len(lines) > 3 else []
        reason = "; ".join(
            [*_other_sizes(found, expected), *(shown(line) for line in lines[:3]), *more]
        )
        raise UserError(f"The checkpoint {path} is of another model ({reason}); {advice}")


def _other_sizes(found: Shapes, expected: Shapes) -> list[str]:
    """'it has emb_dim 128, these gin files make 256', where both are of our models and their sizes
    differ.
    """
    (model, sizes), (wanted, wanted_sizes) = sizes_of(found), sizes_of(expected)
    if not (model and wanted):
        return []
    if model != wanted:
        return [f"it has ARCHITECTURE {model!r}, these gin files make {wanted!r}"]
    names = [name for name, size in wanted_sizes.items() if sizes.get(name, size) != size]
    theirs, ours = (
        ", ".join(f"{name} {of[name]}" for name in names) for of in (sizes, wanted_sizes)
    )
    return [f"it has {theirs}, these gin files make {ours}"] if names else []


def cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in C order and `dtype`; integers, such as step counts, stay what they are."""
    return np.ascontiguousarray(
        array if array.dtype.kind in "iu" else array.astype(dtype, order="C", copy=False)
    )
