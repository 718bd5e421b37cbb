"""The optimizer of a run. Adding one takes a function that returns it, and its name here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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


def optimizer_of(fields: set[str]) -> str | None:
    """Returns the name of the optimizer whose state has these fields, None if there is none."""
    import jax
    import jax.numpy as jnp

    param = {"kernel": jax.ShapeDtypeStruct((1, 1), jnp.float32)}
    for name, make in OPTIMIZERS.items():
        if set(jax.eval_shape(make().init, param)._fields) == fields:
            return name
    return None
