"""Draws as data: going on from them, pickles, ArviZ, arrays that hold nothing."""

import copy
import pickle
import subprocess
import sys
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae.samplers.arviz_data import to_arviz
from hmcvae.samplers.draws import MissingMetric, Samples, SamplingWarning, add_counts, concatenate
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.riemannian import rmhmc
from tests.support.gaussians import normal
from tests.support.paths import REPOSITORY
from tests.support.sampling import STARTS, TREE, TREE_ALGORITHM, assert_same, curved_tensor, draw

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its refactoring once a day
    import arviz


class TestGoingOn:
    def test_last_and_concatenate(self):
        samples = draw(algorithm=TREE_ALGORITHM, starts=TREE)
        more = draw(seed=5, algorithm=TREE_ALGORITHM, starts=samples.last, num_samples=7)
        both = concatenate(samples, more)
        assert both.shape == (4, 37)
        assert_same(jax.tree.map(lambda leaf: leaf[:, 30:], both.position), more.position)
        assert_same(jax.tree.map(lambda leaf: leaf[:, :30], both.info), samples.info)
        np.testing.assert_array_equal(both.logdensity[:, 30:], more.logdensity)
        assert both.counts.num_transitions == 148
        rate = np.mean(np.asarray(both.info.acceptance_rate))
        np.testing.assert_allclose(both.counts.acceptance_rate, rate, rtol=1e-5)
        assert both.adaptation is samples.adaptation

    def test_counts_stop_at_the_largest_number(self):
        counts = draw(algorithm=TREE_ALGORITHM, starts=TREE).counts
        most = np.iinfo(np.int32).max
        large = counts._replace(
            num_transitions=jnp.asarray(most - 10, jnp.int32), acceptance_rate=jnp.float32(0.8)
        )
        total = add_counts([large, large._replace(acceptance_rate=jnp.float32(0.4)), counts])
        assert total.num_transitions == most
        np.testing.assert_allclose(total.acceptance_rate, 0.6, rtol=1e-5)

    def test_failures_add_up(self):
        with pytest.warns(SamplingWarning):
            runs = [draw(seed, hmc(normal, 2.05, 4, divergence_threshold=10.0)) for seed in range(3)]
        both = concatenate(*runs)
        assert both.counts.num_divergent == both.info.is_divergent.sum()

    def test_a_new_key_goes_on_and_the_same_key_replays(self):
        """A Gaussian's draws forget the start: with the same randomness two runs come to meet."""
        samples = draw(num_samples=200)
        replayed = draw(starts=samples.last, num_samples=200)
        fresh = draw(seed=1, starts=samples.last, num_samples=200)
        assert np.mean(np.isclose(samples.position, replayed.position)) > 0.5
        assert np.mean(np.isclose(samples.position, fresh.position)) < 0.01

    def test_misfits_are_refused(self):
        with pytest.raises(ValueError, match="same chains"):
            concatenate(draw(), draw(starts=STARTS[:2]))
        with pytest.raises(ValueError, match="takes Samples"):
            concatenate(draw(), STARTS)
        samples = draw()
        with pytest.raises(ValueError, match="thinned alike, got 1 and 3 transitions for each draw"):
            concatenate(samples, draw(thin=3))
        with pytest.raises(ValueError, match="one of them twice"):
            concatenate(samples, draw(seed=1), samples)


CURVED = {
    "closure": metrics.from_tensor(lambda z: curved_tensor(z)),
    "function of a module": metrics.from_tensor(curved_tensor),
}


class TestPickle:
    @pytest.mark.filterwarnings("ignore::hmcvae.SamplingWarning")
    @pytest.mark.parametrize("name", ["closure", "function of a module", "hmc", "tree"])
    def test_draws_are_data(self, name):
        if name in CURVED:
            samples = draw(algorithm=rmhmc(normal, 0.3, 2, CURVED[name]))
        elif name == "tree":
            samples = draw(algorithm=TREE_ALGORITHM, starts=TREE, num_warmup=30)
        else:
            samples = draw(num_warmup=30)
        back = pickle.loads(pickle.dumps(samples))
        assert isinstance(back, Samples)
        for old, new in zip(samples[:4], back[:4], strict=True):
            assert_same(old, new)
        assert_same(samples.adaptation.warmup, back.adaptation.warmup)
        assert back.adaptation.step_size == samples.adaptation.step_size
        if name == "closure":
            assert isinstance(back.adaptation.metric, MissingMetric)
            assert "FromTensor" in back.adaptation.metric.description
            assert len(jax.tree.leaves(back)) == len(jax.tree.leaves(samples))
        else:
            assert type(back.adaptation.metric) is type(samples.adaptation.metric)
            assert_same(jax.tree.leaves(back.adaptation.metric), jax.tree.leaves(samples.adaptation.metric))

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
    def test_copies_keep_the_metric(self, copied):
        samples = draw(algorithm=rmhmc(normal, 0.3, 2, CURVED["closure"]), num_samples=3)
        assert copied(samples).adaptation.metric == samples.adaptation.metric
        assert_same(copied(samples).position, samples.position)


