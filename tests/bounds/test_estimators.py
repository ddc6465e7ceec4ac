"""Estimators of a bound's gradient: the same value, the same mean gradient, and less variance where theory says so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import bounds, posteriors
from hmcvae.bounds.base import DOUBLY, PATH, TOTAL
from tests.support import models
from tests.support.posteriors import POSTERIORS
from tests.support.posteriors import VAE as WHITE
from tests.support.weights import PARAMS, VAE, X, perturbed

NUM_DRAWS = 40_000
BETA = 0.7


def make(posterior: posteriors.Posterior, vae: hmcvae.VAE, num_samples: int, gradient: str) -> bounds.Bound:
    if num_samples == 1:
        return bounds.elbo(vae, posterior=posterior, gradient=gradient)
    return bounds.iwae(vae, num_samples=num_samples, posterior=posterior, gradient=gradient)


def compiled(bound: bounds.Bound, params: dict):
    """KL weight -> (values [n], gradients [n, number of parameters]) of n draws."""

    def one(kl_weight, key):
        value, slopes = jax.value_and_grad(lambda p: bound(p, key, X, kl_weight)[0])(params)
        return value, jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(slopes)])

    call = jax.jit(jax.vmap(one, (None, 0)))
    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    return lambda kl_weight: map(np.asarray, call(kl_weight, keys))


@pytest.mark.parametrize(("name", "num_samples"), [("plain", 1), ("amortised", 1), ("fisher, refined", 3)])
def test_estimators_agree_in_value_and_in_mean_gradient(name, num_samples):
    """Of the encoder, the decoder and the posterior's own parameters, in pairs of the same draws."""
    posterior, vae = (posteriors.mean_field(), VAE) if name == "plain" else (POSTERIORS[name], WHITE)
    other = PATH if num_samples == 1 else DOUBLY
    plain, path = (make(posterior, vae, num_samples, gradient) for gradient in (TOTAL, other))
    params = perturbed(plain)
    calls = [compiled(bound, params) for bound in (plain, path)]
    for beta in (1.0, BETA):  # of a warm-up
        (values, total), (same, found) = (call(beta) for call in calls)
        np.testing.assert_allclose(same, values, rtol=1e-12)
        difference = found - total
        error = difference.std(axis=0) / np.sqrt(NUM_DRAWS)
        spread = np.abs(difference.mean(axis=0)) / np.where(error > 1e-12, error, 1.0)
        assert spread.max() < 4.5, spread
        assert error.max() < 0.05
        # It is another estimator, of a gradient that is not 0.
        assert np.abs(total.mean(axis=0)).max() > 0.1
        assert error.max() > 1e-4


def exact_model() -> tuple[hmcvae.VAE, dict]:
    """A model whose encoder is exact: orthogonal columns of W."""
    params = PARAMS | {"W": jnp.array([[1.2, 0.0], [0.0, 0.8], [0.0, 0.0]])}
    gain = models.exact_posterior(params, jnp.zeros(3))[1] @ params["W"].T / models.SCALE**2
    _, covariance = models.exact_posterior(params, X)
    own = params | {"A": gain, "c": -gain @ params["b"], "log_scale": 0.5 * jnp.log(jnp.diag(covariance))}
    return hmcvae.VAE(
        lambda p, x: (p["A"] @ x + p["c"], p["log_scale"], x), VAE.decode, VAE.likelihood, models.LATENT
    ), own


def test_the_path_gradient_has_no_variance_where_q_is_exact():
    """And the total one has (Roeder et al. 2017, section 3); so it is of the doubly reparameterised one."""
    vae, own = exact_model()
    for num_samples, other in ((1, PATH), (4, DOUBLY)):
        spreads = []
        for gradient in (TOTAL, other):
            bound = make(posteriors.mean_field(whitened=True), vae, num_samples, gradient)
            encoder = {"A": own["A"], "c": own["c"], "log_scale": own["log_scale"]}

            def one(key, b=bound, encoder=encoder):
                params = lambda e: {"vae": own | e, "bound": {"posterior": {}}}  # noqa: E731
                slopes = jax.grad(lambda e: b(params(e), key, X)[0])(encoder)
                return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(slopes)])

            found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 1000))
            spreads.append(float(jnp.max(jnp.std(found, axis=0))))
        assert spreads[0] > 0.1
        assert spreads[1] < 1e-9


