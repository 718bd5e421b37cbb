"""Stochastic rounding to bfloat16: small updates of bfloat16 parameters count on average."""

import jax
import jax.numpy as jnp


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """Returns bfloat16 of float32 `x` [...]: one of the two neighbors, so that the mean is `x`.

    The nearer neighbor is the likelier. Near 1 bfloat16 numbers lie 2^-8 apart; rounded to the
    nearest, an update of less than 2^-9 would never change a parameter. Gupta et al., Deep Learning
    with Limited Numerical Precision, 2015.

    Args:
      x: finite numbers.
      key: a JAX random key; the same key rounds alike.
    """
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
