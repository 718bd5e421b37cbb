"""Checks of the values that users set; each failure is one clear message."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import gin

from flan_jax.config.settings import Setting, hints_of, settings_of
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, escaped, listed, nearest, shown
from flan_jax.storage.places import place

# What JAX counts with, and what a float32 holds: the bounds of a setting that declares none.
INT32, FLOAT32 = 2**31, 3.4e38


def check_number(
    name: str,
    value: Any,
    whole: bool = False,
    least: float | None = None,
    below: float | None = None,
    optional: bool = False,
) -> Any:
    """Returns a number that a user set; a whole one as an int, also where it was written as 1e3.

    Args:
      name: what the user typed to set it.
      value: what was set.
      whole: whether it must be a whole number.
      least: its lower bound, inclusive; None for that of int32 or float32.
      below: its upper bound, exclusive; None likewise.
      optional: whether it may be None.

    Raises:
      UserError: for anything else, NaN and infinity included.
    """
    if optional and value is None:
        return None
    most = INT32 if whole else FLOAT32
    number = _whole(value) if whole else value
    if type(number) in (int, float):
        within = (-most if least is None else least) <= number < (most if below is None else below)
        if within:
            return number
        below = most if below is None and number >= most else below
        least = -most if least is None and number <= -most else least
    kind = _number_kind(whole, least, below, optional)
    raise UserError(f"{name} must be {kind}, not {quoted(value)}.")


def _number_kind(whole: bool, least: float | None, below: float | None, optional: bool) -> str:
    """Returns for example 'None or a whole number of at least 1 and below 8'."""
    limits = {"of at least": least, "below": below}
    bounds = " and ".join(
        f"{words} {_written(limit)}" for words, limit in limits.items() if limit is not None
    )
    kind = ("None or " if optional else "") + ("a whole number" if whole else "a number")
    return f"{kind} {bounds}" if bounds else kind


def _whole(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _written(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def quoted(value: Any, most: int = 200) -> str:
    """Returns any value as a message shows it: as Python writes it, on one line, cut by `shown`."""
    try:
        return shown(repr(value), most)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a value with thousands of digits"
    except RecursionError:
        return "a deeply nested value"


def check_choice(name: str, value: Any, choices: Iterable[str], optional: bool = False) -> None:
    """Raises a UserError, with the nearest choice, unless `value` is one of `choices`.

    None is accepted where it is `optional`.
    """
    choices = list(choices)
    if value in choices or (optional and value is None):
        return
    near = nearest(value, choices) if isinstance(value, str) else None
    raise UserError(
        f"{name} must be {'None or ' if optional else ''}one of {', '.join(choices)}, not "
        f"{quoted(value)}{did_you_mean(near)}"
    )


def check_text(name: str, value: Any, optional: bool = False, may_be_empty: bool = False) -> None:
    """Raises a UserError unless `value` is a text on one line that can be written as UTF-8."""
    if optional and value is None:
        return
    kind = ("None or " if optional else "") + "text"
    if not isinstance(value, str):
        raise UserError(f"{name} must be {kind}, not {quoted(value)}.")
    if not value and not may_be_empty:
        raise UserError(
            f"{name} must be {kind}, not empty{'; None is the default' if optional else ''}."
        )
    if escaped(value) != value or "\n" in value or "\t" in value:
        raise UserError(
            f"{name} must be text without control characters and halves of characters, not "
            f"{quoted(value)}."
        )


class _Kind(NamedTuple):
    """What values a type allows: int, float, str, bool, tuple, or None for what is not checked."""

    type: type | None
    optional: bool


def _kind_of(hint: Any) -> _Kind:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = set(typing.get_args(hint) if union else [hint])
    kinds = members - {type(None)}
    (kind,) = kinds if len(kinds) == 1 else (None,)
    if typing.get_origin(kind) is tuple:
        kind = tuple
    return _Kind(kind if kind in (int, float, str, bool, tuple) else None, type(None) in members)


def allowed_values(hint: Any, setting: Setting) -> str:
    """Returns what a setting may be, such as 'a whole number of at least 1'.

    Empty where the type says nothing, and only the meaning does.

    Args:
      hint: the annotated type.
      setting: the declaration.
    """
    kind, optional = _kind_of(hint)
    none = "None or " if optional else ""
    choices = ", ".join(setting.choices)
    if kind in (int, float):
        return _number_kind(kind is int, setting.least, setting.below, optional)
    if kind is tuple:
        return f"a list of one or more of {choices}"
    if kind is str and choices:
        return f"{none}one of {choices}"
    return {str: f"{none}text", bool: f"{none}True or False"}.get(kind, "")


def check_settings(owner: str, target: Callable, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the declared settings among `values`; whole numbers, also those written 1e3, as ints.

    A text may be empty where that is its default; a list of texts becomes a tuple.

    Args:
      owner: what gin calls the dataclass or function.
      target: the dataclass or function that declares them.
      values: by field or parameter.

    Raises:
      UserError: for a value of another type, out of bounds or not among the choices.
    """
    hints = hints_of(target)
    return {
        field: _checked(setting_name(owner, field), hints[field], setting, values[field])
        for field, setting in settings_of(target).items()
    }


def _checked(name: str, hint: Any, setting: Setting, value: Any) -> Any:
    kind, optional = _kind_of(hint)
    if kind in (int, float):
        return check_number(name, value, kind is int, setting.least, setting.below, optional)
    if kind is str:
        check_text(name, value, optional, setting.may_be_empty)
        if setting.choices:
            check_choice(name, value, setting.choices, optional)
        if setting.path and value is not None:
            place(value, name)
    elif kind is bool and not (isinstance(value, bool) or (optional and value is None)):
        none = "None or " if optional else ""
        raise UserError(f"{name} must be {none}True or False, not {quoted(value)}.")
    elif kind is tuple:
        return _checked_list(name, setting, value)
    return value


def _checked_list(name: str, setting: Setting, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (tuple, list)) or not value:
        raise UserError(
            f"{name} is {quoted(value)}, but must be a list of one or more of "
            f"{', '.join(setting.choices)}."
        )
    for member in value:
        check_choice(name, member, setting.choices)
    return tuple(value)


def check_fields(config: Any, owner: str) -> None:
    """Checks the declared settings of a dataclass, frozen or not, with `check_settings`.

    Args:
      config: the dataclass.
      owner: what gin calls it.

    Raises:
      UserError: see `check_settings`.
    """
    for field, value in check_settings(owner, type(config), vars(config)).items():
        object.__setattr__(config, field, value)


def check_required(config_class: type, owner: str, given: Iterable[str], advice: str) -> None:
    """Raises a UserError if a field without a default is neither `given` nor bound by gin.

    Args:
      config_class: the dataclass.
      owner: what gin calls it.
      given: the fields that the program itself sets.
      advice: what to do then, for the message.
    """
    absent = [
        field.name
        for field in dataclasses.fields(config_class)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in given
        and not _is_bound(owner, field.name)
    ]
    if absent:
        raise UserError(f"{listed(f'{owner}.{name}' for name in absent)} not set; {advice}.")


def _is_bound(owner: str, field: str) -> bool:
    try:
        gin.query_parameter(f"{owner}.{field}")
    except ValueError:
        return False
    return True


def setting_name(owner: str, field: str) -> str:
    """Returns what users type to set a field: the macro that gin binds it to, else OWNER.FIELD."""
    try:
        bound = repr(gin.query_parameter(f"{owner}.{field}"))
    except ValueError:
        return f"{owner}.{field}"
    return bound[1:] if bound.startswith("%") else f"{owner}.{field}"
