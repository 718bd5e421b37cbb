"""Checks of the values that users set; each failure is one sentence."""

import types
import typing
from collections.abc import Mapping

import gin

from flan_jax.errors import UserError


def check_number(name: str, value, whole: bool = False, least: float | None = None, below: float | None = None,
                 optional: bool = False) -> None:
    """Raises a UserError unless `value` is a number, a whole one if so, of at least `least` and less than `below`.

    None passes where it is `optional`.
    """
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if right and (least is None or value >= least) and (below is None or value < below) or optional and value is None:
        return
    limits = {"of at least": least, "below": below}
    bounds = " and ".join(f"{words} {limit}" for words, limit in limits.items() if limit is not None)
    kind = ("None or " if optional else "") + ("a whole number" if whole else "a number")
    raise UserError(f"{name} must be {f'{kind} {bounds}' if bounds else kind}, not {value!r}.")


def check_fields(config, owner: str, least: int | Mapping[str, int] | None = None) -> None:
    """Raises a UserError unless the fields of a dataclass that are to hold a number, text or truth do so.

    Args:
      config: the dataclass.
      owner: what gin calls it.
      least: of all whole numbers, or of each by its field.
    """
    for field, hint in typing.get_type_hints(type(config)).items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds, value = set(typing.get_args(hint) if union else [hint]), getattr(config, field)
        optional, name = type(None) in kinds, setting_name(owner, field)
        kinds -= {type(None)}
        if kinds in ({int}, {float}):
            whole = kinds == {int}
            fewest = least.get(field) if isinstance(least, Mapping) else least if whole else None
            check_number(name, value, whole, fewest, optional=optional)
        elif kinds in ({str}, {bool}) and not (isinstance(value, *kinds) or optional and value is None):
            kind = ("None or " if optional else "") + ("text" if kinds == {str} else "True or False")
            raise UserError(f"{name} must be {kind}, not {value!r}.")


def setting_name(owner: str, field: str) -> str:
    """What users type to set a field: the macro that gin binds it to, else OWNER.FIELD."""
    try:
        bound = repr(gin.query_parameter(f"{owner}.{field}"))
    except ValueError:
        return f"{owner}.{field}"
    return bound[1:] if bound.startswith("%") else f"{owner}.{field}"
