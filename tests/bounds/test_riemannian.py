"""Riemannian Hamiltonian variational inference and annealed chains, on a curved decoder whose p(x) a grid gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import bounds, integrators, metrics, posteriors, solvers
from hmcvae.priors import gaussian_log_prob
from tests.support import models
from tests.support.weights import assert_gradient, perturbed

LATENT, PIXELS, SCALE = models.LATENT, models.PIXELS, 0.6
X = jnp.array([0.7, -0.2, 0.5])
NUM_DRAWS = 20_000
FEW = solvers.fixed_point(num_iterations=2)
COUNTED = solvers.fixed_point(num_iterations=60)


def _decode(p: dict, z: jax.Array) -> jax.Array:
    """Curved enough that G varies several times over the posterior."""
    return p["W"] @ jnp.tanh(p["B"] @ z) + p["b"]


def _encode(p: dict, x: jax.Array):
    return p["mean"] + 0.05 * (x[:LATENT] - X[:LATENT]), p["log_scale"], jnp.tanh(x)


VAE = hmcvae.VAE(_encode, _decode, hmcvae.likelihoods.gaussian(SCALE), LATENT)


def _grid(width: float = 7.0, count: int = 601):
    """(log p(x), mean of z, its standard deviation) by the trapezoid rule, which is exact to rounding here."""
    axis = np.linspace(-width, width, count)
    z = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, LATENT))
    log_joint = jax.lax.map(lambda y: VAE.log_joint(CURVED, X, y), z, batch_size=20_000)
    log_p = jax.nn.logsumexp(log_joint) + 2 * np.log(axis[1] - axis[0])
    weights = jnp.exp(log_joint - log_p) * (axis[1] - axis[0]) ** 2
    mean = weights @ z
    return float(log_p), mean, jnp.sqrt(weights @ z**2 - mean**2)


def _model() -> dict:
    keys = jax.random.split(jax.random.key(7), 3)
    return {
        "W": jax.random.normal(keys[0], (PIXELS, 4)),
        "B": 0.7 * jax.random.normal(keys[1], (4, LATENT)),
        "b": jax.random.normal(keys[2], (PIXELS,)),
        "mean": jnp.zeros(LATENT),
        "log_scale": jnp.zeros(LATENT),
    }


CURVED = _model()
LOG_P, MEAN, SD = _grid()
CURVED["mean"] = MEAN + 0.1 * SD
# In z the scale of the posterior; whitened posteriors read their scale in y, where it is of the order of one.
PLAIN = CURVED | {"log_scale": jnp.log(1.2 * SD)}
WHITE = CURVED | {"log_scale": jnp.full(LATENT, 0.2)}
POSTERIOR = posteriors.gauss_newton(posteriors.fisher(LATENT))


def rhvi(
    num_transitions: int = 2, num_steps: int = 2, posterior: posteriors.Posterior = POSTERIOR, **options
) -> bounds.Bound:
    settings: dict = {"reverse": models.conditional(0.15), "initial_step_size": 0.15}
    return bounds.rhvi(
        VAE, posterior=posterior, num_transitions=num_transitions, num_steps=num_steps, **(settings | options)
    )


def with_vae(bound: bounds.Bound, params: dict = WHITE, seed: int = 5) -> dict:
    return perturbed(bound, seed) | {"vae": params}


def draws(bound: bounds.Bound, params: dict, count: int = NUM_DRAWS):
    keys = jax.random.split(jax.random.key(11), count)
    return jax.jit(jax.vmap(lambda key: bound(params, key, X)))(keys)


def assert_unbiased(log_weights, worst_error: float = 0.03) -> None:
    ratio = np.exp(np.asarray(log_weights) - LOG_P)
    error = ratio.std() / np.sqrt(len(ratio))
    assert error < worst_error, error
    assert abs(ratio.mean() - 1) < 4 * error, (ratio.mean(), error)
    assert np.mean(log_weights) < LOG_P


def annealed(name: str) -> tuple[bounds.Bound, dict]:
    options: dict = {
        "num_transitions": 3,
        "num_steps": 1,
        "reverse": models.conditional(0.1),
        "initial_step_size": 0.3,
        "annealed": True,
    }
    if name == "plain hvi":
        bound = bounds.hvi(VAE, **options)
        return bound, with_vae(bound, PLAIN)
    bound = (bounds.hvi if name == "whitened hvi" else bounds.rhvi)(VAE, posterior=POSTERIOR, **options)
    return bound, with_vae(bound)


@pytest.mark.parametrize(
    ("num_transitions", "num_steps", "options"),
    [
        (1, 1, {}),
        (2, 2, {}),
        (2, 1, {"momentum": models.conditional(0.15)}),
        (1, 3, {"position_dependence": 1.0}),
        (1, 2, {"position_dependence": 1.0, "posterior": posteriors.mean_field(whitened=True)}),
        (1, 2, {"posterior": posteriors.mean_field()}),
        (1, 2, {"integrator": integrators.implicit_midpoint}),
    ],
)
def test_weights_are_unbiased(num_transitions, num_steps, options):
    bound = rhvi(num_transitions, num_steps, **options)
    params = with_vae(bound, PLAIN if "posterior" in options else WHITE)
    log_weights, info = draws(bound, params)
    assert np.mean(info.solver.converged) > 0.9995
    assert_unbiased(log_weights)


def test_importance_weighting_is_unbiased_and_tighter():
    one = rhvi(1, 2)
    many = bounds.importance_weighted(one, 4)
    params = with_vae(one)
    log_weights, _ = draws(many, params, NUM_DRAWS // 4)
    assert_unbiased(log_weights)
    assert np.mean(log_weights) > np.mean(draws(one, params)[0])


@pytest.mark.parametrize("name", ["plain hvi", "whitened hvi", "rhvi"])
def test_annealed_weights_are_unbiased(name):
    bound, params = annealed(name)
    assert_unbiased(draws(bound, params)[0])


def test_steps_are_those_of_the_manifold_in_the_latent_space():
    """The generalized leapfrog goes with affine coordinates: in z it is that of the Fisher information plus I, with
    v_z = A^-T v_y. The weight is then written out with the metric's own normalised density of momenta."""
    bound = rhvi(1, 3, reverse=None, position_dependence=1.0)
    params = with_vae(bound)
    key = jax.random.key(3)
    log_weight, info = bound(params, key, X)
    chain_key = jax.random.split(key)[1]
    frame = bound.build(params, key, X).coordinates
    y0 = jnp.linalg.solve(frame.scale, info.initial_position - frame.center)
    metric = metrics.fisher(lambda z: _decode(WHITE, z), VAE.likelihood.fisher_weights, 1.0)

    def tensor(y):
        return frame.scale.T @ metric.tensor(frame.to_position(y)) @ frame.scale

    w = jax.random.normal(jax.random.split(chain_key, 1)[0], (LATENT,))
    v_y = jnp.linalg.cholesky(tensor(y0)) @ w
    logdensity_fn = VAE.logdensity_fn(WHITE, X)
    v_z = jnp.linalg.solve(frame.scale.T, v_y)
    state = integrators.init(logdensity_fn, metric, info.initial_position, v_z)
    epsilon = hmcvae.transitions.step_size(jax.tree.map(lambda leaf: leaf[0], params["bound"]["chain"]))
    end, solver = integrators.integrate(
        integrators.generalized_leapfrog(logdensity_fn, metric), state, epsilon, 3
    )
    assert solver.converged
    np.testing.assert_allclose(info.position, end.position, rtol=1e-8)
    log_q0 = gaussian_log_prob(y0, jnp.zeros(LATENT), frame.log_scale) - frame.log_det
    expected = (
        logdensity_fn(end.position)
        - log_q0
        + metric.log_prob_momentum(end.momentum, end.position)
        - metric.log_prob_momentum(v_z, info.initial_position)
    )
    np.testing.assert_allclose(log_weight, expected, rtol=1e-8)


