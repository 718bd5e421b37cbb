"""`config.gin` of a run: the settings of its last start, and what has changed since."""

from __future__ import annotations

import pathlib
import re

from flan_jax.storage.files import readable

FILE = "config.gin"


def read_config(directory: pathlib.Path) -> str:
    """Returns the text of the `config.gin` that the last start wrote; empty without the file.

    Raises:
      UserError: if it is damaged.
    """
    path = directory / FILE
    with readable(path, "move it away: it is written again"):
        return path.read_text(encoding="utf-8") if path.exists() else ""


def changed_settings(before: str, now: str) -> list[str]:
    """Returns the settings that differ between two `config.gin`, as 'NAME = old -> new'.

    The list is empty if `before` is.
    """
    old, new = _settings(before), _settings(now)
    names = dict.fromkeys([*old, *new]) if old else ()
    values = [(name, old.get(name, "not set"), new.get(name, "not set")) for name in names]
    return [f"{name} = {was} -> {is_now}" for name, was, is_now in values if was != is_now]


def _settings(text: str) -> dict[str, str]:
    """Returns values by name; gin writes long values on indented lines of their own."""
    bindings = re.findall(r"^([A-Za-z][\w./]*) = (.*(?:\n +.*)*)", text, re.M)
    return {
        name: re.sub(r"\s*\n +", " ", value.removeprefix("\\")).strip() for name, value in bindings
    }
