"""Missing entries: the likelihood of what is observed, its metric, and a bound on log p(observed)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import hmcvae
from hmcvae import annealing, bounds, evaluation, likelihoods, posteriors

CASES = {
    "bernoulli": (likelihoods.bernoulli(), lambda f: f, lambda u: u),
    "gaussian": (likelihoods.gaussian(), lambda f: (f, 0.3 * f), lambda u: 3 * u - 1),
    "poisson": (likelihoods.poisson(), lambda f: f, lambda u: 7 * u),
    "categorical": (
        likelihoods.categorical(3),
        lambda f: jnp.stack([f, -f, 0.5 * f], -1),
        lambda u: 2 * u,
    ),
}
F = jnp.array([0.3, -1.2, 0.7, 0.1])
BITS = jnp.array([1.0, 0.0, 0.0, 1.0])
MASK = jnp.array([1.0, 0.0, 1.0, 1.0])
SUMMED = likelihoods.bernoulli()._replace(terms=likelihoods.bernoulli().log_prob, name="own")


@pytest.mark.parametrize("missing", [0.0, np.nan, 1e30])
@pytest.mark.parametrize("name", CASES)
def test_missing_entries_have_no_part_in_value_or_gradient(name, missing):
    likelihood, outputs_of, values_of = CASES[name]
    masked = likelihoods.masked(likelihood)
    values = values_of(BITS)
    with_gap = jnp.where(MASK == 1, values, missing)
    is_there = np.array([0, 2, 3])

    def whole(f):
        return masked.log_prob(outputs_of(f), (with_gap, MASK))

    def observed(f):
        own = jax.tree.map(lambda leaf: leaf[is_there], outputs_of(f))
        return likelihood.log_prob(own, values[is_there])

    np.testing.assert_allclose(whole(F), observed(F), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(whole)(F), jax.grad(observed)(F), rtol=1e-12)
    weights, own = (
        masked.weights_at(outputs_of(F), (with_gap, MASK)),
        likelihood.fisher_weights(outputs_of(F)),
    )
    for ours, theirs in zip(jax.tree.leaves(weights), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(ours[is_there], theirs[is_there])
        assert np.all(ours[1] == 0)
    likelihoods.check_data(masked, (with_gap, MASK))
    np.testing.assert_array_equal(masked.mean(outputs_of(F)), likelihood.mean(outputs_of(F)))
    drawn, mask = masked.sample(jax.random.key(0), outputs_of(F))
    np.testing.assert_array_equal(drawn, likelihood.sample(jax.random.key(0), outputs_of(F)))
    assert np.all(mask == 1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [
        (likelihoods.poisson(), lambda f: f),
        (likelihoods.gaussian(), lambda f: (f, -f)),
        (likelihoods.gaussian(), lambda f: (f, jnp.zeros((), f.dtype))),
        (likelihoods.categorical(2), lambda f: jnp.stack([f, 3 * f], -1)),
    ],
)
def test_an_output_that_overflows_where_its_entry_is_missing_has_no_part_in_the_gradient(
    likelihood, outputs, dtype
):
    masked = likelihoods.masked(likelihood)
    x, mask = jnp.array([1.0, 0.0, 1.0], dtype), jnp.array([1.0, 0.0, 1.0], dtype)
    for huge in (1e3, 1e30, np.inf, np.nan):
        f = jnp.array([0.3, huge, -0.2], dtype)
        value, gradient = jax.value_and_grad(lambda f: masked.log_prob(outputs(f), (x, mask)))(f)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        assert gradient[1] == 0


@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [
        (likelihoods.poisson(), lambda f: f),
        (likelihoods.gaussian(), lambda f: (f, -f)),
        (likelihoods.negative_binomial(2.0), lambda f: f),
        (likelihoods.bernoulli()._replace(fisher_weights=lambda f: 1 / (f - 0.5) ** 2), lambda f: f),
        (likelihoods.bernoulli()._replace(fisher_weights=lambda f: 1 / f**2), lambda f: f),
    ],
)
def test_an_output_that_overflows_where_its_entry_is_missing_has_no_fisher_weight(likelihood, outputs):
    masked = likelihoods.masked(likelihood)
    x, mask = jnp.ones(3, jnp.float32), jnp.array([1, 0, 1], jnp.float32)

    def weights(f):
        return jax.tree.leaves(masked.weights_at(outputs(f), (x, mask)))

    expected = weights(jnp.array([0.3, 0.2, -0.2], jnp.float32))
    for huge in (90.0, -90.0, np.inf, np.nan):
        f = jnp.array([0.3, huge, -0.2], jnp.float32)
        for own, usual in zip(weights(f), expected, strict=True):
            np.testing.assert_array_equal(own, usual)
        slope = jax.grad(lambda f: sum(jnp.sum(own) for own in weights(f)))(f)
        assert np.all(np.isfinite(slope))
        assert slope[1] == 0


def test_a_mask_means_the_same_to_the_density_and_to_its_metric():
    """Other numbers than 0 and 1 are refused where they can be seen; traced, they are missing entries to both."""
    masked, values = likelihoods.masked(likelihoods.bernoulli()), jnp.ones(3)

    @jax.jit
    def both(mask):
        return masked.terms(jnp.ones(3), (values, mask)), masked.weights_at(jnp.ones(3), (values, mask))

    terms, weights = both(jnp.array([1.0, 0.5, 255.0]))
    np.testing.assert_array_equal(np.asarray(terms) != 0, [True, False, False])
    np.testing.assert_array_equal(np.asarray(weights) != 0, [True, False, False])


def test_a_likelihood_of_ones_own_needs_no_0_in_its_support():
    """Gamma with one shape for all: log 0 times a slope of it would be NaN."""

    def terms(outputs, x):
        log_rate, log_shape = outputs
        shape = jnp.exp(log_shape)
        own = shape * log_rate + (shape - 1) * jnp.log(x) - jnp.exp(log_rate) * x
        return own - jax.scipy.special.gammaln(shape)

    one = (terms, lambda outputs: outputs[0], lambda key, outputs: outputs[0], lambda outputs: outputs)
    gamma = likelihoods.independent(*one, 2, "gamma")
    outputs = (jnp.array([2.0, 3.0, -1.0]), jnp.asarray(0.5))
    x = (jnp.array([jnp.nan, 1.5, 0.3]), jnp.array([0.0, 1.0, 1.0]))
    seen = (outputs[0][1:], outputs[1]), x[0][1:]
    value, slopes = jax.value_and_grad(likelihoods.masked(gamma).log_prob)(outputs, x)
    expected, expected_slopes = jax.value_and_grad(gamma.log_prob)(*seen)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slopes[0], [0, *expected_slopes[0]], rtol=1e-12)
    np.testing.assert_allclose(slopes[1], expected_slopes[1], rtol=1e-12)


def linear_gaussian(sd=0.5):
    """x = W z + b + noise: p of any entries in closed form."""
    W = jnp.array([[1.0, 0.4], [-0.6, 0.9], [0.3, -1.1], [0.8, 0.2]])
    b = jnp.array([0.2, -0.1, 0.4, 0.0])

    def encode(params, x):
        values, mask = x
        filled = jnp.where(mask == 1, values, 0.0)
        return params["E"] @ jnp.concatenate([filled, mask]), jnp.full(2, 0.1), filled

    vae = hmcvae.VAE(
        encode, lambda params, z: params["W"] @ z + b, likelihoods.masked(likelihoods.gaussian(sd)), 2
    )
    params = {"W": W, "E": 0.1 * jax.random.normal(jax.random.key(1), (2, 8))}
    return (
        vae,
        params,
        lambda rows: (np.asarray(b)[rows], np.asarray(W @ W.T + sd**2 * jnp.eye(4))[np.ix_(rows, rows)]),
    )


@pytest.fixture(scope="module")
def model():
    vae, params, marginal = linear_gaussian()
    values = jnp.array([[0.3, jnp.nan, -0.8, 1.0], [1.2, 0.4, jnp.nan, jnp.nan]])
    mask = jnp.where(jnp.isnan(values), 0.0, 1.0)
    exact = []
    for row, seen in zip(values, mask, strict=True):
        rows = np.flatnonzero(seen)
        mean, covariance = marginal(rows)
        exact.append(scipy.stats.multivariate_normal.logpdf(np.asarray(row)[rows], mean, covariance))
    return vae, params, (values, mask), np.array(exact)


@pytest.mark.parametrize("name", ["elbo", "fisher", "gauss_newton", "hvi", "rhvi"])
def test_weights_average_to_the_probability_of_what_is_observed(model, name):
    vae, params, examples, exact = model
    fisher = posteriors.fisher(2)
    bound = {
        "elbo": lambda: bounds.elbo(vae),
        "fisher": lambda: bounds.elbo(vae, posterior=fisher),
        "gauss_newton": lambda: bounds.elbo(vae, posterior=posteriors.gauss_newton(fisher, num_steps=2)),
        "hvi": lambda: bounds.hvi(vae, num_transitions=1, num_steps=2),
        "rhvi": lambda: bounds.rhvi(vae, num_transitions=1, num_steps=1),
    }[name]()
    both = {"vae": params, "bound": bound.init(jax.random.key(0))}
    result = evaluation.estimate(bound, both, jax.random.key(2), examples, num_samples=4000)
    sd = np.sqrt((4000 / np.asarray(result.effective_sample_size) - 1) / 4000)
    assert np.all(np.abs(result.log_likelihood - exact) < 4 * sd + 0.01)
    assert np.all(np.asarray(result.bound) <= exact)


def test_annealing_takes_pairs(model):
    vae, params, examples, exact = model
    result = annealing.ais(vae, params, jax.random.key(3), examples, num_temperatures=300, num_chains=200)
    np.testing.assert_allclose(result.log_likelihood, exact, atol=0.1)


def test_the_fisher_posterior_of_a_linear_model_is_exact_for_the_observed_entries(model):
    """Its precision is Wᵀ diag(mask) W / s² + I, and a Gauss-Newton step with it lands on the posterior's mean."""
    vae, params, examples, _ = model
    posterior = posteriors.gauss_newton(posteriors.fisher(2), num_steps=1)
    for index in range(2):
        x = jax.tree.map(lambda leaf, index=index: leaf[index], examples)
        example = vae.encoded(params, x)
        metric = posteriors.decoder_metric(example)
        W = np.asarray(params["W"])
        expected = W.T @ np.diag(np.asarray(x[1]) / 0.25) @ W + np.eye(2)
        np.testing.assert_allclose(metric.tensor(example.mean), expected, rtol=1e-9)
        own = posterior.init(jax.random.key(0))
        assert np.all(np.isfinite(posterior.build(own, jax.random.key(0), example).center))


