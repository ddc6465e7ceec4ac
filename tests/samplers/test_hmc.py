"""The HMC kernel: the law it leaves invariant, its number of steps, and where it fits in.

Statistical tolerances are four standard errors, each from the effective sample size of the very draws.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from hmcvae import metrics
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.lengths import uniform_steps
from tests.support.gaussians import COVARIANCE, MEAN, METRICS, PRECISION, gaussian, normal
from tests.support.statistics import NUM_CHAINS, NUM_DRAWS, assert_moments, log_gamma, run, z_score


class TestInvariance:
    @pytest.mark.parametrize("name", METRICS)
    def test_correlated_gaussian(self, name):
        metric, step_size = METRICS[name]
        algorithm = hmc(gaussian, step_size, uniform_steps(1, 4), metric)
        draws, info = run(algorithm, jnp.tile(MEAN, (NUM_CHAINS, 1)))
        # Steps so long that a wrong accept step would be seen.
        assert 0.5 < float(info.acceptance_rate.mean()) < 0.9
        assert_moments(draws, MEAN, COVARIANCE)

    @pytest.mark.parametrize("mass", [None, 3.0])
    def test_skewed_target(self, mass):
        metric = metrics.identity() if mass is None else metrics.diagonal(jnp.array([mass]))
        step_size = 1.2 if mass is None else 2.0
        algorithm = hmc(log_gamma, step_size, uniform_steps(1, 3), metric)
        draws, info = run(algorithm, jnp.zeros((NUM_CHAINS, 1)))
        assert 0.5 < float(info.acceptance_rate.mean()) < 0.9
        assert_moments(draws, [special.digamma(2.0)], [[special.polygamma(1, 2.0)]])

    def test_pytree_position(self):
        def logdensity(position):
            return log_gamma(position["skewed"]) + gaussian(position["normal"][0])

        start = {"skewed": jnp.zeros(NUM_CHAINS), "normal": (jnp.zeros((NUM_CHAINS, 2)),)}
        draws, _ = run(hmc(logdensity, 0.8, uniform_steps(1, 6)), start)
        assert draws["skewed"].shape == (NUM_CHAINS, NUM_DRAWS)
        assert_moments(draws["normal"][0], MEAN, COVARIANCE)
        assert_moments(draws["skewed"][..., None], [special.digamma(2.0)], [[special.polygamma(1, 2.0)]])

    def test_fixed_number_of_steps_and_vector_step_size(self):
        algorithm = hmc(gaussian, jnp.array([1.2, 0.8]), 3)
        draws, info = run(algorithm, jnp.tile(MEAN, (NUM_CHAINS, 1)))
        assert (info.num_integration_steps == 3).all()
        assert_moments(draws, MEAN, COVARIANCE)

    def test_truncated_by_nan(self):
        """Where the density is NaN it counts as zero: the rest of the law is untouched."""

        def logdensity(z):
            return jnp.where(z[0] < 1.0, normal(z), jnp.nan)

        draws, info = run(hmc(logdensity, 0.9, uniform_steps(1, 3)), jnp.zeros((NUM_CHAINS, 1)))
        assert float(draws.max()) < 1.0
        assert bool(info.is_divergent.any())
        assert not bool((info.is_divergent & info.is_accepted).any())
        truncated = stats.truncnorm(-np.inf, 1.0)
        assert_moments(draws, [truncated.mean()], [[truncated.var()]])

    def test_geweke_joint_distribution(self):
        """Geweke (2004): data given parameters and parameters given data, in turn, leave the joint law.

        θ ~ N(0, 1), y | θ ~ Poisson(exp θ).
        """

        def sweep(carry, rng_key):
            theta, _ = carry
            key_data, key_chain = jax.random.split(rng_key)
            y = jax.random.poisson(key_data, jnp.exp(theta)).astype(theta.dtype)
            algorithm = hmc(lambda t: -0.5 * t**2 + y * t - jnp.exp(t), 0.9, uniform_steps(1, 2))
            state, info = algorithm.step(key_chain, algorithm.init(theta))
            return (state.position, y), (state.position, y, info.acceptance_rate)

        def chain(rng_key):
            start = (jax.random.normal(rng_key), jnp.zeros(()))
            return jax.lax.scan(sweep, start, jax.random.split(rng_key, 4000))[1]

        theta, y, rate = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.PRNGKey(5), NUM_CHAINS))
        assert 0.5 < float(rate.mean()) < 0.95
        moments = [(theta, 0.0), (theta**2, 1.0), (theta**3, 0.0), (y, np.exp(0.5)), (theta * y, np.exp(0.5))]
        scores = [z_score(draws, expected) for draws, expected in moments]
        assert np.max(np.abs(scores)) < 4, scores


class TestNumberOfSteps:
    def test_uniform_steps(self):
        num_draws, low, high = 60_000, 2, 7
        lengths = jax.vmap(uniform_steps(low, high))(jax.random.split(jax.random.key(0), num_draws))
        counts = np.bincount(np.asarray(lengths))
        assert counts[:low].sum() == 0
        assert len(counts) == high + 1
        share = 1 / (high - low + 1)
        scores = (counts[low:] - num_draws * share) / np.sqrt(num_draws * share * (1 - share))
        assert np.abs(scores).max() < 4

    def test_drawn_anew_for_each_transition(self):
        _, info = run(hmc(normal, 0.1, uniform_steps(1, 6)), jnp.ones((4, 2)), 500)
        lengths = np.asarray(info.num_integration_steps)
        assert set(lengths.ravel()) == set(range(1, 7))
        assert abs(lengths.mean() - 3.5) < 4 * np.sqrt(35 / 12 / lengths.size)
        assert not (lengths == lengths[:1]).all()

    def test_any_function_of_a_key(self, rng_key):
        algorithm = hmc(normal, 0.1, lambda key: jnp.where(jax.random.bernoulli(key), 3, 9))
        _, info = algorithm.step(rng_key, algorithm.init(jnp.ones(2)))
        assert int(info.num_integration_steps) in (3, 9)
        for bad in (lambda key: 1.5, lambda key: jnp.ones(2, int)):
            with pytest.raises(ValueError, match="whole number"):
                hmc(normal, 0.1, bad).step(rng_key, algorithm.init(jnp.ones(2)))


class TestFit:
    def test_blackjax_drives_it(self, rng_key):
        from blackjax.util import run_inference_algorithm

        algorithm = hmc(gaussian, 1.0, uniform_steps(1, 4))
        final, (states, infos) = run_inference_algorithm(
            rng_key, algorithm, num_steps=200, initial_position=jnp.zeros(2)
        )
        assert states.position.shape == (200, 2)
        assert infos.acceptance_rate.shape == (200,)
        np.testing.assert_array_equal(final.position, states.position[-1])

    def test_vmap_equals_loop(self):
        algorithm = hmc(gaussian, 0.9, uniform_steps(1, 5))
        positions = jax.random.normal(jax.random.key(1), (3, 2))
        keys = jax.random.split(jax.random.key(2), 3)
        together = jax.vmap(lambda key, z: algorithm.step(key, algorithm.init(z)))(keys, positions)
        for i in range(3):
            alone = algorithm.step(keys[i], algorithm.init(positions[i]))
            chosen = jax.tree.map(lambda leaf: leaf[i], together)  # noqa: B023
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), chosen, alone)

    def test_jit_equals_eager_and_both_kinds_of_keys(self):
        algorithm = hmc(gaussian, 0.9, 4)
        state = algorithm.init(jnp.ones(2))
        for key in (jax.random.key(7), jax.random.PRNGKey(7)):
            eager, jitted = algorithm.step(key, state), jax.jit(algorithm.step)(key, state)
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), eager, jitted)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    @pytest.mark.parametrize("metric", [m for m, _ in METRICS.values()], ids=METRICS.keys())
    @pytest.mark.parametrize("check", [False, True])
    def test_dtype_is_kept(self, rng_key, dtype, metric, check):
        """Also where the log density, the masses and the step size are of another."""
        algorithm = hmc(gaussian, np.float64(0.1), 3, metric, check_reversibility=check)
        before = algorithm.init(jnp.ones(2, dtype))
        after, info = jax.jit(algorithm.step)(rng_key, before)
        for state in (before, after):
            assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(dtype)}
        assert not any(leaf.weak_type for leaf in jax.tree.leaves((before, after)))
        floats = (info.acceptance_rate, info.energy, info.energy_error, info.reversibility_error)
        assert {leaf.dtype for leaf in floats} == {jnp.dtype(dtype)}

    def test_leaves_keep_their_own_dtypes(self, rng_key):
        position = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones((), jnp.float64)}
        algorithm = hmc(lambda p: normal(p["a"]) + normal(p["b"]), 0.1, 2)
        state, _ = algorithm.step(rng_key, algorithm.init(position))  # a warning would be an error
        dtypes = jax.tree.map(lambda leaf: str(leaf.dtype), state)
        assert dtypes.position == dtypes.logdensity_grad == {"a": "float32", "b": "float64"}

    def test_python_number_as_position(self, rng_key):
        algorithm = hmc(normal, 0.1, 2)
        state, _ = algorithm.step(rng_key, algorithm.init(1.0))
        assert state.position.shape == ()

    def test_kernel_takes_step_size_and_metric_as_arguments(self, rng_key):
        algorithm = hmc(gaussian, 0.3, 4)
        state = algorithm.init(jnp.ones(2))
        other = hmc(gaussian, 0.7, 4, metrics.dense(PRECISION))
        expected = jax.jit(other.step)(rng_key, state)
        came = jax.jit(algorithm.kernel)(rng_key, state, 0.7, metrics.dense(PRECISION))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), came, expected)
        assert other.step_size == 0.7
        assert isinstance(algorithm.metric, metrics.Identity)