class TestEmptyArrays:
    def test_draws_with_arrays_that_hold_nothing(self):
        """In a process of its own: what XLA could not take aborted it."""
        code = """
import copy, warnings
import jax, jax.numpy as jnp
import hmcvae
from hmcvae.metrics import from_tensor
from hmcvae.samplers.draws import add_counts, concatenate

starts = {"a": jnp.ones((4, 2)), "b": jnp.zeros((4, 0)), "c": jnp.ones((4, 3, 0)), "d": jnp.ones(4)}
density = lambda z: -0.5 * (jnp.sum(z["a"] ** 2) + jnp.sum(z["b"]) + z["d"] ** 2)
tensor = lambda z: jnp.eye(3) * (1 + z[0] ** 2)
algorithms = {
    "hmc": hmcvae.hmc(density, 0.5, hmcvae.uniform_steps(1, 3)),
    "rmhmc": hmcvae.rmhmc(density, 0.3, 2, from_tensor(tensor)),
    "nuts": hmcvae.nuts(density, 0.5, max_depth=3),
    "mmala": hmcvae.mmala(density, 0.3, from_tensor(tensor)),
}
warnings.simplefilter("ignore")
for name, algorithm in algorithms.items():
    for num_warmup in (0, 25) if name == "hmc" else (0,):
        samples = hmcvae.sample(
            jax.random.key(0), algorithm, starts, num_samples=20, num_warmup=num_warmup
        )
        shapes = jax.tree.map(jnp.shape, samples.position)
        assert shapes == {"a": (4, 20, 2), "b": (4, 20, 0), "c": (4, 20, 3, 0), "d": (4, 20)}, shapes
        assert samples.info.is_accepted.any()
        state, _ = algorithm.step(jax.random.key(0), algorithm.init(jax.tree.map(lambda x: x[0], starts)))
        assert state.position["b"].shape == (0,)
print(hmcvae.diagnose(samples))
both = concatenate(samples, copy.copy(samples))
assert both.position["b"].shape == (4, 40, 0)
assert set(hmcvae.to_arviz(samples).posterior.data_vars) == {"a", "b", "c", "d"}
"""
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-2000:]

    def test_an_info_that_holds_nothing(self):
        class State(NamedTuple):
            position: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(position)
            step: object = lambda key, state: (State(state.position + 1), None)

        samples = draw(algorithm=Toy(), starts=jnp.zeros(4), num_samples=5)
        assert samples.counts.num_transitions == 20
        assert samples.info is None


class TestArviz:
    def test_groups(self):
        samples = draw()
        data = to_arviz(samples)
        assert data.posterior["position"].dims[:2] == ("chain", "draw")
        np.testing.assert_array_equal(data.posterior["position"], samples.position)
        stats = data.sample_stats
        for name, value in {
            "lp": samples.logdensity,
            "diverging": samples.info.is_divergent,
            "acceptance_rate": samples.info.acceptance_rate,
            "energy": samples.info.energy,
            "n_steps": samples.info.num_integration_steps,
        }.items():
            np.testing.assert_array_equal(stats[name], value)
        assert np.all(arviz.bfmi(data) > 0)
        assert np.all(arviz.rhat(data)["position"] < 1.5)

    def test_pytree_names(self):
        data = to_arviz(draw(algorithm=TREE_ALGORITHM, starts=TREE))
        assert set(data.posterior.data_vars) == {"a", "b.c"}


def test_samples_are_a_pytree():
    samples = draw()
    assert isinstance(jax.tree.map(lambda leaf: leaf, samples), Samples)
