"""Running chains: what comes back, what it depends on, and the warm-up before it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae.samplers.arviz_data import to_arviz
from hmcvae.samplers.draws import SamplingWarning
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.sampling import sample
from tests.support.gaussians import normal
from tests.support.sampling import ALGORITHM, STARTS, TREE, TREE_ALGORITHM, assert_same, draw


class TestResult:
    def test_axes(self):
        samples = draw()
        assert samples.shape == (4, 30, 3)
        assert samples.position.shape == (4, 30, 3)
        assert samples.logdensity.shape == (4, 30)
        assert {leaf.shape for leaf in jax.tree.leaves(samples.info)} == {(4, 30)}
        np.testing.assert_allclose(samples.logdensity, -0.5 * np.sum(np.asarray(samples) ** 2, axis=-1))

    def test_is_an_array(self):
        samples = draw()
        array = np.asarray(samples)
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, samples.position)
        assert np.asarray(samples, np.float32).dtype == np.float32
        assert np.array(samples, copy=True).flags.writeable

    def test_pytree(self):
        samples = draw(algorithm=TREE_ALGORITHM, starts=TREE)
        assert samples.position["a"].shape == (4, 30, 3)
        assert samples.position["b"]["c"].shape == (4, 30)
        assert samples.shape == (4, 30)
        with pytest.raises(ValueError, match="2 arrays"):
            np.asarray(samples)

    def test_moves_follow_the_info(self):
        """Record i is the state after transition i: it differs from the last where that was accepted."""
        samples = draw()
        path = np.concatenate([np.asarray(STARTS)[:, None], np.asarray(samples)], axis=1)
        moved = (np.diff(path, axis=1) != 0).any(axis=-1)
        np.testing.assert_array_equal(moved, samples.info.is_accepted)

    def test_tally_counts_everything(self):
        with pytest.warns(SamplingWarning, match="diverged"):
            samples = draw(algorithm=hmc(normal, 2.05, 4, divergence_threshold=10.0))
        assert samples.counts.num_transitions == 120
        assert 0 < int(samples.counts.num_divergent) < 120
        assert samples.counts.num_divergent == samples.info.is_divergent.sum()
        assert samples.counts.num_unconverged == samples.counts.num_irreversible == 0
        np.testing.assert_allclose(
            samples.counts.acceptance_rate, samples.info.acceptance_rate.mean(), rtol=1e-5
        )

    def test_failures_are_counted(self):
        class Solver(NamedTuple):
            converged: jax.Array

        class Info(NamedTuple):
            solver: Solver
            is_reversible: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(position)
            step: object = lambda key, state: (
                state,
                Info(Solver(state.position > 0.5), state.position < 2.5),
            )

        class State(NamedTuple):
            position: jax.Array

        with pytest.warns(
            SamplingWarning, match=r"30 of 120 .* solves(?s:.*)30 of 120 .* retraced(?s:.*)never moved"
        ):
            samples = draw(algorithm=Toy(), starts=jnp.arange(4.0))
        assert samples.counts.num_unconverged == 30
        assert samples.counts.acceptance_rate == 0
        assert samples.counts.num_irreversible == 30
        assert samples.counts.num_divergent == 0
        assert samples.logdensity is None

    def test_adaptation_without_warmup_is_the_algorithms_own(self):
        found = draw().adaptation
        assert found.step_size == 1.2
        assert isinstance(found.metric, metrics.Identity)
        assert found.warmup.num_transitions == 0


class TestReproducibility:
    def test_progress_bar_changes_no_bit(self, capsys):
        quiet = draw(num_warmup=40)
        loud = draw(num_warmup=40, progress=True)
        assert_same(quiet, loud)
        shown = capsys.readouterr().err
        for word in ("warm-up", "sampling", "acceptance=", "divergences=0", "30/30"):
            assert word in shown

    def test_a_longer_run_begins_with_the_shorter_one(self):
        short, long = draw(num_samples=10), draw()
        assert_same(short.position, long.position[:, :10])
        assert_same(short.info, jax.tree.map(lambda leaf: leaf[:, :10], long.info))

    def test_more_chains_leave_the_first_ones_alone(self):
        np.testing.assert_allclose(draw(starts=STARTS[:2]).position, draw().position[:2], rtol=1e-10)

    def test_chains_and_seeds_differ(self):
        samples = np.asarray(draw(starts=jnp.ones((4, 3))))
        assert len({chain.tobytes() for chain in samples}) == 4
        assert not np.array_equal(draw(seed=1), draw(seed=2))

    def test_warmup_and_draws_do_not_share_randomness(self):
        class State(NamedTuple):
            position: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(jax.random.uniform(rng_key))
            step: object = lambda key, state: (State(jax.random.uniform(key)), state.position)

        samples = draw(algorithm=Toy(), starts=jnp.zeros(4), num_warmup=1)  # info is the position before
        seen = np.concatenate([samples.info[:, :1], samples.position], axis=1)
        fresh = draw(algorithm=Toy(), starts=jnp.zeros(4)).info[:, :1]
        assert len(np.unique(np.concatenate([seen, fresh], axis=1))) == 4 * 32

    def test_both_kinds_of_keys(self):
        old = sample(jax.random.PRNGKey(3), ALGORITHM, STARTS, num_samples=30)
        assert_same(old, draw(seed=3))

    def test_starts_survive(self):
        """No buffer of the caller's is given away, also where the state is the very position."""

        class State(NamedTuple):
            position: jax.Array

        class Toy(NamedTuple):
            init: object = lambda position, rng_key: State(position)
            step: object = lambda key, state: (State(state.position + 1), jax.random.uniform(key))

        for algorithm in (ALGORITHM, Toy()):
            starts = jnp.array(STARTS)
            for progress in (False, True):
                draw(algorithm=algorithm, starts=starts, num_warmup=40, progress=progress)
            np.testing.assert_array_equal(starts, STARTS)