def test_without_position_dependence_it_is_the_frozen_metric():
    options: dict = {"reverse": models.conditional(0.15), "num_transitions": 2, "num_steps": 3}
    frozen = bounds.hvi(VAE, posterior=POSTERIOR, **options)
    moving = rhvi(2, 3, position_dependence=0.0)
    params = with_vae(moving)
    own = params["bound"]["chain"]
    chain = {name: own[name] for name in ("step_size", "reverse", "momentum")}
    chain["log_mass"] = own["metric"]["log_mass"]
    assert np.abs(chain["log_mass"]).min() > 1e-4
    flat = params | {"bound": {"posterior": params["bound"]["posterior"], "chain": chain}}
    keys = jax.random.split(jax.random.key(4), 20)
    a = jax.vmap(lambda k: moving(params, k, X)[0])(keys)
    b = jax.vmap(lambda k: frozen(flat, k, X)[0])(keys)
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_energy_errors_shrink_with_the_square_of_the_step():
    def error(num_steps: int) -> float:
        bound = rhvi(1, num_steps, reverse=None, initial_step_size=0.4 / num_steps)
        params = {"vae": WHITE, "bound": bound.init(jax.random.key(0))}
        return float(jnp.mean(draws(bound, params, 200)[1].energy_error))

    ratio = error(4) / error(8)
    assert 3.4 < ratio < 4.6, ratio


