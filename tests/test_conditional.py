"""Conditional VAEs, p(x | z, c) p(z): a linear-Gaussian one, whose log p(x | c) is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import hmcvae
from hmcvae import annealing, bounds, evaluation, likelihoods, posteriors, training

W = jnp.array([[1.0, 0.4], [-0.6, 0.9], [0.3, -1.1]])
B = jnp.array([[0.5, 0.0], [0.0, -2.0], [1.0, 1.0]])
SD = 0.5


def encode(params, x):
    values, c = x
    features = jnp.concatenate([values, c])
    return params["E"] @ features, jnp.full(2, 0.1), features


def decode(params, z, c):
    return params["W"] @ z + B @ c


VAE = hmcvae.VAE(encode, decode, likelihoods.gaussian(SD), 2, is_conditional=True)
PARAMS = {"W": W, "E": 0.1 * jax.random.normal(jax.random.key(1), (2, 5))}
XS = jax.random.normal(jax.random.key(2), (3, 3))
CS = jnp.eye(2)[jnp.array([0, 1, 0])]
EXACT = np.array(
    [
        scipy.stats.multivariate_normal.logpdf(x, B @ c, W @ W.T + SD**2 * jnp.eye(3))
        for x, c in zip(XS, CS, strict=True)
    ]
)


@pytest.mark.parametrize("name", ["elbo", "fisher", "hvi", "rhvi"])
def test_bounds_are_of_the_conditional_probability(name):
    bound = {
        "elbo": lambda: bounds.elbo(VAE),
        "fisher": lambda: bounds.elbo(
            VAE, posterior=posteriors.gauss_newton(posteriors.fisher(2), num_steps=2)
        ),
        "hvi": lambda: bounds.hvi(VAE, num_transitions=1, num_steps=2),
        "rhvi": lambda: bounds.rhvi(VAE, num_transitions=1, num_steps=1),
    }[name]()
    params = {"vae": PARAMS, "bound": bound.init(jax.random.key(0))}
    result = evaluation.estimate(bound, params, jax.random.key(3), (XS, CS), num_samples=4000)
    sd = np.sqrt((4000 / np.asarray(result.effective_sample_size) - 1) / 4000)
    assert np.all(np.abs(result.log_likelihood - EXACT) < 4 * sd + 0.01)


def test_estimates_take_conditions_of_any_form():
    vae = hmcvae.VAE(
        lambda p, x: encode(p, (x[0], x[1]["c"])),
        lambda p, z, c: decode(p, z, c["c"]),
        likelihoods.gaussian(SD),
        2,
        is_conditional=True,
    )
    params = {"vae": PARAMS, "bound": bounds.elbo(vae).init(jax.random.key(0))}
    key, examples = jax.random.key(3), (XS, {"c": CS, "seen": jnp.ones((3, 2), bool)})
    found = evaluation.estimate(bounds.elbo(vae), params, key, examples, num_samples=5)
    plain = evaluation.estimate(bounds.elbo(VAE), params, key, (XS, CS), num_samples=5)
    np.testing.assert_allclose(found.log_likelihood, plain.log_likelihood, rtol=1e-12)


def test_annealing_and_the_models_own_draws():
    result = annealing.ais(VAE, PARAMS, jax.random.key(4), (XS, CS), num_temperatures=60, num_chains=300)
    np.testing.assert_allclose(result.log_likelihood, EXACT, atol=0.1)
    conditions = jnp.eye(2)[jnp.arange(4000) % 2]
    z, (xs, cs) = annealing.simulate(VAE, PARAMS, jax.random.key(5), 4000, conditions=conditions)
    assert z.shape == (4000, 2)
    np.testing.assert_array_equal(cs, conditions)
    np.testing.assert_allclose(xs[1::2].mean(0), B[:, 1], atol=0.1)
    back = annealing.reverse_ais(
        VAE, PARAMS, jax.random.key(6), (xs[:2], cs[:2]), z[:2], num_temperatures=60, num_chains=300
    )
    expected = [
        scipy.stats.multivariate_normal.logpdf(x, B @ c, W @ W.T + SD**2 * jnp.eye(3))
        for x, c in zip(xs[:2], cs[:2], strict=True)
    ]
    np.testing.assert_allclose(back.log_likelihood, expected, atol=0.15)


def test_training_takes_pairs_and_learns():
    bound = bounds.elbo(VAE)
    start = {"vae": jax.tree.map(lambda leaf: 0.1 * leaf, PARAMS), "bound": bound.init(jax.random.key(0))}
    conditions = jnp.eye(2)[jnp.arange(400) % 2]
    _, data = annealing.simulate(VAE, PARAMS, jax.random.key(7), 400, conditions=conditions)
    records = [
        record
        for _, record in training.fit(
            bound, start, data, optimizer=optax.adam(0.01), batch_size=50, num_epochs=4
        )
    ]
    assert records[-1]["bound"] > records[0]["bound"] + 0.5


def test_generating_wants_the_condition():
    z, c = jnp.array([0.3, -0.2]), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(VAE.generate(PARAMS, z, c), W @ z + B @ c, rtol=1e-12)
    with pytest.raises(ValueError, match="takes a condition c beside z, got 0 conditions"):
        VAE.generate(PARAMS, z)
    plain = hmcvae.VAE(encode, lambda params, z: z, likelihoods.gaussian(SD), 2)
    with pytest.raises(ValueError, match="takes z alone, without a condition, got 1 conditions"):
        plain.generate(PARAMS, z, c)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: VAE.log_likelihood(PARAMS, XS[0], jnp.zeros(2)),
            r"examples that are pairs \(x, c\), got one array of shape",
        ),
        (lambda: VAE.check_examples(XS), r"examples that are pairs \(x, c\), got one array of shape"),
        (lambda: VAE.check_examples((XS, CS[:2])), r"arrays \[n, …\] of one length, got lengths \[2, 3\]"),
        (lambda: VAE.check_examples((XS[:0], CS[:0])), "at least one example to evaluate on, got 0"),
        (lambda: VAE.check_data((XS.at[0, 0].set(jnp.nan), CS)), "no gaussian likelihood of x"),
        (
            lambda: annealing.simulate(VAE, PARAMS, jax.random.key(0), 3, conditions=CS[:2]),
            r"expected conditions \[3, …\], got lengths",
        ),
        (lambda: annealing.simulate(VAE, PARAMS, jax.random.key(0), 3), "takes a condition c beside z"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
