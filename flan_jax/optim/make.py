"""The optimizer of a run. Adding one takes a function that returns it, and its name here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import gin

from flan_jax.config.checks import check_settings
from flan_jax.config.settings import Setting
from flan_jax.optim.adafactor import adafactor
from flan_jax.optim.adamw import adamw
from flan_jax.optim.lion import lion

if TYPE_CHECKING:
    import optax

# Each is configured by gin under its own name.
OPTIMIZERS = {"adafactor": adafactor, "adamw": adamw, "lion": lion}


@gin.configurable("Optimizer")
def make_optimizer(
    name: Annotated[
        str,
        Setting(
            "OPTIMIZER",
            "what updates the parameters; Adafactor is T5's and takes hardly any memory, AdamW "
            "takes two numbers for each parameter and Lion one",
            choices=tuple(OPTIMIZERS),
        ),
    ] = "adafactor",
) -> optax.GradientTransformation:
    """Returns the optimizer of a run, its numbers bound by gin (such as `adamw.learning_rate`).

    Args:
      name: one of `OPTIMIZERS`.

    Raises:
      UserError: for another name, or a number that the optimizer cannot work with.
    """
    check_settings("Optimizer", make_optimizer, {"name": name})
    return OPTIMIZERS[name]()


def rate_warning(settings: Mapping[str, Any], tunes_all: bool) -> str | None:
    """Returns what is wrong with a learning rate that is too high for what it trains.

    LEARNING_RATE has one default, 1e-2: that of Adafactor from random parameters.

    Args:
      settings: by name.
      tunes_all: whether all parameters of a checkpoint train.

    Returns:
      The warning; None for other rates. docs/training.md has the usual ones.
    """
    name = settings["OPTIMIZER"]
    rate = settings.get(f"{name}.learning_rate", settings["LEARNING_RATE"])
    if rate < 1e-2:
        return None
    if name != "adafactor":
        return (
            f"LEARNING_RATE {rate:g} is high for {name}; usual are 1e-5 to 5e-5 for all parameters "
            "of a checkpoint, 2e-4 for LoRA and 1e-3 for a small model from random parameters"
        )
    if not tunes_all:
        return None
    return (
        f"LEARNING_RATE {rate:g} is high for all parameters of a checkpoint; usual are 1e-3 for a "
        "T5 and 3e-4 for a decoder"
    )


def optimizer_of(fields: set[str]) -> str | None:
    """Returns the name of the optimizer whose state has these fields, None if there is none."""
    import jax
    import jax.numpy as jnp

    param = {"kernel": jax.ShapeDtypeStruct((1, 1), jnp.float32)}
    for name, make in OPTIMIZERS.items():
        if set(jax.eval_shape(make().init, param)._fields) == fields:
            return name
    return None
