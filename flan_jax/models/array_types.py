"""The arrays of annotations: those of JAX, traced or not, and of NumPy, which JAX takes as well."""

from __future__ import annotations

import jax
import numpy as np

Array = jax.Array | np.ndarray
