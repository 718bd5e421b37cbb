"""Where a checkpoint is read: on the disk, or where its small files are copied from a bucket."""

from __future__ import annotations

import os
import pathlib
import time

from flan_jax.data.vocabulary import TOKENIZER_FILES
from flan_jax.storage.copies import copy_of, fetch_all, is_small, origin, path_of
from flan_jax.storage.places import place

# Of the run or model that a step belongs to, in one of the directories above it.
_OF_RUN = ("config.gin", "model.gin", "base.json", "origin.json", "mixture.json", "run.json")
_LEVELS = 2
# A verb opens a checkpoint several times in a row.
_FRESH_S = 2.0

_copied: dict[pathlib.Path, float] = {}


def located(name: str | os.PathLike, setting: str = "checkpoint") -> pathlib.Path:
    """Returns the path of a checkpoint; of one in a bucket, that of a copy without its arrays.

    Its arrays are stand-ins: whoever opens one reads ranges of `copies.origin`.

    Args:
      name: a path, or the name of a checkpoint in a bucket.
      setting: what it was given as, for messages.

    Raises:
      UserError: if it is not a valid name, or the bucket cannot be read.
    """
    there = place(name, setting)
    if isinstance(there, pathlib.Path):
        return there
    path, now = path_of(there), time.monotonic()
    if now - _copied.get(path, -_FRESH_S) >= _FRESH_S:
        path = copy_of(there, is_small)
        _fetch_above(path)
        _copied[path] = now
    return path


def _fetch_above(path: pathlib.Path) -> None:
    """Copies what belongs to a checkpoint from the directories above it."""
    above = [parent for parent in path.parents[:_LEVELS] if origin(parent)]
    fetch_all(parent / name for parent in above for name in _OF_RUN)
    runs = [parent for parent in above if any((parent / name).is_file() for name in _OF_RUN)]
    fetch_all(parent / name for parent in runs for name in TOKENIZER_FILES)