def test_the_information_about_one_scale_is_that_of_the_observed_entries():
    masked, x = likelihoods.masked(likelihoods.gaussian()), (BITS, MASK)
    weights = masked.weights_at((F, jnp.asarray(-0.4)), x)
    each = masked.weights_at((F, jnp.full(4, -0.4)), x)
    np.testing.assert_allclose(weights[0], each[0], rtol=1e-12)
    np.testing.assert_allclose(weights[1], jnp.sum(each[1]), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: likelihoods.masked(likelihoods.masked(likelihoods.bernoulli())), "not masked already"),
        (
            lambda: likelihoods.masked(likelihoods.Likelihood(*likelihoods.bernoulli()[:4])),
            "of independent entries, with `terms`, got 'own'",
        ),
        (
            lambda: likelihoods.check_data(likelihoods.masked(likelihoods.bernoulli()), (BITS, MASK[:3])),
            r"mask of x must be shaped like its values, \(4,\), got \(3,\)",
        ),
        (
            lambda: likelihoods.check_data(likelihoods.masked(likelihoods.bernoulli()), (BITS, 2 * MASK)),
            r"must hold 0 \(missing\) and 1 \(observed\) alone",
        ),
        (
            lambda: likelihoods.check_data(likelihoods.masked(likelihoods.bernoulli()), (BITS - 1, MASK)),
            "no masked bernoulli likelihood of x: expected numbers in",
        ),
        (
            lambda: likelihoods.masked(SUMMED).log_prob(F, (BITS, MASK)),
            r"terms of the likelihood own must be shaped like the values, \[4\], got \[\]",
        ),
        (
            lambda: likelihoods.check_data(likelihoods.masked(likelihoods.bernoulli()), BITS),
            r"pairs \(values, mask\), got one array of shape \[4\]",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
