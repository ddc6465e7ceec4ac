"""What the Riemannian kernels report: solves that fail, ways back, densities that were moved."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics, solvers
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.riemannian import rmhmc
from tests.support.gaussians import normal
from tests.support.kernels import BENT, REGRESSION, midpoint
from tests.support.problems import BANANA, LOGISTIC
from tests.support.statistics import run


class TestReport:
    def test_what_is_checked_by_default(self, rng_key):
        """Implicit integrators, whatever the metric; no explicit one. A step of the user's own: by its metric."""

        def own(logdensity_fn, metric):
            step = integrators.generalized_leapfrog(logdensity_fn, metric)
            return lambda state, step_size: step(state, step_size)

        implicit, flat = integrators.implicit_midpoint, metrics.identity()
        cases = [
            (rmhmc(BANANA.logdensity_fn, 0.3, 2, BENT), True),
            (midpoint(BANANA.logdensity_fn, 0.3, 2, BENT), True),
            (hmc(BANANA.logdensity_fn, 0.3, 2, flat, integrator=implicit), True),
            (hmc(BANANA.logdensity_fn, 0.3, 2, BENT, integrator=own), True),
            (hmc(BANANA.logdensity_fn, 0.3, 2), False),
            (rmhmc(BANANA.logdensity_fn, 0.3, 2, flat), False),
            (rmhmc(BANANA.logdensity_fn, 0.3, 2, BENT, check_reversibility=False), False),
        ]
        for algorithm, is_checked in cases:
            _, info = jax.jit(algorithm.step)(rng_key, algorithm.init(jnp.asarray(BANANA.typical)))
            assert (float(info.reversibility_error) > 0) == is_checked
            assert info.is_reversible

    def test_failures_do_not_depend_on_the_number_of_chains(self):
        """The metric is not definite beyond |z| = 1, and its factor NaN: as many chains fail there in a batch of 16,000
        as among the first 500 of them, with the same keys."""
        algorithm = rmhmc(normal, 0.3, 2, metrics.from_tensor(lambda z: 1 - z**2))
        keys = jax.random.split(jax.random.key(0), 16_000)
        step = jax.jit(jax.vmap(lambda key, z: algorithm.step(key, algorithm.init(z))[1]))
        few, many = (step(keys[:n], jnp.full((n, 3), 0.3)).solver.converged for n in (500, 16_000))
        np.testing.assert_array_equal(few, many[:500])
        assert 0.1 < 1 - many.mean() < 0.9

    def test_creutz_equality(self):
        """E exp(-ΔH) = 1 in equilibrium (Creutz 1988): volume, reversal and energy at once, from exact draws."""
        z0 = 1.5 * jax.random.normal(jax.random.key(1), (20_000,))
        z1 = 0.5 * (z0**2 - 2.25) + jax.random.normal(jax.random.key(2), (20_000,))
        algorithm = rmhmc(BANANA.logdensity_fn, 0.2, 4, BENT)
        keys = jax.random.split(jax.random.key(3), 20_000)
        _, info = jax.jit(jax.vmap(lambda key, z: algorithm.step(key, algorithm.init(z))))(
            keys, jnp.stack([z0, z1], axis=1)
        )
        ratio = np.where(info.solver.converged, np.exp(-np.asarray(info.energy_error)), 0.0)
        failed = 1 - float(info.solver.converged.mean())
        assert failed < 0.01
        assert np.std(ratio) > 0.01
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio)) + failed

    def test_state_carries_what_is_fresh(self, rng_key):
        algorithm = rmhmc(BANANA.logdensity_fn, 0.5, 3, BENT)
        init, step = jax.jit(algorithm.init), jax.jit(algorithm.step)
        state = algorithm.init(jnp.asarray(BANANA.typical))
        for key in jax.random.split(rng_key, 3):
            state, info = step(key, state)
            assert info.num_integration_steps == 3
            for came, fresh in zip(
                jax.tree.leaves(state), jax.tree.leaves(init(state.position)), strict=True
            ):
                np.testing.assert_allclose(came, fresh, rtol=1e-10, atol=1e-12)
        assert info.solver.num_iterations > 6
        assert info.energy > -state.logdensity - 5

    @pytest.mark.parametrize("check", [False, True])
    def test_failed_solves_are_rejected_and_counted(self, check):
        """Two iterations are not enough: every transition fails by its solver, and by nothing else."""
        solver = solvers.fixed_point(max_iterations=2)
        algorithm = rmhmc(BANANA.logdensity_fn, 0.8, 2, BENT, solver=solver, check_reversibility=check)
        start = jnp.tile(BANANA.typical, (4, 1))
        draws, info = run(algorithm, start, 20)
        assert not info.solver.converged.any()
        np.testing.assert_array_equal(draws, jnp.broadcast_to(start[:, None], draws.shape))
        assert (info.acceptance_rate == 0).all()
        assert not info.is_accepted.any()
        assert not info.is_divergent.any()
        assert info.is_reversible.all()
        assert (info.solver.num_iterations == 8).all()
        assert (info.solver.residual > 1e-11).all()

    def test_divergence_is_told_apart(self):
        """Solves that converge and an energy that has gone: a metric that is constant, and too long a step."""
        algorithm = rmhmc(normal, 30.0, 5, metrics.from_tensor(lambda z: jnp.eye(2)))
        draws, info = run(algorithm, jnp.ones((4, 2)), 20)
        assert info.solver.converged.all()
        assert info.is_divergent.all()
        assert not info.is_accepted.any()
        np.testing.assert_array_equal(draws, jnp.ones_like(draws))

    def test_irreversibility_is_told_apart(self):
        """A loose tolerance: the solver is content, the way back is not the way there."""
        loose = solvers.fixed_point(0.3, accelerate=False)
        algorithm = rmhmc(BANANA.logdensity_fn, 0.8, 2, BENT, solver=loose, check_reversibility=True)
        start = jnp.tile(BANANA.typical, (4, 1))
        _, info = run(algorithm, start, 50)
        failed = np.asarray(~info.is_reversible)
        assert failed.mean() > 0.2
        assert info.solver.converged[failed].all()
        assert not info.is_divergent[failed].any()
        assert (info.acceptance_rate[failed] == 0).all()
        assert not (info.reversibility_error[failed] <= 1e-8).any()  # NaN where the way back ran off

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_proper_trajectory_is_reversible(self, rng_key, dtype):
        algorithm = rmhmc(BANANA.logdensity_fn, 0.4, 5, BENT, check_reversibility=True)
        state = algorithm.init(jnp.asarray(BANANA.typical, dtype))
        after, info = jax.jit(algorithm.step)(rng_key, state)
        # The square root of eps is 3e-4 in float32 and 1e-8 in float64.
        assert info.is_reversible
        assert 0 < info.reversibility_error < 100 * float(jnp.finfo(dtype).eps) ** 0.75
        for leaf in jax.tree.leaves((state, after)):
            assert leaf.dtype == dtype
        assert info.energy.dtype == info.solver.residual.dtype == dtype

    @pytest.mark.parametrize("step_size", [1e3, 1e30])
    @pytest.mark.parametrize("make", [rmhmc, midpoint, mmala])
    def test_absurd_step_sizes(self, make, step_size):
        """Finite positions and acceptance 0; nothing is accepted by accident."""
        arguments = (step_size, REGRESSION) if make is mmala else (step_size, 3, REGRESSION)
        draws, info = run(make(LOGISTIC.logdensity_fn, *arguments), jnp.tile(LOGISTIC.typical, (4, 1)), 20)
        assert np.isfinite(draws).all()
        assert info.acceptance_rate.max() < 1e-6
        assert not info.is_accepted.any()

    def test_leaving_the_metric_is_no_way_out(self):
        """G is positive definite for |z| < 1 alone: the chain stays there."""
        metric = metrics.from_tensor(lambda z: 1 - z**2)
        draws, info = run(rmhmc(normal, 0.6, 3, metric), jnp.full((4, 1), 0.5), 200)
        assert np.abs(draws).max() < 1
        assert 0 < info.is_accepted.mean() < 1
        assert not info.solver.converged.all()
        # The mmala kernel as well.
        draws, info = run(mmala(normal, 0.8, metric), jnp.full((4, 1), 0.5), 200)
        assert np.abs(draws).max() < 1
        assert bool(info.is_divergent.any())