class TestWarmup:
    def test_auto_adapts_only_the_default_metric(self):
        assert isinstance(draw(num_warmup=40).adaptation.metric, metrics.Diagonal)
        chosen = metrics.dense(jnp.diag(jnp.array([1.0, 2.0, 3.0])))
        algorithm = ALGORITHM._replace(metric=chosen)
        samples = draw(algorithm=algorithm, num_warmup=40)
        assert_same(samples.adaptation.metric, chosen)
        samples = draw(algorithm=algorithm, num_warmup=40, adapt_mass="diagonal")
        assert isinstance(samples.adaptation.metric, metrics.Diagonal)

    def test_draws_use_what_was_found(self):
        """The same draws come from an algorithm that is given the tuned step size and metric."""
        algorithm = ALGORITHM._replace(step_size=0.01)
        samples = draw(algorithm=algorithm, num_warmup=40)
        assert samples.adaptation.warmup.num_transitions == 160
        assert 0 < float(samples.adaptation.warmup.acceptance_rate) < 1
        assert float(samples.adaptation.step_size) > 0.1
        last = algorithm.init(samples.position[0, 28])
        # The key of draw 29 of chain 0.
        key = jax.random.key(0)
        for word in (1, 0, 29):
            key = jax.random.fold_in(key, word)
        state, _ = algorithm.kernel(key, last, samples.adaptation.step_size, samples.adaptation.metric)
        np.testing.assert_allclose(state.position, samples.position[0, 29], rtol=1e-8)

    def test_pytree(self):
        samples = draw(algorithm=TREE_ALGORITHM, starts=TREE, num_warmup=40)
        assert samples.adaptation.metric.mass.shape == (4,)

    def test_algorithm_without_kernel(self):
        import blackjax

        algorithm = blackjax.nuts(normal, 0.5, jnp.ones(3))
        samples = draw(algorithm=algorithm, num_warmup=10)
        assert samples.shape == (4, 30, 3)
        assert samples.adaptation.step_size is None
        assert samples.adaptation.warmup.num_transitions == 40
        assert samples.counts.num_divergent == 0
        assert float(samples.counts.acceptance_rate) > 0.5
        assert "diverging" in to_arviz(samples).sample_stats


def test_errors_inside_the_density_name_the_shape_that_a_chain_was_given():
    algorithm = hmc(lambda z: -0.5 * z[0] ** 2 - z[1] ** 2, 0.1, 2)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - JAX's own error, with a note of ours
        sample(jax.random.key(0), algorithm, jnp.zeros(2), num_samples=2)
    assert "2 chains, of which each has a position of shape ()" in "".join(caught.value.__notes__)
