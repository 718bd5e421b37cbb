"""Checks of the values that users set; each failure is one clear message."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import gin

from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, escaped, listed, nearest, shown

# What JAX counts with, and what a float32 holds: where a setting has no bounds of its own, these
# are its bounds.
INT32, FLOAT32 = 2**31, 3.4e38

# (the least that a number may be, what it must be below); None where there is no such bound.
Bounds = tuple[float | None, float | None]


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
      least, below: its bounds; without them those of int32 or float32.
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
    limits = {"of at least": least, "below": below}
    bounds = " and ".join(
        f"{words} {_written(limit)}" for words, limit in limits.items() if limit is not None
    )
    kind = ("None or " if optional else "") + ("a whole number" if whole else "a number")
    raise UserError(
        f"{name} must be {f'{kind} {bounds}' if bounds else kind}, not {quoted(value)}."
    )


def _whole(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _written(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def quoted(value: Any) -> str:
    """Returns how a message shows a value that may be anything: as Python writes it, on one line
    and not too long.
    """
    try:
        return shown(repr(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a deeply nested value"


def check_choice(name: str, value: Any, choices: Iterable[str], optional: bool = False) -> None:
    """Raises a UserError unless `value` is one of `choices`, or None where it is `optional`;
    suggests the nearest.
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


def check_fields(config: Any, owner: str, bounds: Mapping[str, Bounds] | None = None) -> None:
    """Checks the fields of a dataclass that hold numbers, texts or truths, by their annotations.

    Whole numbers that were written as 1e3 become ints. A text may be empty where that is its
    default.

    Args:
      config: the dataclass, frozen or not.
      owner: what gin calls it.
      bounds: (least, below) of numbers by field.

    Raises:
      UserError: for a value of another type, or out of bounds.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for field, hint in typing.get_type_hints(type(config)).items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds, value = set(typing.get_args(hint) if union else [hint]), getattr(config, field)
        optional, name = type(None) in kinds, setting_name(owner, field)
        kinds -= {type(None)}
        if kinds in ({int}, {float}):
            number = check_number(
                name, value, kinds == {int}, *(bounds or {}).get(field, (None, None)), optional
            )
            object.__setattr__(config, field, number)
        elif kinds == {str}:
            check_text(name, value, optional, may_be_empty=defaults[field] == "")
        elif kinds == {bool} and not (isinstance(value, bool) or (optional and value is None)):
            raise UserError(
                f"{name} must be {'None or ' if optional else ''}True or False, not "
                f"{quoted(value)}."
            )


def check_bound(config_class: type, owner: str, given: Iterable[str], advice: str) -> None:
    """Raises a UserError if a field of a dataclass has no default, is not `given` and not bound by
    gin.
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
    """What users type to set a field: the macro that gin binds it to, else OWNER.FIELD."""
    try:
        bound = repr(gin.query_parameter(f"{owner}.{field}"))
    except ValueError:
        return f"{owner}.{field}"
    return bound[1:] if bound.startswith("%") else f"{owner}.{field}"