@cache
def moved_transitions(dtype):
    """(keys, positions, shift, units) -> info of a transition of the banana at shift + units * z, with its metric moved
    along; one program for every shift and unit."""

    @jax.jit
    def run(keys, positions, shift, units):
        def home(z):
            return (z - shift) / units

        def tensor(z):
            return BENT.tensor(home(z)) / (units[:, None] * units[None, :])

        algorithm = rmhmc(lambda z: BANANA.logdensity_fn(home(z)), 0.35, 6, metrics.from_tensor(tensor))
        return jax.vmap(lambda key, z: algorithm.step(key, algorithm.init(shift + units * z))[1])(
            keys, positions
        )

    keys = jax.random.split(jax.random.key(7), 500)
    first = 1.5 * jax.random.normal(jax.random.key(8), (500,))
    second = 0.5 * (first**2 - 2.25) + jax.random.normal(jax.random.key(9), (500,))
    positions = jnp.stack([first, second], axis=1).astype(dtype)
    return lambda shift, units: run(keys, positions, jnp.asarray(shift, dtype), jnp.asarray(units, dtype))


class TestMovedDensity:
    """A density does not change when it is moved, nor when its coordinates are given other units."""

    HOME = (np.zeros(2), np.ones(2))
    SHIFT, UNITS = np.array([1024.0, -512.0]), 2.0 ** np.array([10, -10])

    @pytest.mark.parametrize(("shift", "units"), [(SHIFT, HOME[1]), (HOME[0], UNITS), (SHIFT * UNITS, UNITS)])
    def test_nearly_the_same_trajectories(self, shift, units):
        at_home, moved = moved_transitions("float64")(*self.HOME), moved_transitions("float64")(shift, units)
        agree = at_home.solver.converged == moved.solver.converged
        assert agree.mean() > 0.995
        np.testing.assert_array_equal(at_home.is_reversible[agree], moved.is_reversible[agree])
        both = np.asarray(agree & at_home.solver.converged & at_home.is_reversible)
        assert 0.5 < both.mean() < 1
        np.testing.assert_allclose(moved.energy_error[both], at_home.energy_error[both], rtol=1e-5, atol=1e-8)
        iterations = [info.solver.num_iterations[both].mean() for info in (at_home, moved)]
        np.testing.assert_allclose(*iterations, rtol=0.01)
        assert moved.reversibility_error[both].max() < 1e-8

    @pytest.mark.parametrize(("shift", "units"), [(SHIFT, HOME[1]), (HOME[0], UNITS), (SHIFT * UNITS, UNITS)])
    def test_in_single_precision(self, shift, units):
        """As many are accepted and as many solved; the way back misses by some roundings of the position."""
        at_home, moved = moved_transitions("float32")(*self.HOME), moved_transitions("float32")(shift, units)
        for name in ("is_accepted", "is_reversible"):
            shares = [float(getattr(info, name).mean()) for info in (at_home, moved)]
            assert abs(shares[0] - shares[1]) < 0.02, name
        shares = [float(info.solver.converged.mean()) for info in (at_home, moved)]
        assert abs(shares[0] - shares[1]) < 0.02
        ulp = float(jnp.finfo("float32").eps) * max(np.abs(shift / units).max(), 10)
        good = np.asarray(moved.solver.converged & moved.is_reversible)
        assert np.quantile(moved.reversibility_error[good], 0.99) < 50 * ulp
