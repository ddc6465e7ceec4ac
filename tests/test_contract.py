"""The public contract: one walk over all that users and independent checks rely on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae.types import Factor, Metric

D = 3
MASS = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 0.5]])
METRICS = {
    "identity": (hmcvae.metrics.identity, np.eye(D)),
    "diagonal": (lambda: hmcvae.metrics.diagonal(jnp.array([2.0, 1.0, 0.5])), np.diag([2.0, 1.0, 0.5])),
    "dense": (lambda: hmcvae.metrics.dense(jnp.array(MASS)), MASS),
    "low_rank": (
        lambda: hmcvae.metrics.low_rank(jnp.full(D, 2.0), np.array([[0.6], [0.0], [0.8]]), jnp.array([3.0])),
        2 * np.eye(D) + 4 * np.outer([0.6, 0.0, 0.8], [0.6, 0.0, 0.8]),
    ),
}


def logdensity_fn(z):
    return -0.5 * jnp.sum(z**2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", METRICS)
def test_contract_of_metrics(name, dtype):
    """Every method under one jit, against the matrix itself."""
    make, G = METRICS[name]
    metric = make()
    assert isinstance(metric, Metric)
    assert metric.is_position_dependent is False
    z, v = jnp.arange(3.0, dtype=dtype), jnp.array([0.3, -1.0, 2.0], dtype)
    V = jnp.stack([v, z], axis=1)

    @jax.jit
    def walk(z, v, V):
        factor = metric.factor(z)
        assert isinstance(factor, Factor)
        return {
            "tensor": metric.tensor(z),
            "matvec": metric.matvec(z, v),
            "quadratic_form": metric.quadratic_form(z, v),
            "quadratic_form of two": metric.quadratic_form(z, V),
            "solve": factor.solve(v),
            "sqrt": factor.sqrt_solve(factor.sqrt_matvec(v)),
            "covariance": factor.sqrt_matvec(factor.sqrt_matvec(jnp.eye(D, dtype=dtype)).T),
            "log_det": factor.log_det,
            "sample_momentum": metric.sample_momentum(jax.random.key(0), z) * 0,
            "log_prob_momentum": metric.log_prob_momentum(v, z),
            "kinetic_energy": metric.kinetic_energy(v, z),
        }

    v64, V64, log_det = np.asarray(v, np.float64), np.asarray(V, np.float64), np.linalg.slogdet(G)[1]
    energy = 0.5 * v64 @ np.linalg.solve(G, v64) + 0.5 * log_det
    expected = {
        "tensor": G,
        "matvec": G @ v64,
        "quadratic_form": v64 @ G @ v64,
        "quadratic_form of two": np.trace(V64.T @ G @ V64),
        "solve": np.linalg.solve(G, v64),
        "sqrt": v64,
        "covariance": G,
        "log_det": log_det,
        "sample_momentum": np.zeros(D),
        "log_prob_momentum": -energy - 0.5 * D * np.log(2 * np.pi),
        "kinetic_energy": energy,
    }
    for key, value in walk(z, v, V).items():
        assert value.dtype == dtype, key
        np.testing.assert_allclose(value, expected[key], rtol=2e-5, atol=1e-6, err_msg=key)


def test_contract_of_integrators():
    metric = hmcvae.metrics.diagonal(jnp.array([1.0, 2.0], jnp.float32))
    z, v = jnp.array([1.0, 0.0], jnp.float32), jnp.array([0.0, 1.0], jnp.float32)

    @jax.jit
    def walk(z, v, step_size):
        state = hmcvae.integrators.init(logdensity_fn, metric, z, v)
        step = hmcvae.integrators.leapfrog(logdensity_fn, metric)
        once, _ = step(state, step_size)
        return once, hmcvae.integrators.integrate(step, state, step_size, num_steps=1)

    once, (state, info) = walk(z, v, 0.1)
    assert isinstance(state, hmcvae.integrators.IntegratorState)
    assert (state.position.shape, state.momentum.shape, state.logdensity.shape) == ((2,), (2,), ())
    np.testing.assert_allclose(state.logdensity_grad, -state.position, rtol=1e-6)
    np.testing.assert_allclose(once.position, state.position, rtol=1e-6)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    assert isinstance(info, hmcvae.solvers.SolverInfo)
    assert (bool(info.converged), int(info.num_iterations), float(info.residual)) == (True, 0, 0.0)


def test_contract_of_kernels_and_sampling():
    """Positions may be any pytree; the number of steps may be drawn anew."""
    steps = hmcvae.uniform_steps(1, 3)

    def of_tree(position):
        return logdensity_fn(position["a"]) + logdensity_fn(position["b"])

    algorithm = hmcvae.hmc(of_tree, 0.3, steps, metric=hmcvae.metrics.identity())
    position = {"a": jnp.ones(2, jnp.float32), "b": jnp.zeros((), jnp.float32)}
    state, info = jax.jit(algorithm.step)(jax.random.PRNGKey(0), algorithm.init(position))
    assert jax.tree.structure(state.position) == jax.tree.structure(position)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    assert 0 <= float(info.acceptance_rate) <= 1
    assert 1 <= int(info.num_integration_steps) <= 3
    for name in ("is_accepted", "is_divergent", "energy", "solver", "reversibility_error"):
        assert hasattr(info, name), name
    starts = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    samples = hmcvae.sample(jax.random.key(1), algorithm, starts, num_samples=4, num_warmup=0)
    assert jax.tree.map(jnp.shape, samples.position) == {"a": (2, 4, 2), "b": (2, 4)}


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretised_logistic"])
def test_contract_of_the_vae_and_its_bounds(likelihood):
    """Plain functions, float32, every bound and likelihood: shapes and dtypes by abstract evaluation."""
    likelihood = getattr(hmcvae.likelihoods, likelihood)()

    def decode(params, z):
        mean = params["w"] @ z
        return mean if likelihood.num_outputs == 1 else (mean, 0 * mean)

    vae = hmcvae.VAE(encode=lambda params, x: (x[:2], -x[:2], x), decode=decode, likelihood=likelihood)
    bounds = hmcvae.bounds
    made = [
        bounds.elbo(vae),
        bounds.elbo(vae, kl="analytic"),
        bounds.iwae(vae, num_samples=3),
        bounds.hvi(vae, reverse=lambda params, features, z: (0 * z, 0 * z), num_transitions=1, num_steps=4),
        bounds.importance_weighted(bounds.hvi(vae), 2),
        bounds.markov_chain(vae, hmcvae.transitions.hamiltonian(None), 2),
    ]
    posteriors = hmcvae.posteriors
    full = posteriors.full_covariance(3, 2)
    for posterior in (
        posteriors.mean_field(),
        posteriors.mean_field(whitened=True),
        full,
        posteriors.gauss_newton(posteriors.fisher(2), num_steps=2, fresh=True),
        posteriors.distilled(posteriors.low_rank(full, 3, 2, 1), 0.5),
    ):
        made += [
            bounds.elbo(vae, posterior=posterior),
            bounds.elbo(vae, posterior=posterior, kl="analytic"),
            bounds.hvi(vae, posterior=posterior, num_steps=2),
            bounds.rhvi(vae, posterior=posterior),
            bounds.markov_chain(vae, hmcvae.transitions.hamiltonian(2), posterior=posterior),
        ]
    xs = jax.ShapeDtypeStruct((5, 3), jnp.float32)

    def loss_fn(params, bound, xs):
        keys = jax.random.split(jax.random.key(0), len(xs))
        log_weights, info = jax.vmap(bound, (None, 0, 0))(params, keys, xs)
        assert log_weights.shape == (5,)
        assert info.log_likelihood.shape[0] == info.position.shape[0] == 5
        return -jnp.mean(log_weights)

    with pytest.raises(ValueError, match=r"params must be .* got \['w'\]"):
        made[0]({"w": jnp.zeros((3, 2))}, jax.random.key(0), jnp.zeros(3))
    for bound in made:
        vae_params = {"w": jax.ShapeDtypeStruct((3, 2), jnp.float32)}
        params = {"vae": vae_params, "bound": jax.eval_shape(bound.init, jax.random.key(0))}
        loss, gradients = jax.eval_shape(
            lambda p, x, b=bound: jax.value_and_grad(loss_fn)(p, b, x), params, xs
        )
        assert (loss.shape, loss.dtype) == ((), jnp.float32), bound.name
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), gradients) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), params
        )
