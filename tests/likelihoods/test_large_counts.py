"""Counts up to 10⁷ in single precision: right to a few roundings of log p, not of the terms that cancel in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from hmcvae import likelihoods
from hmcvae.likelihoods._deviance import stirling_error

# A few roundings: some of the functions that XLA computes are two or three off.
MOST_ULPS = 15


def grid():
    """(f, x) in single precision: all rates with all counts, and rates within a few standard deviations of each."""
    rng = np.random.RandomState(0)
    counts = np.concatenate(
        [np.arange(20), 10.0 ** np.arange(1, 8), np.exp(rng.uniform(3, 16.1, 60)).round()]
    )
    far = [(rate, x) for x in counts for rate in 10.0 ** np.arange(-3, 8)]
    near = [(x + k * np.sqrt(x), x) for x in counts if x > 20 for k in (-4, -1, -0.1, 0, 0.1, 1, 4)]
    rates, xs = np.array(far + near).T
    return np.log(rates).astype(np.float32), xs.astype(np.float32)


F, X = grid()


def log_poisson(f, x):
    """By Loader's form in extended precision, with D(δ) = e^δ - 1 - δ from its power series where δ is small."""
    f, safe = f.astype(np.longdouble), np.maximum(x, 1).astype(np.longdouble)
    gap = f - np.log(safe)
    series = gap**2 / 2 * (1 + gap / 3 * (1 + gap / 4 * (1 + gap / 5 * (1 + gap / 6 * (1 + gap / 7)))))
    D = np.where(np.abs(gap) > 0.01, np.expm1(gap) - gap, series)
    small = scipy.special.gammaln(1.0 + np.minimum(x, 50).astype(float))
    of_small = small - (safe + 0.5) * np.log(safe) + safe - 0.5 * np.log(2 * np.pi)
    error = np.where(safe < 25, of_small, 1 / (12 * safe) - 1 / (360 * safe**3) + 1 / (1260 * safe**5))
    return np.where(x == 0, -np.exp(f), -(0.5 * np.log(2 * np.pi * safe) + error + safe * D))


def log_negative_binomial(f, x, r):
    """log Γ(x + r) - log Γ(r) - log x! as a sum over 1 … x, in extended precision."""
    mean, r = np.exp(f.astype(np.longdouble)), np.longdouble(r)
    terms = np.log1p((r - 1) / np.arange(1, int(x.max()) + 1).astype(np.longdouble))
    sums = np.concatenate([[np.longdouble(0)], np.cumsum(terms)])
    return sums[x.astype(int)] - r * np.log1p(mean / r) - x * np.log1p(r / mean)


def check(likelihood, expected, gradient, scale):
    value_and_grad = jax.jit(jax.vmap(jax.value_and_grad(lambda f, x: likelihood.terms(f, x))))
    values, gradients = map(np.asarray, value_and_grad(jnp.asarray(F), jnp.asarray(X)))
    assert values.dtype == gradients.dtype == np.float32
    ulps = np.abs(values - expected) / np.spacing(np.abs(expected).astype(np.float32))
    assert ulps.max() < MOST_ULPS
    np.testing.assert_array_less(np.abs(gradients - gradient), 2e-6 * scale + 1e-30)


def test_a_poisson_density_of_large_counts_is_right_in_single_precision():
    rate = np.exp(F.astype(float))
    check(likelihoods.poisson(), log_poisson(F, X), X - rate, np.maximum(X, rate))


@pytest.mark.parametrize("r", [1e-3, 0.7, 19.0, 300.0, 1e5, 1e12])
def test_a_negative_binomial_density_of_large_counts_is_right_in_single_precision(r):
    r = np.float32(r)
    mean = np.exp(F.astype(float))
    share = r / (r + mean)
    expected = log_negative_binomial(F, X, r)
    check(likelihoods.negative_binomial(r), expected, (X - mean) * share, np.maximum(X, mean) * share)


@pytest.mark.parametrize("log_r", [-3.0, np.log(2.0), 20.0, 39.0])
def test_a_rate_that_runs_away_is_pulled_back(log_r):
    """∂ log p / ∂f = (x - μ) r / (r + μ), which is -r where μ is far above both."""
    likelihood = likelihoods.negative_binomial()
    for f in (35.0, 39.9, 40.1, 43.0, 44.0, 50.0, 59.0, 61.0, 80.0):
        for x in (1.0, 5.0, 1e7):
            f32, log_r32, x32 = map(np.float32, (f, log_r, x))
            slopes = jax.grad(likelihood.log_prob)((jnp.float32(f32), jnp.float32(log_r32)), jnp.float32(x32))
            mean, r = np.exp(float(f32)), np.exp(float(log_r32))
            np.testing.assert_allclose(slopes[0], (float(x32) - mean) * r / (r + mean), rtol=2e-5)
            assert np.isfinite(slopes[1])


@pytest.mark.parametrize("x", [0.0, 1.0, 1e6])
def test_a_rate_that_goes_to_nothing_has_finite_gradients(x):
    for likelihood in (likelihoods.poisson(), likelihoods.negative_binomial(2.0)):
        for f in (-80.0, -300.0, -1e30):
            value, gradient = jax.value_and_grad(likelihood.log_prob)(jnp.float32(f), jnp.float32(x))
            assert np.isfinite(value)
            np.testing.assert_allclose(gradient, x, rtol=1e-6, atol=1e-30)


def test_the_error_of_stirlings_formula():
    t = np.array([1e-6, 1e-3, 0.1, 0.5, 1, 1.5, 2, 3.3, 4, 5, 7.9, 8, 8.1, 10, 20])
    expected = scipy.special.gammaln(1 + t) - (t + 0.5) * np.log(t) + t - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(stirling_error(jnp.asarray(t)), expected, rtol=1e-13, atol=5e-14)
    single = stirling_error(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(single, expected, rtol=1e-6, atol=1e-7)


def test_derivatives_are_whole_where_rate_and_count_are_the_same():
    """A maximum has half a derivative at a tie."""
    x = jnp.float32(1.0)
    of_poisson = jax.grad(jax.grad(lambda f: likelihoods.poisson().terms(f, x)))(jnp.float32(0.0))
    np.testing.assert_allclose(of_poisson, -1, rtol=1e-6, atol=1e-30)
    learned = likelihoods.negative_binomial()
    gradients = jax.grad(learned.terms)((jnp.float32(0.0), jnp.float32(0.0)), x)
    # ψ(2) - ψ(1) - log 2 + ½ - ½
    np.testing.assert_allclose(gradients, (0.0, 1 - np.log(2)), atol=1e-6)


def test_a_dispersion_beyond_single_precision_is_the_poisson_limit():
    limit, poisson = likelihoods.negative_binomial(1e39), likelihoods.poisson()
    f, x = jnp.float32([0.3, 2.0, 5.0]), jnp.float32([0.0, 7.0, 140.0])
    np.testing.assert_allclose(limit.terms(f, x), poisson.terms(f, x), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(limit.fisher_weights(f), jnp.exp(f), rtol=1e-6, atol=1e-30)
    assert np.all(np.isfinite(limit.sample(jax.random.key(0), f)))


@pytest.mark.parametrize("likelihood", [likelihoods.poisson(), likelihoods.negative_binomial(1e12)])
def test_draws_of_rates_beyond_32_bits_do_not_end_at_the_largest_integer(likelihood):
    f = jnp.full(400, 25.0, jnp.float32)  # 7.2e10
    draws = np.asarray(likelihood.sample(jax.random.key(1), f), float)
    assert abs(draws.mean() / np.exp(25.0) - 1) < 1e-5
