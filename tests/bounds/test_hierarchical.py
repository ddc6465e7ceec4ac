"""Hierarchical transitions inside the bound, on a model whose p(x) is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import bounds, transitions
from tests.support import models
from tests.support.weights import PARAMS, VAE, X, assert_gradient, assert_unbiased, draws, perturbed

NETWORK = transitions.MassModel(
    lambda key: {"w": 0.5 * jax.random.normal(key, (1, models.FEATURES + 1))},
    lambda p, features, y1: jnp.tanh(p["w"] @ jnp.concatenate([features, y1])),
)


def make(num_steps=2, num_transitions=2, **options) -> bounds.Bound:
    settings: dict = {"reverse": models.conditional(0.15), "initial_step_size": 0.3} | options
    move = transitions.hierarchical(models.LATENT, num_steps=num_steps, **settings)
    return bounds.markov_chain(VAE, move, num_transitions)


def moved(bound: bounds.Bound) -> dict:
    """Masses that depend on the position by more than the few per cent of `perturbed`."""
    params = perturbed(bound)
    mass = params["bound"]["chain"]["metric"]["mass"]
    for name in mass:
        mass[name] = mass[name] + jnp.asarray([0.7, -0.9]).reshape(2, *(1,) * (mass[name].ndim - 1))
    return params


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": models.conditional(0.15), "blocks": [1, 0]},
        {"mass": NETWORK, "num_steps": 3, "num_transitions": 1},
    ],
    ids=["log-linear", "learned momentum", "network"],
)
def test_weights_are_unbiased(options):
    bound = make(**options)
    params = moved(bound) if options.get("num_transitions", 2) == 2 else perturbed(bound)
    assert_unbiased(draws(bound, params))


def test_gradients_equal_finite_differences():
    bound = make(mass=NETWORK)
    assert_gradient(bound, moved(bound), 1e-6, X)


def test_with_constant_masses_it_is_hvi():
    bound = make(num_steps=3)
    plain = bounds.hvi(
        VAE, reverse=models.conditional(0.15), num_transitions=2, num_steps=3, initial_step_size=0.3
    )
    params = perturbed(bound)
    own = params["bound"]["chain"]
    own["metric"]["mass"]["slopes"] = jnp.zeros((2, 1, 1))
    masses = [own["metric"]["log_mass"], own["metric"]["mass"]["intercept"]]
    chain = {name: own[name] for name in ("step_size", "reverse", "momentum")}
    chain["log_mass"] = jnp.concatenate(masses, axis=1)
    flat = params | {"bound": {"posterior": {}, "chain": chain}}
    np.testing.assert_allclose(draws(bound, params, count=5), draws(plain, flat, count=5), rtol=1e-10)


def test_it_solves_nothing_and_reports_the_energy():
    bound = make(reverse=None)
    log_weight, info = jax.jit(bound)(moved(bound), jax.random.key(0), X)
    assert np.isfinite(log_weight)
    assert bool(info.solver.converged)
    assert int(info.solver.num_iterations) == 0
    assert float(info.energy_error) > 0


def test_bad_settings_are_refused():
    for blocks in ([0, 1, 1], [0, 0], [0, 1, 2]):
        with pytest.raises(ValueError, match="two"):
            transitions.hierarchical(2, blocks=blocks)
    with pytest.raises(ValueError, match="latent_dim must be a whole number of at least 2, got 1"):
        transitions.hierarchical(1)
    assert transitions.hierarchical(5).init(jax.random.key(0))["metric"]["log_mass"].shape == (2,)


def test_float32():
    """Abstractly: no wider number comes out of parameters in single precision."""
    bound = make()
    single = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32), {"vae": PARAMS, "bound": moved(bound)["bound"]}
    )
    log_weight, info = jax.eval_shape(bound, single, jax.random.key(0), X.astype(jnp.float32))
    assert log_weight.dtype == info.position.dtype == info.energy_error.dtype == jnp.float32
