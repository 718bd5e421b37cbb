"""Declarations of settings: a field of a configuration states its macro, default, meaning and
bounds in one place.

    held_out: str = setting("HELD_OUT", "nli", "what does not train and is evaluated zero-shot")

A parameter of a function states the same, but for its default:

    def adafactor(learning_rate: Annotated[float, Setting("LEARNING_RATE", "...")] = 1e-2):

`gin_files` binds the macro to the field, `checks` checks the value, `--help` and docs/settings.md list
what is declared.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

REQUIRED = dataclasses.MISSING  # the default of a setting that has none


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared of a setting, beside its type and default.

    Attributes:
      macro: the name under which users set it; None: OWNER.FIELD is the name.
      meaning: a phrase for --help, gin/flan.gin and docs/settings.md; empty where another field of
        the same macro has it.
      least, below: the bounds of a number; None for those of int32 or float32.
      choices: what a text, or each text of a list, may be; empty for any.
      path: whether it is a path of a file or directory, or which values are; a run's config.gin has
        paths absolute.
      may_be_empty: whether a text may be empty; where that is its default.
    """

    macro: str | None
    meaning: str
    _: dataclasses.KW_ONLY
    least: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    path: bool | Callable[[str], bool] = False
    may_be_empty: bool = False

    def is_path(self, value: object) -> bool:
        """Returns whether a value of this setting is the path of a file or directory."""
        if not isinstance(value, str) or not value:
            return False
        return self.path(value) if callable(self.path) else self.path


def setting(macro: str | None, default: Any, meaning: str, **limits: Any) -> Any:
    """Returns the field of a dataclass that declares a setting.

    Args:
      macro: the name under which users set it, such as 'HELD_OUT'; None: 'Data.pack' is its name.
      default: its value where no gin file sets it, or REQUIRED.
      meaning: see `Setting.meaning`.
      **limits: `least`, `below`, `choices` and `path` of `Setting`.
    """
    declaration = Setting(macro, meaning, may_be_empty=default == "", **limits)
    metadata = {"setting": declaration, "default": default}
    if isinstance(default, dict):  # a mutable default is made anew
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(target: Callable) -> dict[str, Setting]:
    """Returns the declared settings of a dataclass or of a function, by field or parameter."""
    if dataclasses.is_dataclass(target):
        return {
            field.name: field.metadata["setting"]
            for field in dataclasses.fields(target)
            if "setting" in field.metadata
        }
    hints = typing.get_type_hints(target, include_extras=True)
    return {
        name: extra
        for name, hint in hints.items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, Setting)
    }