def test_the_doubly_reparameterised_gradient_has_less_variance_with_many_samples():
    """Of the encoder's parameters, near the exact posterior but not at it."""
    names = ("A", "log_scale")
    variances = []
    for gradient in (TOTAL, DOUBLY):
        bound = make(posteriors.mean_field(), VAE, 16, gradient)

        def one(key, b=bound):
            slopes = jax.grad(lambda e: b({"vae": PARAMS | e, "bound": {"posterior": {}}}, key, X)[0])(
                {name: PARAMS[name] for name in names}
            )
            return jnp.concatenate([slopes[name].reshape(-1) for name in names])

        found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 4000))
        variances.append(np.var(np.asarray(found), axis=0).sum())
    assert variances[1] < 0.5 * variances[0], variances


def test_a_draw_of_no_weight_leaves_the_gradient_finite():
    """Where one of the K draws has the log weight -inf."""

    def decode(p, z):
        return jnp.where(z[0] > 0.5, jnp.inf, 1.0) * VAE.decode(p, z)

    vae = dataclasses.replace(VAE, decode=decode)
    bound = make(posteriors.mean_field(), vae, 16, DOUBLY)
    params = {"vae": PARAMS, "bound": {"posterior": {}}}
    value, info = jax.jit(bound)(params, jax.random.key(0), X)
    assert 0 < np.isfinite(info.log_weight).sum() < 16
    assert np.isfinite(value)


def test_the_posterior_is_built_once_for_all_draws():
    calls = []

    def build(params, rng_key, example):
        calls.append(1)
        return posteriors.mean_field().build(params, rng_key, example)

    counted = posteriors.Posterior(lambda _: {}, build, is_whitened=False)
    for made in (
        bounds.iwae(VAE, num_samples=5, posterior=counted),
        bounds.iwae(VAE, num_samples=5, posterior=counted, gradient=DOUBLY),
        bounds.importance_weighted(bounds.hvi(VAE, posterior=counted, num_transitions=2), 5),
    ):
        calls.clear()
        params = {"vae": PARAMS, "bound": made.init(jax.random.key(0))}
        _, info = jax.eval_shape(lambda key, m=made, p=params: m(p, key, X), jax.random.key(0))
        assert len(calls) == 1
        assert info.log_weight.shape == (5,)


def test_what_makes_no_sense_is_refused():
    taught = posteriors.gauss_newton(posteriors.distilled(posteriors.mean_field(whitened=True)))
    cases = (
        (
            lambda: bounds.elbo(VAE, gradient="score"),
            'gradient must be "total" or "sticking_the_landing", got \'score',
        ),
        (lambda: bounds.elbo(VAE, kl="analytic", gradient=PATH), 'needs kl="sampled".* got kl="analytic"'),
        (lambda: bounds.elbo(VAE, posterior=taught, gradient=PATH), "got a distilled posterior"),
        (
            lambda: bounds.iwae(VAE, num_samples=2, gradient=PATH),
            'must be "total" or "doubly_rep.* got \'sticking',
        ),
        (lambda: bounds.iwae(VAE, num_samples=2, posterior=taught, gradient=DOUBLY), "needs an elbo"),
        (lambda: bounds.importance_weighted(bounds.hvi(VAE), 2, gradient=DOUBLY), "needs an elbo .* got hvi"),
        (
            lambda: bounds.importance_weighted(bounds.elbo(VAE, gradient=PATH), 2),
            "would be biased by importance",
        ),
    )
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
