"""Solves that fail are flagged, bad settings refused, and reports of many solves are joined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import solvers
from hmcvae.solvers import SolverInfo, collect_info, combine_info, exact_info, fixed_point, newton, switching
from tests.support.equations import EVERY, affine, over_every


class TestFailure:
    @pytest.mark.parametrize("accelerate", [False, True])
    def test_expanding_map_is_flagged(self, accelerate):
        solver = fixed_point(max_iterations=30, accelerate=accelerate)
        # Rotated and stretched, so that no mixing of depth one turns it into a contraction.
        turn = jnp.array([[0.0, -2.0], [2.0, 0.0]])
        _, info = solver(lambda x: turn @ x + 1, jnp.ones(2))
        assert not info.converged
        assert info.num_iterations == 30
        assert info.residual > 1

    @pytest.mark.parametrize("accelerate", [False, True])
    def test_cycle_is_flagged(self, accelerate):
        _, info = fixed_point(max_iterations=17, accelerate=accelerate)(lambda x: -x, jnp.ones(2))
        if not accelerate:
            assert not info.converged
            assert info.num_iterations == 17
        else:
            assert bool(info.converged) == bool(info.residual < 1e-11)

    def test_overflow_stops(self):
        solver = fixed_point(max_iterations=10_000, accelerate=False)
        _, info = solver(lambda x: 1e30 * x + 1, jnp.ones(2))
        assert not info.converged
        assert info.num_iterations < 20

    @over_every
    def test_nan_stops_at_once(self, solver):
        _, info = solver(lambda x: x * jnp.nan, jnp.ones(2))
        assert not info.converged
        assert not np.isfinite(info.residual)
        if solver is not EVERY["count"]:
            assert info.num_iterations == 1

    @over_every
    @pytest.mark.parametrize("batch", [10, 1000, 16_000])
    def test_nan_in_a_large_batch(self, solver, batch):
        """XLA's `max` over the last axis drops NaN in arrays of some thousands of entries: no batch is so large that
        a solve that is NaN passes."""
        starts = jnp.ones((batch, 10))
        _, info = jax.jit(jax.vmap(lambda x: solver(lambda x: x * jnp.nan, x)))(starts)
        assert not info.converged.any()
        assert not np.isfinite(info.residual).any()
        # A single bad entry among good ones.
        rates = jnp.full((batch, 10), 0.1).at[:, 3].set(jnp.nan)
        _, info = jax.jit(jax.vmap(lambda x, r: solver(lambda x: r * x + 1, x)))(starts, rates)
        assert not info.converged.any()

    @over_every
    @pytest.mark.parametrize("scale", [np.inf, np.nan, [1.0, np.inf, 1.0], [np.nan, 1.0, 1.0]])
    def test_a_scale_that_is_not_finite_passes_nothing(self, solver, scale):
        _, info = solver(lambda x: affine(x), jnp.zeros(3), jnp.asarray(scale))
        assert not info.converged

    @over_every
    def test_overflow_is_no_solution(self, solver):
        """inf = g(inf), and the rounding of inf is inf."""
        _, info = solver(lambda x: jnp.full_like(x, jnp.inf), jnp.ones(2))
        assert not info.converged

    def test_nan_later(self):
        _, info = fixed_point(accelerate=False)(lambda x: jnp.sqrt(x) - 0.2, jnp.full(1, 0.05))
        assert not info.converged
        assert info.num_iterations < 20

    def test_newton_at_a_singular_jacobian(self):
        _, info = newton(max_iterations=7)(lambda x: x + 1, jnp.zeros(2))
        assert not info.converged
        assert info.num_iterations <= 7

    def test_cap(self):
        _, info = fixed_point(max_iterations=3, accelerate=False)(affine, jnp.zeros(3))
        assert not info.converged
        assert info.num_iterations == 3

    @pytest.mark.parametrize("tolerance", [0.0, -1e-3, np.nan, np.inf])
    def test_bad_tolerance(self, tolerance):
        for make in (fixed_point, newton):
            with pytest.raises(ValueError, match="tolerance"):
                make(tolerance)

    @pytest.mark.parametrize("count", [0, -3, True])
    def test_bad_counts(self, count):
        for make in (fixed_point, newton):
            with pytest.raises(ValueError, match="max_iterations"):
                make(max_iterations=count)
        with pytest.raises(ValueError, match="num_iterations"):
            fixed_point(num_iterations=count)

    def test_bad_derivative(self):
        with pytest.raises(ValueError, match="differentiate"):
            fixed_point(differentiate="forward")
        with pytest.raises(ValueError, match="num_iterations"):
            fixed_point(differentiate="unrolled")


class TestInfo:
    def test_exact(self):
        info = exact_info(jnp.dtype("float32"))
        assert info.converged
        assert info.num_iterations == 0
        assert info.residual == 0
        assert info.residual.dtype == jnp.float32

    def test_combination_is_all_sum_max(self):
        good = SolverInfo(jnp.asarray(True), jnp.asarray(3, jnp.int32), jnp.asarray(1e-9))
        bad = SolverInfo(jnp.asarray(False), jnp.asarray(4, jnp.int32), jnp.asarray(2.0))
        for pair in ((good, bad), (bad, good)):
            info = combine_info(*pair)
            assert not info.converged
            assert info.num_iterations == 7
            assert info.residual == 2.0
        assert combine_info(good, good).converged

    def test_nan_residual_is_kept(self):
        good = exact_info(jnp.dtype("float64"))
        bad = SolverInfo(jnp.asarray(False), jnp.asarray(1, jnp.int32), jnp.asarray(jnp.nan))
        assert np.isnan(combine_info(good, bad).residual)
        assert np.isnan(combine_info(bad, good).residual)

    def test_nan_residual_of_one_step_among_many(self):
        for size in (4, 20_000):
            residuals = jnp.zeros((size, 5)).at[:, 2].set(jnp.nan)
            infos = SolverInfo(residuals == 0, jnp.ones((size, 5), jnp.int32), residuals)
            together = jax.jit(jax.vmap(collect_info))(infos)
            assert not together.converged.any()
            assert (together.num_iterations == 5).all()
            assert together.num_iterations.dtype == jnp.int32
            assert np.isnan(together.residual).all()

    def test_default(self):
        assert switching() == solvers.DEFAULT
