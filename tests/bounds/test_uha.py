"""Uncorrected Hamiltonian annealing: unbiased weights, its definition written out, and the bound that it is without
persistence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import bounds, transitions
from hmcvae.priors import gaussian_log_prob
from tests.support import models
from tests.support.posteriors import POSTERIORS, WHITE
from tests.support.weights import PARAMS, VAE, X, assert_gradient, assert_unbiased, draws, log_q, perturbed

OPTIONS = {"initial_step_size": 0.3, "max_step_size": 0.9}


def make(num_transitions: int, **changes) -> bounds.Bound:
    return bounds.uha(VAE, num_transitions=num_transitions, **(OPTIONS | changes))


@pytest.mark.parametrize(
    ("num_transitions", "changes"),
    [(1, {}), (4, {}), (4, {"persistence": 0.9}), (3, {"annealed": False})],
)
def test_weights_are_unbiased(num_transitions, changes):
    bound = make(num_transitions, **changes)
    assert_unbiased(draws(bound, perturbed(bound)))


def test_weights_are_unbiased_in_whitened_coordinates_and_importance_weighted():
    one = bounds.uha(WHITE, posterior=POSTERIORS["amortised"], num_transitions=3, **OPTIONS)
    bound = bounds.importance_weighted(one, 2)
    assert_unbiased(draws(bound, perturbed(bound)))


def test_gradients_are_those_of_finite_differences():
    bound = make(3)
    assert_gradient(bound, perturbed(bound), 1e-6, X)


def test_without_persistence_it_is_annealed_hvi_of_one_step():
    """Which begins anew at each temperature: so the gradients that are carried on are the right ones."""
    bound = make(4, persistence=0.0)
    params = perturbed(bound)
    other = bounds.hvi(VAE, num_transitions=4, num_steps=1, annealed=True, **OPTIONS)
    chain = params["bound"]["chain"] | {"reverse": {}, "momentum": {}}
    same = {"vae": PARAMS, "bound": params["bound"] | {"chain": chain}}
    (value, info), (expected, wanted) = (
        jax.jit(b)(p, jax.random.key(3), X) for b, p in ((bound, params), (other, same))
    )
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(info.position, wanted.position, rtol=1e-10)
    np.testing.assert_allclose(info.energy_error, wanted.energy_error, rtol=1e-8)
    assert info.energy_error > 1e-3


def test_it_is_its_definition_written_out():
    """Two temperatures, with every density of the forward and of the backward chain spelled out."""
    bound = make(2)
    params = perturbed(bound)
    own, key = params["bound"], jax.random.key(9)
    log_weight, info = jax.jit(bound)(params, key, X)
    start_key, chain_key = jax.random.split(key)
    example = VAE.encoded(PARAMS, X)
    z = example.mean + jnp.exp(example.log_scale) * jax.random.normal(start_key, (models.LATENT,))
    betas = jnp.cumsum(jax.nn.softmax(own["schedule"]))
    noise = [jax.random.normal(k, z.shape) for k in jax.random.split(chain_key, 2)]
    log_p_fn = VAE.logdensity_fn(PARAMS, X)
    total = -log_q(z)
    w, zero = noise[0], jnp.zeros(2)
    total -= gaussian_log_prob(w, zero, zero)
    for index in range(2):
        chain = jax.tree.map(lambda leaf, i=index: leaf[i], own["chain"])
        mass, epsilon = jnp.exp(chain["log_mass"]), 0.9 * jax.nn.sigmoid(chain["step_size"])
        eta = transitions.persistence_of(chain)
        if index:  # the first draws all of its momentum
            spread = jnp.full(2, 0.5 * jnp.log(1 - eta**2))
            new = eta * w + jnp.exp(spread) * noise[index]
            total += gaussian_log_prob(w, eta * new, spread) - gaussian_log_prob(new, eta * w, spread)
            w = new
        slope = jax.grad(lambda z, b=betas[index]: (1 - b) * log_q(z) + b * log_p_fn(z))
        v = jnp.sqrt(mass) * w
        v = v + epsilon / 2 * slope(z)
        z = z + epsilon * v / mass
        v = v + epsilon / 2 * slope(z)
        w = v / jnp.sqrt(mass)
    total += gaussian_log_prob(w, zero, zero) + log_p_fn(z)
    np.testing.assert_allclose(log_weight, total, rtol=1e-10)
    np.testing.assert_allclose(info.position, z, rtol=1e-10)
    assert not np.allclose(transitions.persistence_of(own["chain"]), 0.5)


def test_each_temperature_costs_one_gradient():
    """And the start one more, whatever the path."""
    bound = make(5)
    params = {"vae": PARAMS, "bound": bound.init(jax.random.key(0))}
    calls = []

    def decode(p, z):
        jax.debug.callback(lambda: calls.append(1))
        return VAE.decode(p, z)

    counted = bounds.uha(
        type(VAE)(VAE.encode, decode, VAE.likelihood, models.LATENT), num_transitions=5, **OPTIONS
    )
    jax.block_until_ready(counted(params, jax.random.key(0), X)[0])
    jax.effects_barrier()
    assert len(calls) == 6


def test_a_momentum_that_is_never_drawn_anew_is_refused():
    with pytest.raises(ValueError, match="persistence must be less than 1, got 1.0"):
        make(2, persistence=1.0)
