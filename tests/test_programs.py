"""Programs compiled for a model: any callables will do, each model is compiled once, and nothing outlives it."""

import functools
import gc
import weakref
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import annealing, bounds, evaluation, posteriors
from hmcvae._programs import Programs

XS = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
KEY = jax.random.key(0)


@dataclass
class Net:
    """Compared by its fields, so not hashable, as an Equinox module or a dataclass of arrays is."""

    weights: Any
    num_calls: int = 0

    def encode(self, params, x):
        self.num_calls += 1
        return 0.1 * self.weights[:2] * x[:2], jnp.zeros(2), x

    def decode(self, params, z):
        return jnp.concatenate([z, z[:1]]) * self.weights[0]

    __call__ = encode


def _encode(weights, params, x):
    return 0.1 * weights[:2] * x[:2], jnp.zeros(2), x


def _decode(weights, params, z):
    return jnp.concatenate([z, z[:1]]) * weights[0]


def _closures(weights):
    return (lambda params, x: _encode(weights, params, x)), (lambda params, z: _decode(weights, params, z))


KINDS = {
    "closures": lambda weights: _closures(weights),
    "bound methods": lambda weights: (Net(weights).encode, Net(weights).decode),
    "callable dataclass": lambda weights: (Net(weights), Net(weights).decode),
    "partial of arrays": lambda weights: (
        functools.partial(_encode, weights),
        functools.partial(_decode, weights),
    ),
}


def run_everything(vae: hmcvae.VAE, posterior: posteriors.Posterior | None = None) -> list:
    """Each function of the library that compiles a program for a model."""
    bound = bounds.hvi(vae)
    params = {"vae": {}, "bound": bound.init(KEY)}
    annealed: dict = {"num_temperatures": 2, "num_chains": 2, "num_steps": 1, "posterior": posterior}
    return [
        evaluation.estimate(bound, params, KEY, XS, num_samples=5),
        evaluation.active_units(vae, {}, XS),
        annealing.ais(vae, {}, KEY, XS, **annealed),
        annealing.reverse_ais(vae, {}, KEY, XS, jnp.zeros((4, 2)), **annealed),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_any_callables_are_evaluated_and_none_of_what_they_close_over_is_kept(kind):
    weights = jnp.ones(100_000) + 0.1
    alive = weakref.ref(weights)
    encode, decode = KINDS[kind](weights)
    vae = hmcvae.VAE(encode, decode, hmcvae.likelihoods.gaussian(1.0), 2)
    posterior = posteriors.standard_normal()
    for result in run_everything(vae, posterior):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    before = sum(array.nbytes for array in jax.live_arrays())
    del weights, encode, decode, vae
    gc.collect()
    assert alive() is None
    # Nor is a copy of it kept, as a constant of some program.
    assert sum(array.nbytes for array in jax.live_arrays()) < before - 700_000


def test_a_posterior_is_not_kept_by_the_model_it_was_used_with():
    vae = hmcvae.VAE(*KINDS["closures"](jnp.ones(2)), hmcvae.likelihoods.gaussian(1.0), 2)
    big = jnp.zeros(100_000)
    alive, plain = weakref.ref(big), posteriors.standard_normal()

    def build(params, rng_key, example, big=big):
        found = plain.build(params, rng_key, example)
        return found._replace(mean=found.mean + big[:2])

    posterior = posteriors.Posterior(plain.init, build)
    run_everything(vae, posterior)
    del big, build, posterior
    gc.collect()
    assert alive() is None


def test_a_model_is_compiled_once_and_another_anew():
    net = Net(jnp.ones(2))
    vae = hmcvae.VAE(net.encode, net.decode, hmcvae.likelihoods.gaussian(1.0), 2)
    bound = bounds.elbo(vae)
    params = {"vae": {}, "bound": bound.init(KEY)}
    first = evaluation.estimate(bound, params, KEY, XS, num_samples=5)
    traced = net.num_calls
    assert traced > 0
    again = evaluation.estimate(bound, params, KEY, XS, num_samples=5)
    assert net.num_calls == traced
    np.testing.assert_array_equal(first.bound, again.bound)
    # An equal bound of the same model is another object, and a program of its own.
    evaluation.estimate(bounds.elbo(vae), params, KEY, XS, num_samples=5)
    assert net.num_calls == 2 * traced
    counts = []
    for _ in range(2):
        net.num_calls = 0
        annealing.ais(vae, {}, KEY, XS, num_temperatures=2, num_chains=2)
        evaluation.active_units(vae, {}, XS)
        counts.append(net.num_calls)
    assert counts[0] > 0
    assert counts[1] == 0


def test_models_of_equal_parts_are_not_mixed_up():
    """Identity, not equality: two nets that compare equal may differ in what `==` does not look at."""

    class Everything:
        def __init__(self, value):
            self.value = value

    programs = Programs(lambda thing, x, *, power: (thing.value * x) ** power, ("power",))
    two, three = Everything(2.0), Everything(3.0)
    assert float(programs.of(two)(5.0, power=2)) == 100.0
    assert float(programs.of(three)(5.0, power=2)) == 225.0
    assert float(programs.of(two)(5.0, power=1)) == 10.0
    assert programs.of(two) is programs.of(two)
    vae = hmcvae.VAE(*KINDS["closures"](jnp.ones(2)), hmcvae.likelihoods.gaussian(1.0), 2)
    assert bounds.elbo(vae) != bounds.elbo(vae)
    assert len({bounds.elbo(vae), vae, posteriors.mean_field(), posteriors.mean_field()}) == 4
