"""The kinds of sources: each value of DATA_SOURCE and what opens it."""

from __future__ import annotations

from collections.abc import Callable

from flan_jax.data.sources.base import Source
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.hub import HubSource
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.data.sources.tfds import TfdsSource
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

# Value of DATA_SOURCE -> (DATA_DIR or None) -> the source.
_OPENERS: dict[str, Callable[[str | None], Source]] = {
    "tfds": TfdsSource,
    "hf": HubSource,
    "jsonl": JsonlSource,
    "bundled": BundledSource,
}
KINDS = tuple(_OPENERS)


def open_source(kind: str, data_dir: str | None = None) -> Source:
    """Returns the source that DATA_SOURCE and DATA_DIR name.

    Args:
      kind: one of `KINDS`.
      data_dir: its directory; None for its default.

    Raises:
      UserError: for an unknown kind, a directory that is missing, or one that has no effect.
    """
    if kind not in KINDS:
        near = did_you_mean(nearest(kind, KINDS), f"; it is one of {', '.join(KINDS)}.")
        raise UserError(f"unknown DATA_SOURCE {kind!r}{near}")
    return _OPENERS[kind](data_dir)
