"""Counts, classes and mixtures of levels: densities against SciPy, masses that sum to one, draws, and Fisher weights
against the expected second derivative, summed over the whole support."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from hmcvae import likelihoods

SHAPE = (3, 2)
KEYS = jax.random.split(jax.random.key(3), 4)


def normal(index: int, *last: int, dtype=jnp.float64):
    return jax.random.normal(KEYS[index], (*SHAPE, *last), dtype)


# name: (likelihood, outputs for SHAPE, the support of one entry or enough of it)
CASES = {
    "poisson": (likelihoods.poisson(), lambda: normal(0) + 0.5, np.arange(200)),
    "negative binomial, fixed": (
        likelihoods.negative_binomial(1.7),
        lambda: normal(0) + 0.5,
        np.arange(3000),
    ),
    "negative binomial, learned": (
        likelihoods.negative_binomial(),
        lambda: (normal(0) + 0.5, normal(1)),
        np.arange(20_000),
    ),
    "categorical": (likelihoods.categorical(5), lambda: 2 * normal(0, 5), np.arange(5)),
    "mixture": (
        likelihoods.discretised_logistic_mixture(3, 16),
        lambda: (normal(0, 3), 0.5 + 0.4 * normal(1, 3), normal(2, 3) - 2),
        np.arange(16) / 15,
    ),
}


def case(name):
    likelihood, outputs, support = CASES[name]
    return likelihood, outputs(), support


@functools.partial(jax.jit, static_argnums=0)
def _gradient(likelihood, outputs, x):
    return jax.grad(likelihood.log_prob)(outputs, x)


def one_entry(outputs, index=(1, 1)):
    """The outputs of one entry of x, as those of an x of shape (1,)."""
    return jax.tree.map(lambda leaf: leaf[index][None], outputs)


def probabilities(likelihood, outputs, support):
    """P of each x in the support, of an x of shape (1,)."""
    return np.exp(_log_probs(likelihood, outputs, jnp.asarray(support, float)[:, None]))


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(likelihood, outputs, xs):
    return jax.vmap(likelihood.log_prob, (None, 0))(outputs, xs)


@pytest.mark.parametrize("name", CASES)
def test_masses_sum_to_one_and_give_the_mean(name):
    likelihood, outputs, support = case(name)
    for index in np.ndindex(*SHAPE):
        own = one_entry(outputs, index)
        probs = probabilities(likelihood, own, support)
        np.testing.assert_allclose(probs.sum(), 1, atol=2e-9)
        if name == "categorical":
            np.testing.assert_allclose(likelihood.mean(own)[0], probs, rtol=1e-12)
        elif name != "mixture":
            np.testing.assert_allclose(likelihood.mean(own)[0], probs @ support, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_density_is_scipys(name):
    likelihood, outputs, support = case(name)
    x = np.random.RandomState(0).choice(support[:12], SHAPE)
    if name == "poisson":
        expected = scipy.stats.poisson.logpmf(x, np.exp(outputs))
    elif name.startswith("negative"):
        mean, r = (
            (np.exp(outputs), 1.7) if name.endswith("fixed") else (np.exp(outputs[0]), np.exp(outputs[1]))
        )
        expected = scipy.stats.nbinom.logpmf(x, r, r / (r + mean))
    elif name == "categorical":
        probs = scipy.special.softmax(outputs, -1)
        expected = np.log(np.take_along_axis(probs, x[..., None], -1))
    else:
        probs, (m, s) = scipy.special.softmax(outputs[0], -1), (outputs[1], np.exp(outputs[2]))
        half, x_k = 0.5 / 15, x[..., None]
        upper = np.where(x_k > 1 - half, 1.0, scipy.stats.logistic.cdf(x_k + half, m, s))
        lower = np.where(x_k < half, 0.0, scipy.stats.logistic.cdf(x_k - half, m, s))
        expected = np.log(np.sum(probs * (upper - lower), -1))
    np.testing.assert_allclose(likelihood.log_prob(outputs, jnp.asarray(x)), expected.sum(), rtol=1e-9)
    np.testing.assert_allclose(
        likelihood.terms(outputs, jnp.asarray(x)), expected.reshape(SHAPE), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", CASES)
def test_draws_have_the_probabilities(name):
    likelihood, outputs, support = case(name)
    num_draws, own = 20_000, one_entry(outputs, (0, 1))
    keys = jax.random.split(jax.random.key(11), num_draws)
    draws = np.asarray(jax.jit(jax.vmap(likelihood.sample, (0, None)))(keys, own))[:, 0]
    probs = probabilities(likelihood, own, support)
    for value, p in list(zip(support, probs, strict=True))[:12]:
        share = np.mean(np.isclose(draws, value))
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / num_draws) + 1 / num_draws


def information(likelihood, outputs, support):
    """E[-∂² log p] about the raveled outputs of one entry."""
    probs = probabilities(likelihood, outputs, support)
    hessians = _hessians(likelihood, outputs, jnp.asarray(support, float)[:, None])
    return -np.einsum("n,nij->ij", probs, hessians)


@functools.partial(jax.jit, static_argnums=0)
def _hessians(likelihood, outputs, xs):
    flat, unravel = jax.flatten_util.ravel_pytree(outputs)
    return jax.vmap(lambda x: jax.hessian(lambda f: likelihood.log_prob(unravel(f), x))(flat))(xs)


def as_metric(likelihood, outputs):
    """Jᵀ diag(w) J about the raveled outputs, J the derivative of `diagonalise`."""
    flat, unravel = jax.flatten_util.ravel_pytree(outputs)

    def diagonal(f):
        return jax.flatten_util.ravel_pytree(likelihood.diagonalise(unravel(f)))[0]

    J = np.asarray(jax.jacobian(diagonal)(flat))
    weights = jax.flatten_util.ravel_pytree(likelihood.fisher_weights(likelihood.diagonalise(outputs)))[0]
    return J.T @ (np.asarray(weights)[:, None] * J)


@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("mixture",) and "learned" not in name]
)
def test_fisher_weights_are_the_expected_second_derivative(name):
    likelihood, outputs, support = case(name)
    for index in ((0, 0), (1, 0), (2, 1)):
        own = one_entry(outputs, index)
        np.testing.assert_allclose(
            as_metric(likelihood, own), information(likelihood, own, support), rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize("log_r", [-3.0, 0.0, 2.5, 4.0])
@pytest.mark.parametrize("log_mean", [-3.0, 0.0, 3.0])
def test_fisher_weights_of_a_learned_dispersion_are_an_upper_bound(log_mean, log_r):
    likelihood, _, _ = CASES["negative binomial, learned"]
    outputs = (jnp.array([log_mean]), jnp.array([log_r]))
    mean, r = np.exp(log_mean), np.exp(log_r)
    top = int(scipy.stats.nbinom.ppf(1 - 1e-13, r, r / (r + mean))) + 2
    top = 4 ** int(np.ceil(np.log(top) / np.log(4)))  # few sizes, so few programs
    exact = information(likelihood, outputs, np.arange(top))
    weights = likelihood.fisher_weights(outputs)
    np.testing.assert_allclose(exact[0, 0], weights[0][0], rtol=1e-6)
    np.testing.assert_allclose(exact[0, 1], 0, atol=1e-6)  # orthogonal
    assert -1e-9 <= exact[1, 1] <= weights[1][0] * (1 + 1e-6)
    assert weights[1][0] < 2.2 * exact[1, 1]


@pytest.mark.parametrize(
    ("log_mean", "log_r"), [(2.0, 9.0), (4.0, 8.0), (-3.0, 5.0), (8.0, -2.0), (6.0, -5.0)]
)
def test_a_dispersion_that_hardly_shows_has_little_weight(log_mean, log_r):
    """Near the Poisson limit, and far from it; the exact one is the mean of the score's square."""
    mean, r = np.exp(log_mean), np.exp(log_r)
    x = np.arange(int(scipy.stats.nbinom.isf(1e-13, r, r / (r + mean))) + 2)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / (r + x[:-1]))])  # ψ(r + x) - ψ(r)
    score = r * (harmonic - np.log1p(mean / r) + (mean - x) / (r + mean))
    exact = np.sum(scipy.stats.nbinom.pmf(x, r, r / (r + mean)) * score**2)
    outputs = (jnp.array([log_mean]), jnp.array([log_r]))
    weight = CASES["negative binomial, learned"][0].fisher_weights(outputs)[1][0]
    assert exact * (1 - 1e-6) <= weight < 2.2 * exact