@pytest.mark.parametrize("solver", [solvers.DEFAULT, COUNTED])
def test_gradients_equal_finite_differences(solver):
    """Through implicit solves and through unrolled ones, in a direction of all parameters; float64."""
    bound = rhvi(2, 2, solver=solver)
    assert_gradient(bound, with_vae(bound), 1e-6, X)


@pytest.mark.parametrize("name", ["plain hvi", "whitened hvi", "rhvi"])
def test_annealed_gradients_equal_finite_differences(name):
    assert_gradient(*annealed(name), 1e-6, X)


def test_solves_that_are_not_converged_are_reported():
    """Two iterations are not enough in float64; the info says so, and evaluation counts them."""
    bound = rhvi(1, 2, solver=FEW, initial_step_size=0.3, reverse=None)
    params = with_vae(bound)
    _, info = draws(bound, params, 50)
    assert not info.solver.converged.any()
    figures = hmcvae.evaluation.estimate(bound, params, jax.random.key(0), X[None], num_samples=20)
    assert float(figures.unconverged[0]) == 1.0
    exact = rhvi(1, 2, initial_step_size=0.3, reverse=None)
    assert draws(exact, params, 50)[1].solver.converged.all()


@pytest.mark.parametrize("batch", [100, 16_000])
def test_infinite_weights_are_not_called_converged(batch):
    """At absurd steps the flow leaves the finite numbers, in batches of every size."""
    bound = rhvi(1, 2, initial_step_size=1e80, max_step_size=1e90, reverse=None)
    log_weights, info = draws(bound, with_vae(bound), batch)
    is_lost = ~np.isfinite(log_weights)
    assert is_lost.mean() > 0.1
    assert not info.solver.converged[is_lost].any()


def test_inverse_temperatures_rise_between_zero_and_one():
    betas = np.asarray(bounds.inverse_temperatures(jnp.array([0.3, -1.0, 2.0, 0.1])))
    assert betas.shape == (3,)
    assert (np.diff([0.0, *betas, 1.0]) > 0).all()


def test_annealing_ends_at_the_encoder_and_at_the_posterior():
    """At β = 1 the chain is the plain one; at β = 0 it keeps to q, so that its weight is that of q where it ends."""
    options: dict = {"num_transitions": 2, "num_steps": 4, "initial_step_size": 0.02}
    plain, path = bounds.hvi(VAE, **options), bounds.hvi(VAE, **options, annealed=True)
    own = plain.init(jax.random.key(0))
    key = jax.random.key(5)

    def weight(schedule: list[float]):
        annealed = own | {"schedule": jnp.asarray(schedule)}
        return path({"vae": PLAIN, "bound": annealed}, key, X)

    at_posterior = weight([60.0, 0.0, 0.0])[0]
    np.testing.assert_allclose(at_posterior, plain({"vae": PLAIN, "bound": own}, key, X)[0], rtol=1e-9)
    log_weight, info = weight([-30.0, -30.0, 30.0])
    z, q = info.position, path.build({"vae": PLAIN, "bound": own}, key, X).coordinates
    assert np.abs(z - info.initial_position).max() > 0.01
    np.testing.assert_allclose(log_weight, VAE.log_joint(PLAIN, X, z) - q.log_prob(z), atol=5e-3)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="position_dependence must be a finite number in .0, 1., got 1.5"):
        rhvi(position_dependence=1.5)
    with pytest.raises(ValueError, match="num_steps"):
        rhvi(num_steps=-1)
    with pytest.raises(ValueError, match="initial_step_size must be below"):
        rhvi(initial_step_size=2.0)
