"""What both models' configurations settle alike when they are made: numbers, choices, and what 'auto' is here."""

from __future__ import annotations

from collections.abc import Iterable

import jax

from flan_jax.checks import check_fields, check_number
from flan_jax.errors import UserError
from flan_jax.models import layers

_DTYPES = ("auto", "bfloat16", "float32")


def settle(config, fewest_buckets: int) -> None:
    """Puts the dtype that 'auto' is here into a model's configuration, and makes a tuple of its activations.

    `fewest_buckets` of positions are enough for it: 2, or 4 where an encoder looks both ways.

    Raises:
      UserError: for a value that cannot work.
    """
    owner = type(config).__name__
    check_fields(config, owner, least=1)
    check_number(f"{owner}.dropout_rate (DROPOUT_RATE)", config.dropout_rate, least=0, below=1)
    if config.dtype == "float16":
        raise UserError(f"{owner}.dtype is 'float16', but T5 gives NaN in float16; type --gin.{owner}.dtype=bfloat16.")
    check_choice(f"{owner}.dtype", config.dtype, _DTYPES)
    check_choice(f"{owner}.remat", config.remat, layers.REMATS)
    _check_buckets(config, owner, fewest_buckets)
    known = sorted(layers.ACTIVATIONS)
    activations = config.mlp_activations
    if not isinstance(activations, (tuple, list)) or not activations:
        raise UserError(f"{owner}.mlp_activations is {activations!r}, but must be a list of one or more of "
                        f"{', '.join(known)}.")
    for activation in activations:
        check_choice(f"{owner}.mlp_activations", activation, known)
    object.__setattr__(config, "mlp_activations", tuple(activations))
    if config.dtype == "auto":
        object.__setattr__(config, "dtype", "float32" if jax.default_backend() == "cpu" else "bfloat16")


def check_choice(name: str, value, choices: Iterable[str]) -> None:
    """Raises a UserError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise UserError(f"{name} has {value!r}, but must have one of {', '.join(choices)}.")


def _check_buckets(config, owner: str, fewest: int) -> None:
    """Half of the buckets count single positions, and the others need distances that are beyond these."""
    buckets, most = config.relpos_buckets, config.relpos_max_distance
    check_number(f"{owner}.relpos_buckets", buckets, whole=True, least=fewest)
    if most <= buckets // 2:
        raise UserError(f"{owner}.relpos_max_distance is {most}, but must be more than half of relpos_buckets, which "
                        f"is {buckets}.")