def test_fisher_weights_of_a_mixture_bound_the_information_and_meet_it_for_components_apart():
    likelihood, outputs, support = case("mixture")
    for index in ((0, 0), (1, 0), (2, 1)):
        own = one_entry(outputs, index)
        gap = as_metric(likelihood, own) - information(likelihood, own, support)
        assert np.linalg.eigvalsh(gap).min() > -1e-8
    likelihood = likelihoods.discretised_logistic_mixture(2, 256)
    own = (jnp.array([[0.3, -0.2]]), jnp.array([[0.25, 0.75]]), jnp.array([[-4.2, -4.2]]))
    exact = information(likelihood, own, np.arange(256) / 255)
    np.testing.assert_allclose(as_metric(likelihood, own), exact, atol=0.01 * exact.max())
    np.testing.assert_allclose(np.diag(as_metric(likelihood, own)), np.diag(exact), rtol=0.05)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("log_r", [-20.0, -3.0, 2.9, 3.1, 8.0, 14.0, 30.0])
def test_a_negative_binomial_is_right_from_geometric_to_poisson(log_r, dtype):
    """In single precision log Γ(x + r) - log Γ(r) of r = 10⁶ has an error of about 1."""
    likelihood, _, _ = CASES["negative binomial, learned"]
    x = jnp.array([0.0, 1.0, 7.0, 300.0], dtype)
    log_mean = jnp.full(4, 2.0, dtype)
    outputs = (log_mean, jnp.full(4, log_r, dtype))
    values, grads = likelihood.terms(outputs, x), _gradient(likelihood, outputs, x)
    if log_r > 25:
        expected = scipy.stats.poisson.logpmf(x, np.exp(2.0))
    else:
        r = np.exp(float(outputs[1][0]))
        expected = scipy.stats.nbinom.logpmf(np.asarray(x), r, r / (r + np.exp(2.0)))
    rounding = 1e-3 if dtype == jnp.float32 else 1e-6  # the parts of log p are 1,400
    np.testing.assert_allclose(values, expected, rtol=rounding / 30, atol=rounding)
    for array in (*grads, *likelihood.fisher_weights(outputs)):
        assert array.dtype == dtype
        assert np.all(np.isfinite(array))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_negative_binomial_is_finite_wherever_its_outputs_are(dtype):
    likelihood, _, _ = CASES["negative binomial, learned"]
    grid = jnp.array([-300.0, -90.0, -40.0, 0.0, 40.0, 60.0, 80.0, 300.0], dtype)
    for log_mean in grid:
        outputs = (jnp.full(grid.shape, log_mean), grid)
        for weight in likelihood.fisher_weights(outputs)[1:]:
            assert np.all(np.isfinite(weight) & (weight >= 0) & (weight <= 1 + 1e-6))
        if abs(log_mean) < 90:
            gradients = _gradient(likelihood, outputs, jnp.zeros_like(grid))
            assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtypes_and_shapes_are_kept(name, dtype):
    likelihood, outputs, support = case(name)
    outputs = jax.tree.map(lambda leaf: leaf.astype(dtype), outputs)
    x = jnp.full(SHAPE, support[1], dtype)
    assert likelihood.log_prob(outputs, x).dtype == dtype
    assert likelihood.sample(jax.random.key(0), outputs).shape == SHAPE
    weights = likelihood.fisher_weights(outputs)
    assert jax.tree.structure(weights) == jax.tree.structure(outputs)
    for weight, output in zip(jax.tree.leaves(weights), jax.tree.leaves(outputs), strict=True):
        assert (weight.shape, weight.dtype) == (output.shape, dtype)
    likelihood.check_outputs(outputs, x)
    raw = jnp.zeros((*SHAPE, likelihood.num_outputs), dtype)
    unpacked = likelihood.unpack(raw)
    likelihood.check_outputs(unpacked, x)
    assert np.isfinite(likelihood.log_prob(unpacked, x))


