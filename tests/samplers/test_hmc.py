"""The HMC kernel: the law it leaves invariant, what it reports, what it refuses.

Statistical tolerances are four standard errors, each from the effective sample size of the very draws.
"""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from hmcvae import integrators, metrics, solvers
from hmcvae.samplers.hamiltonian import HMCState, hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.solvers import SolverInfo
from tests.support.statistics import NUM_CHAINS, NUM_DRAWS, assert_moments, log_gamma, run, z_score

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its refactoring once a day

MEAN = np.array([1.0, -2.0])
COVARIANCE = np.array([[4.0, 1.2], [1.2, 1.0]])
PRECISION = np.linalg.inv(COVARIANCE)


def gaussian(z):
    return -0.5 * (z - MEAN) @ PRECISION @ (z - MEAN)


def normal(z):
    return -0.5 * jnp.sum(z**2)


METRICS = {
    "identity": (metrics.identity(), 1.0),
    "diagonal": (metrics.diagonal(1 / np.diag(COVARIANCE)), 1.1),
    "dense": (metrics.dense(PRECISION), 1.4),
}


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


class TestReport:
    @pytest.mark.parametrize("name", METRICS)
    def test_energy_and_creutz_equality(self, name):
        """E exp(-ΔH) = 1 at equilibrium (Creutz 1988), and E H = d + ½ log|G| for U = ½ quadratic form."""
        metric, step_size = METRICS[name]
        start = jax.random.multivariate_normal(jax.random.key(3), MEAN, COVARIANCE, (NUM_CHAINS,))
        draws, info = run(hmc(gaussian, step_size, uniform_steps(1, 4), metric), start, 2000)
        assert abs(z_score(np.exp(-info.energy_error), 1.0)) < 4
        half_log_det = 0.5 * np.linalg.slogdet(metric.tensor(jnp.zeros(2)))[1]
        assert abs(z_score(info.energy, 2.0 + half_log_det)) < 4
        potential = -jax.vmap(jax.vmap(gaussian))(draws)
        assert float((info.energy - potential - half_log_det).min()) > 0  # a kinetic energy
        np.testing.assert_allclose(info.acceptance_rate, np.minimum(1, np.exp(-info.energy_error)))
        assert abs(z_score(info.is_accepted - info.acceptance_rate, 0.0)) < 4

    def test_state_carries_density_and_gradient(self, rng_key):
        algorithm = hmc(gaussian, 0.5, 3)
        state = algorithm.init(jnp.array([0.3, -0.2]))
        for key in jax.random.split(rng_key, 3):
            state, _ = algorithm.step(key, state)
            value, gradient = jax.value_and_grad(gaussian)(state.position)
            np.testing.assert_allclose(state.logdensity, value, rtol=1e-12)
            np.testing.assert_allclose(state.logdensity_grad, gradient, rtol=1e-12)

    @pytest.mark.parametrize("count", [5, uniform_steps(5, 5)], ids=["static", "traced"])
    def test_steps_cost_as_many_gradients(self, rng_key, count):
        calls = []

        @jax.custom_vjp
        def logdensity(z):
            return normal(z)

        def backward(z, cotangent):
            jax.debug.callback(lambda: calls.append(1))
            return (-z * cotangent,)

        logdensity.defvjp(lambda z: (normal(z), z), backward)
        algorithm = hmc(logdensity, 0.1, count)
        state = algorithm.init(jnp.ones(2))
        jax.effects_barrier()
        calls.clear()
        jax.block_until_ready(jax.jit(algorithm.step)(rng_key, state))
        jax.effects_barrier()
        assert len(calls) == 5

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    @pytest.mark.parametrize("step_size", [1e6, 1e30])
    def test_absurd_step_size(self, step_size, dtype):
        algorithm = hmc(gaussian, step_size, uniform_steps(1, 5))
        start = jnp.ones((4, 2), dtype)
        draws, info = run(algorithm, start, 20)
        assert (draws == 1).all()
        assert info.is_divergent.all()
        assert not info.is_accepted.any()
        assert (info.acceptance_rate == 0).all()
        assert jnp.isfinite(info.energy).all()

    @pytest.mark.parametrize("bad", ["inf", "-inf", "nan", "nan gradient"])
    def test_bad_proposals_are_rejected(self, bad, rng_key):
        """Beyond 1 all is bad; a step of 1e3 from 0 lands there, or far below -1, which is as bad."""

        def logdensity(z):
            outside = jnp.abs(z[0]) > 1
            if bad == "nan gradient":
                return jnp.where(outside, 0.0, 1.0) * jnp.sqrt(
                    jnp.where(outside, 0.0, 1.0) * z[0] ** 2 + 0 * z[0]
                )
            return jnp.where(outside, float(bad), 0.0)

        algorithm = hmc(logdensity, 1e3, 1)
        state = HMCState(jnp.full(1, 0.5), jnp.zeros(()), jnp.zeros(1))
        new, info = algorithm.step(rng_key, state)
        np.testing.assert_array_equal(new.position, state.position)
        assert info.is_divergent
        assert not info.is_accepted
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))

    def test_large_drop_of_energy_is_flagged_but_not_refused(self, rng_key):
        """A chain that falls from far outside must be able to get in."""
        algorithm = hmc(normal, 1.0, 1, divergence_threshold=1.0)
        state, info = algorithm.step(rng_key, algorithm.init(jnp.full(3, 50.0)))
        assert info.energy_error < -1
        assert info.is_divergent
        assert info.is_accepted
        assert not np.array_equal(state.position, jnp.full(3, 50.0))

    def test_failed_solve_is_rejected_and_told_apart(self, rng_key):
        def failing(logdensity_fn, metric):
            step = integrators.leapfrog(logdensity_fn, metric)

            def wrapped(state, step_size):
                state, info = step(state, step_size)
                return state, info._replace(
                    converged=jnp.asarray(False), num_iterations=jnp.asarray(7, jnp.int32)
                )

            return wrapped

        # Where the energy is fine, and where it is not.
        for step_size, check in [(0.1, False), (0.1, True), (1e200, False)]:
            algorithm = hmc(normal, step_size, 2, integrator=failing, check_reversibility=check)
            new, info = algorithm.step(rng_key, algorithm.init(jnp.ones(2)))
            np.testing.assert_array_equal(new.position, jnp.ones(2))
            assert not info.solver.converged
            assert info.solver.num_iterations == 14
            assert info.acceptance_rate == 0
            assert not info.is_accepted
            assert not info.is_divergent
            assert info.is_reversible

    def test_irreversible_trajectory_is_rejected_and_told_apart(self, rng_key):
        def drifting(logdensity_fn, metric):
            step = integrators.leapfrog(logdensity_fn, metric)

            def wrapped(state, step_size):
                state, info = step(state, step_size)
                return state._replace(position=state.position + 1e-3), info

            return wrapped

        start = jnp.ones(2)
        algorithm = hmc(normal, 0.1, 5, integrator=drifting, check_reversibility=True)
        new, info = algorithm.step(rng_key, algorithm.init(start))
        np.testing.assert_array_equal(new.position, start)
        assert not info.is_reversible
        assert 1e-3 < info.reversibility_error < 0.1
        assert not info.is_divergent
        assert info.acceptance_rate == 0
        loose = hmc(
            normal, 0.1, 5, integrator=drifting, check_reversibility=True, reversibility_tolerance=0.1
        )
        assert loose.step(rng_key, loose.init(start))[1].is_reversible

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    @pytest.mark.parametrize("count", [20, uniform_steps(20, 20)], ids=["static", "traced"])
    def test_leapfrog_is_reversible(self, rng_key, dtype, count):
        algorithm = hmc(gaussian, 0.3, count, check_reversibility=True)
        _, info = algorithm.step(rng_key, algorithm.init(jnp.ones(2, dtype)))
        assert info.is_reversible
        assert 0 < info.reversibility_error < 1000 * jnp.finfo(dtype).eps
        _, unchecked = hmc(gaussian, 0.3, count).step(rng_key, algorithm.init(jnp.ones(2, dtype)))
        assert unchecked.is_reversible
        assert unchecked.reversibility_error == 0
        assert unchecked.energy_error == info.energy_error

    @pytest.mark.parametrize("batch", [10, 2000])
    def test_a_way_back_that_ends_in_nan_is_not_reversible(self, batch):
        """In every batch: where a `max` drops NaN, all of them would pass."""

        def one_way(logdensity_fn, metric):
            step = integrators.leapfrog(logdensity_fn, metric)

            def wrapped(state, step_size):
                state, info = step(state, step_size)
                return state._replace(position=jnp.where(step_size > 0, state.position, jnp.nan)), info

            return wrapped

        algorithm = hmc(normal, 0.1, 2, integrator=one_way, check_reversibility=True)
        states = jax.vmap(algorithm.init)(jnp.ones((batch, 10)))
        _, info = jax.jit(jax.vmap(algorithm.step))(jax.random.split(jax.random.key(0), batch), states)
        assert not info.is_reversible.any()
        assert not info.is_accepted.any()


