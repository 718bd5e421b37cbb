"""Settings in files of other programs (config.json, GGUF), each read with its type and bounds.

A number is used only after it was checked against what the file's tensors allow: a count of three
billion layers would fill the memory before a tensor turns out to be missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import shown

_MOST = 2**31 - 1  # of any size or count
_MISSING = object()


class ConfigReader:
    """The settings of one file; one that is null counts as absent, as `transformers` writes it.

    Args:
      values: the settings by name.
      path: the file, for messages.
    """

    def __init__(self, values: dict[str, Any], path: object):
        self.values, self.path = values, path

    def whole(self, name: str, default: Any = _MISSING, least: int = 1, most: int = _MOST) -> Any:
        """Returns a whole number from `least` to `most`, or the default where it is absent.

        Raises:
          UserError: if it is absent and has no default, or is something else.
        """
        return self._read(
            name,
            default,
            lambda value: type(value) is int and least <= value <= most,
            f"a whole number from {least:,} to {most:,}",
        )

    def number(self, name: str, default: Any = _MISSING) -> Any:
        """Returns a finite number above 0 as a float, or the default where it is absent.

        Raises:
          UserError: if it is absent and has no default, or is something else.
        """
        value = self._read(name, default, _is_positive, "a number above 0")
        return float(value) if _is_positive(value) else value

    def numbers(self, name: str) -> list[float]:
        """Returns a list of finite numbers above 0.

        Raises:
          UserError: if it is absent, or something else.
        """
        values = self._read(
            name,
            _MISSING,
            lambda value: isinstance(value, list) and all(map(_is_positive, value)),
            "a list of numbers above 0",
        )
        return [float(value) for value in values]

    def flag(self, name: str, default: bool = False) -> bool:
        """Returns True or False.

        Raises:
          UserError: if it is something else.
        """
        return self._read(name, default, lambda value: isinstance(value, bool), "true or false")

    def choice(self, name: str, choices: Iterable[str], default: Any = _MISSING) -> str:
        """Returns one of `choices`, or the default where it is absent.

        Raises:
          UserError: if it is absent and has no default, or is something else.
        """
        choices = list(choices)
        return self._read(
            name,
            default,
            lambda value: isinstance(value, str) and value in choices,
            f"one of {', '.join(sorted(choices))}",
        )

    def table(self, name: str) -> ConfigReader:
        """Returns the settings inside a setting; empty where it is absent.

        Raises:
          UserError: if it is something else.
        """
        return ConfigReader(
            self._read(name, {}, lambda value: isinstance(value, dict), "an object"),
            f"{self.path} ({name})",
        )

    def has(self, name: str) -> bool:
        """Returns whether a setting is present and not null."""
        return self.values.get(name) is not None

    def _read(self, name: str, default: Any, fits: Callable[[Any], bool], wanted: str) -> Any:
        value = self.values.get(name)
        if value is None and default is not _MISSING:
            return default
        if value is None:
            raise UserError(
                f"{shown(self.path)} is not readable (it lacks {name!r}); download or copy it "
                f"again."
            )
        if not fits(value):
            raise UserError(
                f"{shown(self.path)} has {name} {quoted(value)}, but it must be {wanted}."
            )
        return value


def _is_positive(value: Any) -> bool:
    # The bound keeps whole numbers that no float can hold away from `isfinite`.
    return type(value) in (int, float) and 0 < value <= 1e300 and math.isfinite(value)