BAD = {
    "poisson": [-1.0, 0.5, np.nan, np.inf],
    "negative binomial, fixed": [-1.0, 0.5, np.nan],
    "categorical": [-1.0, 5.0, 0.5, np.nan],
    "mixture": [-1.0, 0.5 / 15, 2.0, np.nan],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_data_outside_the_support_are_refused(name, value):
    likelihood, _, support = case(name)
    data = np.full(SHAPE, support[1], float)
    likelihoods.check_data(likelihood, data)
    data[1, 1] = value
    with pytest.raises(
        ValueError, match=rf"no {likelihood.name} likelihood of x: expected .* 1 of 6 are refused"
    ):
        likelihoods.check_data(likelihood, data)


def test_integers_are_data_of_counts_and_classes():
    for name in ("poisson", "negative binomial, fixed", "categorical"):
        likelihood, outputs, _ = case(name)
        x = np.array([[0, 1], [2, 3], [4, 0]])
        likelihoods.check_data(likelihood, x)
        np.testing.assert_allclose(
            likelihood.log_prob(outputs, jnp.asarray(x)), likelihood.log_prob(outputs, jnp.asarray(x, float))
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: likelihoods.categorical(1), "num_classes must be a whole number of at least 2, got 1"),
        (lambda: likelihoods.negative_binomial(0.0), "dispersion must be finite and greater than 0, got 0.0"),
        (lambda: likelihoods.discretised_logistic_mixture(0), "num_components must be a whole number of at"),
        (lambda: likelihoods.discretised_logistic_mixture(2, 1), "num_levels must be a whole number of at"),
        (
            lambda: likelihoods.negative_binomial().log_prob(jnp.zeros(2), jnp.zeros(2)),
            r"outputs are the pair \(log mean, log dispersion\), got one array of shape \[2\]; for",
        ),
        (
            lambda: likelihoods.categorical(4).check_outputs(jnp.zeros((2, 3)), jnp.zeros(2)),
            r"x's shape and a last axis of 4, \(2, 4\), got \[\(2, 3\)\]",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
