"""log(1 + eˣ), as layers and densities have it: values and derivatives to rounding, at the ends, in each dtype."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import likelihoods, networks
from hmcvae._softplus import _NUM_TERMS, softplus, softplus_of_layer

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


@pytest.mark.parametrize("form", FORMS)
def test_small_derivatives_keep_their_digits(form):
    x = jnp.linspace(-80, 0, 1001, dtype=np.float32)
    expected = 1 / (1 + np.exp(-np.asarray(x, float)))
    np.testing.assert_allclose(jax.vmap(jax.grad(FORMS[form]))(x), expected, rtol=3e-7)


def test_the_series_is_cut_below_rounding():
    s = 1 / 3
    kept = sum(s ** (2 * n + 1) / (2 * n + 1) for n in range(_NUM_TERMS))
    assert 0 < 1 - kept / math.atanh(s) < np.finfo(np.float32).eps / 4


@pytest.mark.parametrize(("dtype", "has_log"), [(np.float32, False), (np.float64, True)])
def test_a_layer_in_float32_has_no_logarithm(dtype, has_log):
    """Which XLA compiles to scalar code; the derivative has none in any dtype."""
    assert ("log1p" in str(jax.make_jaxpr(softplus_of_layer)(jnp.ones(3, dtype)))) == has_log


DENSITIES = {
    "bits": lambda raw: likelihoods.bernoulli().log_prob(raw, jnp.ones(3)),
    "levels": lambda raw: likelihoods.discretised_logistic().log_prob((raw, raw), jnp.full(3, 0.5)),
    "weights of counts": lambda raw: likelihoods.negative_binomial(2.0).fisher_weights(raw).sum(),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_gradients_of_densities_are_of_the_logistic_function(name):
    assert "logistic" in str(jax.make_jaxpr(jax.grad(DENSITIES[name]))(jnp.zeros(3)))


def test_the_nets_have_the_layers_form():
    assert networks.ACTIVATIONS["softplus"] is softplus_of_layer
    for net in (networks.ConvEncoder, networks.ConvDecoder):
        assert net.__dataclass_fields__["activation"].default is softplus_of_layer
