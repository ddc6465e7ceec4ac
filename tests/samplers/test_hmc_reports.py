"""What the HMC kernel reports of a transition, and that no NaN comes up in a healthy run of any kernel.

Statistical tolerances are four standard errors, each from the effective sample size of the very draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics
from hmcvae.samplers.hamiltonian import HMCState, hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.nuts import nuts
from hmcvae.solvers import SolverInfo
from tests.support.gaussians import COVARIANCE, MEAN, METRICS, gaussian, normal
from tests.support.statistics import NUM_CHAINS, log_gamma, run, z_score


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
    "nuts": lambda f, metric: nuts(f, 0.4, max_depth=3),
    "nuts, implicit": lambda f, metric: nuts(
        f, 0.4, metric, integrator=integrators.generalized_leapfrog, max_depth=2
    ),
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


def test_solver_info_is_exact_for_leapfrog(rng_key):
    algorithm = hmc(normal, 0.1, 3)
    _, info = algorithm.step(rng_key, algorithm.init(jnp.ones(2)))
    assert isinstance(info.solver, SolverInfo)
    assert info.solver.converged
    assert info.solver.num_iterations == 0
