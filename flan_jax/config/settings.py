"""Declarations of settings: macro, default, meaning and bounds of a field in one place.

    held_out: str = setting("HELD_OUT", "nli", "what does not train and is evaluated zero-shot")

A parameter of a function states the same, but for its default:

    def adafactor(learning_rate: Annotated[float, Setting("LEARNING_RATE", "...")] = 1e-2):

`gin_files` binds the macro to the field, `checks` checks the value, and `--help`, docs/settings.md
and the lines of gin/flan.gin are made from the declarations.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
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
      least: the lower bound of a number, inclusive; None for that of int32 or float32.
      below: the upper bound of a number, exclusive; None likewise.
      choices: what a text, or each text of a list, may be; empty for any.
      path: whether the value is a path, or a function that returns whether a text is one. In a
        run's config.gin, paths are absolute.
      paths_in: for a text of which parts are paths: a function of the text and of what changes a
        path, which changes each.
      may_be_empty: whether a text may be empty.
    """

    macro: str | None
    meaning: str
    _: dataclasses.KW_ONLY
    least: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    path: bool | Callable[[str], bool] = False
    paths_in: Callable[[str, Callable[[str], str]], str] | None = None
    may_be_empty: bool = False

    def is_path(self, value: object) -> bool:
        """Returns whether a value of this setting is the path of a file or directory."""
        if not isinstance(value, str) or not value:
            return False
        return self.path(value) if callable(self.path) else self.path

    def with_paths(self, value: Any, change: Callable[[str], str]) -> Any:
        """Returns a value of this setting with each path in it changed, such as to an absolute."""
        if self.is_path(value):
            return change(value)
        if self.paths_in is not None and isinstance(value, str):
            return self.paths_in(value, change)
        return value


def setting(macro: str | None, default: Any, meaning: str, **limits: Any) -> Any:
    """Returns the field of a dataclass that declares a setting.

    Args:
      macro: the name under which users set it, such as 'HELD_OUT'; None: 'Data.pack' is its name.
      default: its value where no gin file sets it, or REQUIRED.
      meaning: see `Setting.meaning`.
      **limits: `least`, `below`, `choices`, `path` and `paths_in` of `Setting`.
    """
    # The empty text is allowed where it is the default: there it means "not given".
    declaration = Setting(macro, meaning, may_be_empty=default == "", **limits)
    metadata = {"setting": declaration, "default": default}
    if isinstance(default, dict):  # a mutable default is made anew
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def hints_of(target: Callable, include_extras: bool = False) -> dict[str, Any]:
    """Returns the types of the fields of a dataclass, or of the parameters of a function.

    What a function returns may be of a library that is not imported yet.

    Args:
      target: the dataclass or function.
      include_extras: whether `Annotated` types stay such.
    """
    if isinstance(target, type):
        return typing.get_type_hints(target, include_extras=include_extras)
    parameters = {name: hint for name, hint in target.__annotations__.items() if name != "return"}
    return typing.get_type_hints(
        types.SimpleNamespace(__annotations__=parameters),
        inspect.unwrap(target).__globals__,
        include_extras=include_extras,
    )


def settings_of(target: Callable) -> dict[str, Setting]:
    """Returns the declared settings of a dataclass or of a function, by field or parameter."""
    if dataclasses.is_dataclass(target):
        return {
            field.name: field.metadata["setting"]
            for field in dataclasses.fields(target)
            if "setting" in field.metadata
        }
    hints = hints_of(target, include_extras=True)
    return {
        name: extra
        for name, hint in hints.items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, Setting)
    }
