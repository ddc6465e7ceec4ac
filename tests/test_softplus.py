"""log(1 + eˣ), as layers and densities have it: values and derivatives to rounding, at the ends, in each dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import networks
from hmcvae._softplus import softplus, softplus_of_layer

FORMS = {"density": softplus, "layer": softplus_of_layer}
X = np.concatenate([np.linspace(-80, 80, 20_001), np.linspace(-1e-2, 1e-2, 101)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-14), (np.float32, 3e-7), (jnp.bfloat16, 0.02)])
def test_values(form, dtype, rtol):
    x = jnp.asarray(X, dtype)
    values = FORMS[form](x)
    assert values.dtype == dtype
    np.testing.assert_allclose(np.asarray(values, float), np.logaddexp(np.asarray(x, float), 0), rtol=rtol)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 3e-7)])
def test_derivatives_of_three_orders(form, dtype, tolerance):
    """σ, σ (1 - σ) and σ (1 - σ) (1 - 2 σ), backwards and forwards over backwards."""
    x = jnp.asarray(X, dtype)
    sigma = 1 / (1 + np.exp(-np.asarray(x, float)))
    slope = sigma * np.exp(-np.logaddexp(np.asarray(x, float), 0))
    first = jax.grad(FORMS[form])

    def second(x):
        return jax.jvp(first, (x,), (jnp.ones_like(x),))[1]

    third = jax.grad(second)
    for function, expected in ((first, sigma), (second, slope), (third, slope * (1 - 2 * sigma))):
        np.testing.assert_allclose(jax.vmap(function)(x), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_the_ends(form, dtype):
    x = jnp.asarray([np.inf, -np.inf, 1e30, -1e30], dtype)
    np.testing.assert_array_equal(FORMS[form](x), np.asarray([np.inf, 0, 1e30, 0], dtype))
    np.testing.assert_array_equal(jax.vmap(jax.grad(FORMS[form]))(x), [1, 0, 1, 0])
    assert np.isnan(FORMS[form](jnp.asarray(np.nan, dtype)))


def test_the_nets_have_the_layers_form():
    assert networks.ACTIVATIONS["softplus"] is softplus_of_layer
