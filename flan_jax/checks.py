"""Checks of the numbers that users set; each failure is one sentence."""

import typing

from flan_jax.errors import UserError


def check_number(name: str, value, whole: bool = False, least: float | None = None, below: float | None = None) -> None:
    """Raises a UserError unless `value` is a number, a whole one if so, of at least `least` and less than `below`."""
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if right and (least is None or value >= least) and (below is None or value < below):
        return
    limits = {"of at least": least, "below": below}
    bounds = " and ".join(f"{words} {limit}" for words, limit in limits.items() if limit is not None)
    kind = "a whole number" if whole else "a number"
    raise UserError(f"{name} must be {f'{kind} {bounds}' if bounds else kind}, not {value!r}.")


def check_fields(config, owner: str, least: int | None = None) -> None:
    """Raises a UserError unless the fields of a dataclass that hold numbers do; whole ones of at least `least`."""
    for name, kind in typing.get_type_hints(type(config)).items():
        kinds, value = typing.get_args(kind) or (kind,), getattr(config, name)
        if value is None and type(None) in kinds:
            continue
        if int in kinds or float in kinds:
            check_number(f"{owner}.{name}", value, whole=int in kinds, least=least if int in kinds else None)


def check_model(config) -> None:
    """Raises a UserError for sizes below 1 or a dropout rate that leaves nothing, of a model's configuration."""
    owner = type(config).__name__
    check_fields(config, owner, least=1)
    check_number(f"{owner}.dropout_rate (DROPOUT_RATE)", config.dropout_rate, least=0, below=1)
