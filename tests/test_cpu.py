"""What only a CPU gains from: sums over a leading axis equal those of XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.models.cpu import kernel_gradient, sum_first


@pytest.mark.parametrize("shape", [(8, 6, 128, 128), (100, 20_000), (512, 384), (1, 20_000), (5,)])
def test_equals_numpys_in_double_precision(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(jax.jit(sum_first)(x), x.astype(np.float64).sum(axis=0), atol=2e-4)


def test_of_bfloat16_stays_bfloat16():
    assert sum_first(jnp.ones((4, 20_000), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("width", [4, 16])
def test_the_gradient_of_a_kernel_is_the_product_of_columns(width):
    rng = np.random.default_rng(0)
    x, grad = (jnp.float32(rng.normal(size=(6, n))) for n in (8, width))
    np.testing.assert_allclose(
        jax.jit(kernel_gradient)(x, grad), np.float32(x).T @ np.float32(grad), rtol=1e-5
    )
