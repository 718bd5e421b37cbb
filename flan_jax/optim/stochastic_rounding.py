"""Rounding float32 to bfloat16 by chance, so that small updates of bfloat16 parameters are not lost
on average.
"""

import jax
import jax.numpy as jnp


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """Gives bfloat16 of float32 `x`: the neighbour above or below, the nearer the likelier, so that
    the mean is `x`.

    Near 1 bfloat16 numbers lie 2^-8 apart; rounded to the nearest, an update of less than 2^-9
    would never change one. Not for infinities and NaN. Gupta et al., Deep Learning with Limited
    Numerical Precision, 2015.
    """
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
