"""Running chains: what comes back, what it depends on, what it costs, what is refused."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import metrics
from hmcvae.diagnostics import to_arviz
from hmcvae.hmc import hmc, uniform_steps
from hmcvae.sampling import Samples, sample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its refactoring once a day
    import arviz


def normal(z):
    return -0.5 * jnp.sum(z**2)


def normal_tree(position):
    return normal(position["a"]) + normal(position["b"]["c"])


STARTS = jax.random.normal(jax.random.key(1), (4, 3))
TREE = {"a": STARTS, "b": {"c": jnp.ones(4)}}
# One algorithm for most tests, since its programs are compiled once.
ALGORITHM = hmc(normal, 1.2, uniform_steps(1, 3))
TREE_ALGORITHM = hmc(normal_tree, 0.5, 3)


def draw(seed=0, algorithm=ALGORITHM, starts=STARTS, **options):
    return sample(jax.random.key(seed), algorithm, starts, **({"num_samples": 30} | options))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


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
        samples = draw(algorithm=hmc(normal, 2.05, 4, divergence_threshold=10.0))
        assert samples.tally.num_transitions == 120
        assert 0 < int(samples.tally.num_divergent) < 120
        assert samples.tally.num_divergent == samples.info.is_divergent.sum()
        assert samples.tally.num_unconverged == samples.tally.num_irreversible == 0
        np.testing.assert_allclose(
            samples.tally.acceptance_rate, samples.info.acceptance_rate.mean(), rtol=1e-5
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

        samples = draw(algorithm=Toy(), starts=jnp.arange(4.0))
        assert samples.tally.num_unconverged == 30
        assert samples.tally.num_irreversible == 30
        assert samples.tally.num_divergent == 0
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

    def test_more_draws_continue_the_same_chains(self):
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


class TestCompilation:
    @pytest.mark.parametrize("num_warmup", [0, 40])
    def test_second_call_traces_nothing(self, num_warmup):
        traces = []

        def counted(z):
            traces.append(1)
            return normal(z)

        algorithm = hmc(counted, 0.5, uniform_steps(1, 3))
        draw(algorithm=algorithm, num_warmup=num_warmup)
        assert traces
        traces.clear()
        draw(seed=1, algorithm=algorithm, starts=STARTS + 1, num_warmup=num_warmup)
        draw(seed=2, algorithm=algorithm, num_warmup=num_warmup, progress=True)
        assert not traces

    def test_within_jit(self):
        run = jax.jit(lambda key, starts: sample(key, ALGORITHM, starts, num_samples=30).position)
        np.testing.assert_allclose(run(jax.random.key(0), STARTS), draw().position, rtol=1e-10)


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
        assert samples.tally.num_divergent == 0
        assert float(samples.tally.acceptance_rate) > 0.5
        assert "diverging" in to_arviz(samples).sample_stats


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


class TestErrors:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("num_samples", 0),
            ("num_samples", 2.5),
            ("num_warmup", -1),
            ("target_acceptance", 0.0),
            ("target_acceptance", 1.0),
            ("target_acceptance", np.nan),
        ],
    )
    def test_options(self, option, value):
        with pytest.raises(ValueError, match=option):
            draw(**{option: value})

    def test_mass(self):
        with pytest.raises(ValueError, match="diagonal"):
            draw(num_warmup=10, adapt_mass="full")

    def test_vector_step_size_cannot_be_tuned(self):
        algorithm = ALGORITHM._replace(step_size=jnp.full(3, 0.3))
        assert draw(algorithm=algorithm).shape == (4, 30, 3)
        with pytest.raises(ValueError, match="one number"):
            draw(algorithm=algorithm, num_warmup=10)

    @pytest.mark.parametrize(
        "starts", [jnp.ones(()), jnp.ones((0, 3)), {"a": jnp.ones((4, 3)), "b": jnp.ones(3)}, {}]
    )
    def test_chain_axis(self, starts):
        with pytest.raises(ValueError, match="chain axis"):
            draw(starts=starts)

    def test_starts(self):
        with pytest.raises(ValueError, match=r"initial position .* chains \[2\]"):
            draw(starts=STARTS.at[2, 1].set(jnp.nan))
        with pytest.raises(ValueError, match=r"logdensity .* chains \[1, 3\]"):
            draw(
                algorithm=hmc(lambda z: jnp.log(z[0]), 0.1, 3),
                starts=jnp.array([[1.0], [-1.0], [1.0], [-2.0]]),
            )
        with pytest.raises(ValueError, match="floating-point"):
            draw(starts=jnp.ones((4, 3), int))

    def test_state_without_position(self):
        class Toy(NamedTuple):
            init: object = lambda position, rng_key: (position,)
            step: object = None

        with pytest.raises(ValueError, match="must have a position"):
            draw(algorithm=Toy())


def test_samples_are_a_pytree():
    samples = draw()
    assert isinstance(jax.tree.map(lambda leaf: leaf, samples), Samples)


def test_errors_inside_the_density_name_the_shape_that_a_chain_was_given():
    algorithm = hmc(lambda z: -0.5 * z[0] ** 2 - z[1] ** 2, 0.1, 2)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - JAX's own error, with a note of ours
        sample(jax.random.key(0), algorithm, jnp.zeros(2), num_samples=2)
    assert "each chain's position has shape [()]" in "".join(caught.value.__notes__)
