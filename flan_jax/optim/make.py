"""The optimizer of a run. Adding one takes a function that returns it, and its name here."""

from __future__ import annotations

import optax

from flan_jax.optim.adafactor import adafactor

# Each is configured by gin under its own name.
OPTIMIZERS = {"adafactor": adafactor}


def make_optimizer(name: str = "adafactor") -> optax.GradientTransformation:
    """Returns the optimizer of a run, its numbers bound by gin (such as `adafactor.learning_rate`).

    Args:
      name: one of `OPTIMIZERS`.

    Raises:
      UserError: for a number that the optimizer cannot work with.
    """
    return OPTIMIZERS[name]()
