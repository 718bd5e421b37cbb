"""The arrays of annotations: those of JAX, traced or not, and of NumPy, which JAX takes as well."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Integer

Array = jax.Array | np.ndarray

# A text: of any length each where there are several, so that the dimension has no letter.
TokenIds = Integer[np.ndarray, " _"]