KERNELS = {
    "hmc": lambda f, metric: hmc(f, 0.2, 3),
    "hmc, random": lambda f, metric: hmc(f, 0.2, uniform_steps(1, 3)),
    "hmc, retraced": lambda f, metric: hmc(f, 0.2, 3, check_reversibility=True),
    "rmhmc": lambda f, metric: hmc(f, 0.2, 3, metric, integrator=integrators.generalized_leapfrog),
    "midpoint": lambda f, metric: hmc(f, 0.2, 2, metric, integrator=integrators.implicit_midpoint),
    "mmala": lambda f, metric: mmala(f, 0.2, metric),
}


class TestNoNaNInAHealthyRun:
    """With `jax_debug_nans`, which raises at the first NaN that a program returns: a chain of each kernel, alone and
    side by side, jitted and not."""

    @pytest.mark.parametrize("name", KERNELS)
    def test_kernels(self, name):
        algorithm = KERNELS[name](log_gamma, metrics.from_tensor(lambda z: jnp.exp(z) + 0.5))
        with jax.debug_nans(True):
            state = algorithm.init(jnp.ones(2))
            for transform in (lambda f: f, jax.jit):
                _, info = transform(algorithm.step)(jax.random.key(0), state)
                assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(info))
            states = jax.vmap(algorithm.init)(jnp.ones((3, 2)))
            keys = jax.random.split(jax.random.key(1), 3)
            _, info = jax.jit(jax.vmap(algorithm.step))(keys, states)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(info))


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
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state, _ = algorithm.step(rng_key, algorithm.init(position))
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


