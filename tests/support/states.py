"""A small training state of which every number follows from its step."""

import jax.numpy as jnp

from flan_jax.optim import adafactor


def make_state(value: float, width: int = 8) -> dict:
    """Returns parameters, optimizer state and step, all of which have the value."""
    params = {
        "encoder": {f"layers_{i}": {"kernel": jnp.full((4, width), value + i)} for i in range(2)}
    }
    return {
        "params": params,
        "opt_state": (adafactor.adafactor().init(params), ()),
        "step": jnp.int32(value),
    }
