"""What the solvers of x = g(x) find, in how many evaluations, and in which units a correction is small."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae.solvers import fixed_point, newton
from tests.support.equations import (
    DEFAULT,
    EVERY,
    LINEAR,
    A,
    B,
    affine,
    bent,
    bent_solution,
    over_every,
    over_loops,
)


class TestSolution:
    @over_every
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_known_solutions(self, solver, dtype):
        eps = float(jnp.finfo(dtype).eps)
        p = jnp.array([0.3, -0.4, 0.2], dtype)
        for g, expected in [(affine, LINEAR), (partial(bent, p=p), bent_solution(np.asarray(p, float)))]:
            x, info = jax.jit(lambda x, g=g: solver(g, x))(jnp.zeros(3, dtype))
            assert info.converged
            assert info.residual <= eps**0.75
            assert x.dtype == info.residual.dtype == dtype
            assert info.num_iterations.dtype == jnp.int32
            np.testing.assert_allclose(x, expected, rtol=10 * eps**0.75)

    def test_fixed_count_is_that_many_evaluations(self):
        for count in (1, 2, 5):
            x, info = fixed_point(num_iterations=count)(affine, jnp.zeros(3))
            expected = [np.zeros(3)]
            for _ in range(count):
                expected.append(A @ expected[-1] + B)
            np.testing.assert_allclose(x, expected[-1], rtol=1e-14)
            assert info.num_iterations == count
            np.testing.assert_allclose(info.residual, np.abs(expected[-1] - expected[-2]).max(), rtol=1e-13)
            assert not info.converged

    def test_count_and_residual_of_a_loop(self):
        """A scalar contraction by 1/2 from 1: corrections 2⁻¹, 2⁻², …; the loop ends at the first within tolerance."""
        x, info = fixed_point(2.0**-10, accelerate=False)(lambda x: 0.5 * x, jnp.ones(1))
        assert info.num_iterations == 10
        assert info.residual == 2.0**-10
        assert x[0] == 2.0**-10
        x, info = fixed_point(2.0**-10, accelerate=False)(lambda x: 0.5 * x, jnp.ones(1), 4.0)
        assert info.num_iterations == 8
        assert info.residual == 2.0**-10  # relative to the scale

    @over_loops
    def test_start_at_the_solution(self, solver):
        x, info = solver(affine, jnp.asarray(LINEAR))
        assert info.num_iterations == 1
        assert info.converged
        np.testing.assert_allclose(x, LINEAR, rtol=1e-14)

    def test_every_evaluation_is_counted(self):
        for solver in (EVERY["plain"], EVERY["anderson"], EVERY["count"]):
            calls = []

            def g(x):
                jax.debug.callback(lambda: calls.append(1))  # noqa: B023
                return affine(x)

            _, info = jax.jit(lambda x: solver(g, x))(jnp.zeros(3))  # noqa: B023
            jax.effects_barrier()
            assert len(calls) == info.num_iterations

    def test_anderson_and_newton_take_fewer(self):
        def slow(x):
            return jnp.asarray([0.45, 0.45, 0.4]) * x + 1.0

        plain, mixed, by_newton = (
            jax.jit(lambda x, s=EVERY[name]: s(slow, x)[1].num_iterations)(jnp.zeros(3))
            for name in ("plain", "anderson", "newton")
        )
        assert by_newton <= 3
        assert mixed < plain

    def test_newton_where_the_iteration_expands(self):
        """x = 3x - 2 has the solution 1; x = 2 cos 2x one near 0.7."""
        x, info = newton()(lambda x: 3 * x - 2, jnp.zeros(1))
        assert info.converged
        np.testing.assert_allclose(x, 1.0, rtol=1e-14)
        x, info = newton()(lambda x: 2 * jnp.cos(2 * x), jnp.full(1, 0.6))
        assert info.converged
        np.testing.assert_allclose(2 * np.cos(2 * x), x, rtol=1e-12)

    def test_float32_far_from_zero(self):
        """A tolerance relative to the scale can be met where one ulp is 1e-3."""
        b = jnp.asarray([1e4, -2e4, 1.5e4], jnp.float32)

        def g(x):
            return jnp.asarray(A, x.dtype) @ x + b

        start = jnp.zeros(3, jnp.float32)
        for solver in DEFAULT.values():
            x, info = jax.jit(lambda x, s=solver: s(g, x, 2e4))(start)
            assert info.converged
            assert info.num_iterations < 25
            np.testing.assert_allclose(x, np.linalg.solve(np.eye(3) - A, b), rtol=1e-4)

    @over_every
    def test_vmap_equals_loop(self, solver):
        ps = jnp.asarray(np.linspace(-0.6, 0.7, 12).reshape(4, 3))

        def solve(p):
            return solver(lambda x: bent(x, p), jnp.zeros(3))

        x, info = jax.jit(jax.vmap(solve))(ps)
        single = jax.jit(solve)
        for i in range(4):
            alone, alone_info = single(ps[i])
            np.testing.assert_allclose(x[i], alone, rtol=1e-12)
            assert info.num_iterations[i] == alone_info.num_iterations
            assert info.converged[i]

    @over_loops
    def test_one_failing_lane_leaves_the_others(self, solver):
        rates = jnp.array([0.3, jnp.nan, 0.2])
        x, info = jax.jit(jax.vmap(lambda r: solver(lambda x: r * x + 1, jnp.zeros(2))))(rates)
        np.testing.assert_array_equal(info.converged, [True, False, True])
        np.testing.assert_allclose(x[[0, 2], 0], [1 / 0.7, 1 / 0.8], rtol=1e-10)


class TestScale:
    """Corrections are judged coordinate by coordinate, against what the caller says is large there."""

    SIZES = np.array([1e-6, 1.0, 1e6])

    @over_loops
    def test_other_units_change_nothing(self, solver):
        """x ↦ D x with powers of two: the very same iterations."""
        units = 2.0 ** np.array([-30, 0, 25])

        def scaled(x):
            return units * bent(x / units, p=jnp.array([0.3, -0.4, 0.2]))

        x, info = solver(partial(bent, p=jnp.array([0.3, -0.4, 0.2])), jnp.zeros(3), 1.0)
        y, other = solver(scaled, jnp.zeros(3), jnp.asarray(units))
        assert info.num_iterations == other.num_iterations
        np.testing.assert_allclose(y, units * x, rtol=1e-12)

    @over_loops
    def test_the_small_coordinate_is_solved_for_too(self, solver):
        sizes = jnp.asarray(self.SIZES)
        x, info = solver(lambda x: sizes * affine(x / sizes), jnp.zeros(3), sizes)
        assert info.converged
        np.testing.assert_allclose(x, self.SIZES * LINEAR, rtol=1e-9)

    @over_loops
    @pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd], ids=["reverse", "forward"])
    def test_derivatives_of_the_small_coordinate(self, solver, mode):
        """x = D (A D⁻¹ x + p): dx/dp = D (I - A)⁻¹, each row to its own last digits, whatever D."""
        sizes = jnp.asarray(self.SIZES)

        def solution(p):
            return solver(lambda x: sizes * (A @ (x / sizes) + p), jnp.zeros(3), sizes)[0]

        expected = self.SIZES[:, None] * np.linalg.inv(np.eye(3) - A)
        came = jax.jit(mode(solution))(jnp.asarray(B))
        np.testing.assert_allclose(came / expected, 1.0, rtol=1e-7)

    @over_loops
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_rounding_alone_ends_a_solve(self, solver, dtype):
        """Far from 0, and with no scale at all: a correction of some roundings of x is the least there is."""
        x, info = solver(lambda x: 0.3 * x + jnp.asarray(700, dtype), jnp.zeros(3, dtype), 0.0)
        assert info.converged
        np.testing.assert_allclose(x, 1000, rtol=10 * float(jnp.finfo(dtype).eps))

    @over_loops
    def test_the_floor_is_what_rounding_inside_the_map_leaves(self, solver):
        """A position of 1e3 in float32 inside g: what it returns jumps by much more than x is known to."""

        def g(x):
            return ((jnp.float32(1e3) + 0.4 * x[::-1]) - jnp.float32(1e3)) * jnp.float32(-2.3)

        start = jnp.array([0.03, 0.1], jnp.float32)
        _, info = jax.jit(lambda x: solver(g, x, 1e-3, 4 * 6.2e-5))(start)
        assert info.converged