class TestErrors:
    @pytest.mark.parametrize("value", [True, None, 1j, "0.1", [0.1, [0.2]], [], np.bool_(True), [0.1, -0.2]])
    def test_what_is_no_step_size(self, value):
        with pytest.raises(ValueError, match="step_size must be"):
            hmc(normal, value, 3)

    def test_what_is_a_step_size(self):
        for value in (1, np.float32(0.1), np.int64(1), [0.1, 0.2], (0.1, 0.2), jnp.array([0.1, 0.2])):
            algorithm = hmc(normal, value, np.int64(3))
            assert algorithm.step(jax.random.key(0), algorithm.init(jnp.ones(2)))[1].acceptance_rate > 0.5

    @pytest.mark.parametrize("name", ["divergence_threshold", "reversibility_tolerance"])
    def test_one_number_each(self, name):
        for value in (True, 1j, [1.0], jnp.ones(2), np.nan):
            with pytest.raises(ValueError, match=name):
                hmc(normal, 0.1, 3, **{name: value})

    @pytest.mark.parametrize(
        ("metric", "advice"),
        [
            (np.eye(2), "metrics.dense"),
            (jnp.ones(2), "metrics.diagonal"),
            (lambda z: jnp.eye(2), "metrics.from_tensor"),
            (metrics.identity, "the function identity"),
            (None, "got None"),
        ],
    )
    def test_what_is_no_metric(self, metric, advice):
        state = integrators.init(normal, metrics.identity(), jnp.ones(2), jnp.ones(2))
        for make in (
            lambda: hmc(normal, 0.1, 3, metric),
            lambda: mmala(normal, 0.1, metric),
            lambda: integrators.init(normal, metric, state.position, state.momentum),
            lambda: integrators.leapfrog(normal, metric),
            lambda: integrators.generalized_leapfrog(normal, metric),
            lambda: integrators.implicit_midpoint(normal, metric),
        ):
            with pytest.raises(ValueError, match=f"metric must be one of hmcvae.metrics.*{advice}"):
                make()

    def test_a_metric_written_for_the_pytree(self):
        metric = metrics.from_tensor(lambda p: jnp.diag(1 + p["a"] ** 2))
        algorithm = hmc(lambda p: normal(p["a"]), 0.1, 3, metric, integrator=integrators.generalized_leapfrog)
        with pytest.raises(ValueError, match="a metric takes the ravelled position"):
            algorithm.init({"a": jnp.ones(2)})

    def test_a_step_in_place_of_an_integrator(self):
        step = integrators.leapfrog(normal, metrics.identity())
        for wrong, came in ((step, "a step"), (None, "None")):
            with pytest.raises(ValueError, match=f"integrator must build a step.*got {came}"):
                hmc(normal, 0.1, 3, integrator=wrong)

    def test_a_solver_that_was_not_made(self):
        metric = metrics.from_tensor(lambda z: 1 + z**2)
        for make in (integrators.generalized_leapfrog, integrators.implicit_midpoint):
            for wrong in (solvers.newton, solvers.fixed_point, None):
                with pytest.raises(ValueError, match="solver must be one that is made"):
                    make(normal, metric, wrong)

    @pytest.mark.parametrize("step_size", [0.0, -0.1, np.nan, np.inf, "a", jnp.array([0.1, -0.1])])
    def test_step_size(self, step_size):
        with pytest.raises(ValueError, match="step_size"):
            hmc(normal, step_size, 3)

    @pytest.mark.parametrize("count", [0, -1, 2.5, None, True])
    def test_num_integration_steps(self, count):
        with pytest.raises(ValueError, match="num_integration_steps"):
            hmc(normal, 0.1, count)

    @pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 3), (4, 3), (1.5, 3)])
    def test_uniform_steps(self, low, high):
        with pytest.raises(ValueError, match=r"low|high"):
            uniform_steps(low, high)

    @pytest.mark.parametrize("name", ["divergence_threshold", "reversibility_tolerance"])
    def test_tolerances(self, name):
        with pytest.raises(ValueError, match=name):
            hmc(normal, 0.1, 3, **{name: -1.0})

    @pytest.mark.parametrize(
        "position", [jnp.arange(3), {"a": jnp.ones(2), "b": jnp.array(True)}, 1j, {}, jnp.ones(0)]
    )
    def test_position_type(self, position):
        with pytest.raises(ValueError, match="floating-point"):
            hmc(lambda p: jnp.zeros(()), 0.1, 3).init(position)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_position_not_finite(self, bad):
        with pytest.raises(ValueError, match="initial position must be finite"):
            hmc(normal, 0.1, 3).init(jnp.array([1.0, bad]))

    def test_a_constant_start_inside_jit(self):
        """The start is concrete and what is computed from it is not: the check must not stage itself."""
        for start in (jnp.ones(2), np.ones(2), {"a": jnp.ones(2), "b": jnp.zeros(())}):
            for make in (lambda f: hmc(f, 0.1, 3), lambda f: mmala(f, 0.1, metrics.identity())):
                algorithm = make(lambda p: sum(normal(leaf) for leaf in jax.tree.leaves(p)))
                state, _ = jax.jit(lambda key: algorithm.step(key, algorithm.init(start)))(jax.random.key(0))  # noqa: B023
                assert np.isfinite(state.logdensity)
        bad = jnp.array([1.0, jnp.nan])
        with pytest.raises(ValueError, match="initial position must be finite"):
            jax.jit(lambda: hmc(normal, 0.1, 3).init(bad))()

    def test_density_not_finite(self):
        with pytest.raises(ValueError, match="logdensity at the initial position"):
            hmc(lambda z: jnp.log(z[0]), 0.1, 3).init(jnp.array([-1.0]))
        with pytest.raises(ValueError, match="gradient"):
            hmc(lambda z: jnp.sqrt(z[0]), 0.1, 3).init(jnp.zeros(1))

    @pytest.mark.parametrize(
        "bad_fn", [lambda z: z, lambda z: z[:1], lambda z: (z[0], z[0]), lambda z: z[0] * 1j, lambda z: None]
    )
    def test_density_not_a_scalar(self, bad_fn):
        with pytest.raises(ValueError, match="real scalar"):
            hmc(bad_fn, 0.1, 3).init(jnp.ones(2))

    @pytest.mark.parametrize(
        "metric", [metrics.diagonal(jnp.ones(3)), metrics.dense(jnp.eye(3)), metrics.diagonal(jnp.ones(1))]
    )
    def test_metric_dimension(self, metric, rng_key):
        algorithm = hmc(normal, 0.1, 3, metric)
        with pytest.raises(ValueError, match="d = 2"):
            algorithm.init(jnp.ones(2))
        state = hmc(normal, 0.1, 3).init(jnp.ones(2))
        with pytest.raises(ValueError, match="d = 2"):
            jax.jit(algorithm.step)(rng_key, state)

    def test_step_size_dimension(self):
        with pytest.raises(ValueError, match="step_size"):
            hmc(normal, jnp.full(3, 0.1), 3).init(jnp.ones(2))

    def test_traced_arguments_pass(self):
        """What cannot be looked at is not refused: step sizes and starts may be traced."""

        def final(step_size, start):
            algorithm = hmc(normal, step_size, 3)
            return algorithm.step(jax.random.key(0), algorithm.init(start))[0].position

        assert jnp.isfinite(jax.jit(final)(0.1, jnp.ones(2))).all()


def test_solver_info_is_exact_for_leapfrog(rng_key):
    algorithm = hmc(normal, 0.1, 3)
    _, info = algorithm.step(rng_key, algorithm.init(jnp.ones(2)))
    assert isinstance(info.solver, SolverInfo)
    assert info.solver.converged
    assert info.solver.num_iterations == 0
