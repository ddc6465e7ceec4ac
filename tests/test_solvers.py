"""The solvers of x = g(x): what they find, what they report, and the derivatives of what they find."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import solvers
from hmcvae.solvers import SolverInfo, collect_info, combine_info, exact_info, fixed_point, newton, switching

A = np.array([[0.3, -0.2, 0.1], [0.15, 0.2, 0.0], [0.05, 0.1, -0.4]])
B = np.array([1.0, -0.5, 0.7])
LINEAR = np.linalg.solve(np.eye(3) - A, B)
EVERY = {
    "plain": fixed_point(accelerate=False),
    "anderson": fixed_point(),
    "newton": newton(),
    "switching": switching(),
    "count": fixed_point(num_iterations=60),
}
DEFAULT = {name: solver for name, solver in EVERY.items() if name != "count"}
over_every = pytest.mark.parametrize("solver", EVERY.values(), ids=EVERY.keys())
over_loops = pytest.mark.parametrize("solver", DEFAULT.values(), ids=DEFAULT.keys())


def affine(x):
    return jnp.asarray(A, x.dtype) @ x + jnp.asarray(B, x.dtype)


def bent(x, p):
    """A contraction with a derivative that is not constant, and parameters [3]."""
    return 0.5 * jnp.cos(jnp.asarray(A, x.dtype) @ x * 1.5 + p) + p


def bent_solution(p):
    x = np.zeros(3)
    for _ in range(500):
        x = 0.5 * np.cos(A @ x * 1.5 + p) + p
    return x


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


class TestDerivative:
    P = np.array([0.3, -0.4, 0.2])

    def exact(self):
        """dx/dp [3, 3] of x = bent(x, p): (I - ∂g/∂x)⁻¹ ∂g/∂p."""
        x = bent_solution(self.P)
        sine = 0.5 * np.sin(A @ x * 1.5 + self.P)
        return np.linalg.solve(np.eye(3) + sine[:, None] * A * 1.5, np.eye(3) - np.diag(sine))

    def differences(self, h=1e-5):
        columns = [
            (bent_solution(self.P + h * e) - bent_solution(self.P - h * e)) / (2 * h) for e in np.eye(3)
        ]
        return np.stack(columns, axis=1)

    def test_closed_form_is_right(self):
        np.testing.assert_allclose(self.exact(), self.differences(), rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd], ids=["reverse", "forward"])
    @over_every
    def test_implicit_is_unrolled_is_exact(self, solver, mode):
        """Also: the parameter reaches the equation through a closure."""

        def solution(p):
            shifted = jnp.tanh(p)  # computed outside, captured

            def g(x):
                return bent(x, jnp.arctanh(shifted))

            return solver(g, jnp.zeros(3))[0]

        came = jax.jit(mode(solution))(jnp.asarray(self.P))
        np.testing.assert_allclose(came, self.exact(), rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
    def test_a_fixed_count_differentiated_as_asked(self, mode):
        """Two iterations x₂ of x = r x + p from 0, r = 1/2: unrolled d x₂ / dp = 1 + r, implicit 1 / (1 - r)."""
        for asked, expected in ((None, 1.5), ("unrolled", 1.5), ("implicit", 2.0)):
            solver = fixed_point(num_iterations=2, differentiate=asked)

            def solve(p):
                return solver(lambda x: 0.5 * x + p, jnp.zeros(1))[0][0]  # noqa: B023

            np.testing.assert_allclose(solve(3.0), 4.5, rtol=1e-14)
            np.testing.assert_allclose(jax.jit(mode(solve))(3.0), expected, rtol=1e-12)

    def test_matrix_in_a_closure(self):
        """d sum(x) / dM of x = M x + b is (I - M)⁻ᵀ 1 xᵀ."""
        expected = np.outer(np.linalg.solve(np.eye(3) - A.T, np.ones(3)), LINEAR)
        for solver in EVERY.values():
            gradient = jax.grad(lambda M, s=solver: s(lambda x: M @ x + B, jnp.zeros(3))[0].sum())(
                jnp.asarray(A)
            )
            np.testing.assert_allclose(gradient, expected, rtol=1e-9)

    def test_where_the_iteration_barely_contracts(self):
        """The linear solve of the derivative is to tolerance too: d/dp of x = r x + p is 1 / (1 - r)."""
        for rate in (0.9, -0.9):
            solve = jax.grad(lambda p, r=rate: newton()(lambda x: r * x + p, jnp.zeros(1))[0][0])
            np.testing.assert_allclose(solve(2.0), 1 / (1 - rate), rtol=1e-9)

    def test_newton_where_the_iteration_expands(self):
        """x = 3x - 2p: x = p, dx/dp = 1."""
        gradient = jax.grad(lambda p: newton()(lambda x: 3 * x - 2 * p, jnp.zeros(2))[0].sum())(1.0)
        np.testing.assert_allclose(gradient, 2.0, rtol=1e-9)

    def test_fixed_point_where_the_iteration_expands(self):
        """NaN, which is seen; the sum of an iteration that diverges would be taken for a gradient."""
        gradient = jax.grad(lambda p: fixed_point()(lambda x: 3 * x - 2 * p, jnp.ones(2))[0].sum())(1.0)
        assert np.isnan(gradient)

    @over_loops
    def test_start_has_no_derivative(self, solver):
        gradient = jax.grad(lambda start: solver(affine, start)[0].sum())(jnp.ones(3))
        np.testing.assert_array_equal(gradient, 0.0)

    @over_every
    def test_report_has_no_derivative(self, solver):
        def residual(p):
            return solver(lambda x: bent(x, p), jnp.zeros(3))[1].residual

        np.testing.assert_array_equal(jax.grad(residual)(jnp.asarray(self.P)), 0.0)

    def test_vmapped(self):
        ps = jnp.stack([jnp.asarray(self.P), jnp.asarray(self.P) * -0.5])

        def total(p):
            return fixed_point()(lambda x: bent(x, p), jnp.zeros(3))[0].sum()

        together = jax.jit(jax.vmap(jax.grad(total)))(ps)
        np.testing.assert_allclose(together[0], self.exact().sum(axis=0), rtol=1e-9)
        np.testing.assert_allclose(together[1], jax.grad(total)(ps[1]), rtol=1e-11)

    def test_float32(self):
        def total(p):
            return fixed_point()(lambda x: bent(x, p), jnp.zeros(3, jnp.float32))[0].sum()

        gradient = jax.grad(total)(jnp.asarray(self.P, jnp.float32))
        assert gradient.dtype == jnp.float32
        np.testing.assert_allclose(gradient, self.exact().sum(axis=0), rtol=1e-5)

    def test_memory(self):
        """That of the implicit gradient does not depend on how many iterations there were; unrolled it does."""
        dim = 500

        def memory(solver):
            def total(p):
                return solver(lambda x: 0.5 * jnp.cos(x) + p, jnp.zeros(dim))[0].sum()

            compiled = jax.jit(jax.grad(total)).lower(jnp.zeros(dim)).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        few, many = (
            memory(fixed_point(1e-2, max_iterations=5)),
            memory(fixed_point(1e-12, max_iterations=500)),
        )
        assert few == many
        vector = 8 * dim
        unrolled = [memory(fixed_point(num_iterations=count, differentiate="unrolled")) for count in (5, 50)]
        assert unrolled[1] - unrolled[0] > 40 * vector
        assert many < 20 * vector


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


def kick(strength):
    """v = b + s v², a momentum's equation in one dimension: real solutions for 4 s b < 1, of which the one near b is
    met by x ← g(x) where |g'| = 1 - √(1 - 4 s b) < 1."""
    return lambda v: 1.0 + strength * v * v


def turning(x):
    """Rotated and stretched: (1/5, 3/5) is its fixed point, and x ← g(x) runs away from it in a spiral."""
    return jnp.array([[0.0, -2.0], [2.0, 0.0]], x.dtype) @ x + jnp.array([1.4, 0.2], x.dtype)


class TestSwitching:
    def test_where_the_iteration_contracts_it_is_the_iteration(self):
        for g in (affine, partial(bent, p=jnp.array([0.3, -0.4, 0.2]))):
            came, expected = (solver(g, jnp.zeros(3)) for solver in (switching(), fixed_point()))
            jax.tree.map(np.testing.assert_array_equal, came, expected)

    def test_where_it_does_not_contract_it_is_newton(self):
        cases = [
            (turning, [0.2, 0.6]),
            (lambda x: 3 * x - 2, [1.0, 1.0]),
            (lambda x: 1.01 * x - 0.01, [1, 1]),
        ]
        for g, expected in cases:
            x, info = jax.jit(lambda x, g=g: switching()(g, x))(jnp.zeros(2))
            assert info.converged
            assert info.num_iterations < 12
            np.testing.assert_allclose(x, expected, rtol=1e-9)
            assert not fixed_point()(g, jnp.zeros(2))[1].converged or expected == [1, 1]

    def test_a_slow_contraction_is_cut_short(self):
        def rotating(x):  # depth one of mixing does not help a rotation
            turn = 0.95 * jnp.array([[0.0, -1.0], [1.0, 0.0]])
            return turn @ x + jnp.ones(2)

        _, slow = fixed_point(max_iterations=1000)(rotating, jnp.zeros(2))
        x, info = switching()(rotating, jnp.zeros(2))
        assert slow.num_iterations > 100
        assert info.converged
        assert info.num_iterations < 20
        np.testing.assert_allclose(rotating(x), x, rtol=1e-12)

    def test_where_there_is_no_solution(self):
        x, info = switching()(kick(0.3), jnp.ones(1))
        assert not info.converged
        x, info = switching()(kick(0.249), jnp.ones(1))  # g' = 0.94 at the solution
        assert info.converged
        np.testing.assert_allclose(x, kick(0.249)(x), rtol=1e-9)

    def test_the_newton_loop_is_not_entered_by_a_batch_that_contracts(self):
        """Evaluations of g, by a callback that counts them: as many as those of `fixed_point`."""

        def count(solver, rates):
            calls = []

            def one(rate):
                def g(x):
                    jax.debug.callback(lambda: calls.append(1))
                    return rate * turning(x)

                return solver(g, jnp.zeros(2))

            jax.block_until_ready(jax.jit(jax.vmap(one))(rates))
            jax.effects_barrier()
            return len(calls)

        rates = jnp.array([0.1, 0.05, -0.2])
        assert count(switching(), rates) == count(fixed_point(), rates)
        assert count(switching(), rates.at[1].set(1.0)) > count(fixed_point(), rates)

    @pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
    def test_derivative_where_the_iteration_expands(self, mode):
        """x = M x + p: dx/dp = (I - M)⁻¹, in a batch with a lane that contracts."""
        M = jnp.array([[0.0, -2.0], [2.0, 0.0]])

        def total(p, size):
            return switching()(lambda x: size * (M @ x) + p, jnp.zeros(2))[0] @ jnp.array([1.0, 3.0])

        sizes = jnp.array([1.0, 0.1])
        came = jax.jit(jax.vmap(mode(total), (None, 0)))(jnp.ones(2), sizes)
        for row, size in zip(came, sizes, strict=True):
            expected = np.linalg.solve((np.eye(2) - size * M).T, [1.0, 3.0])
            np.testing.assert_allclose(row, expected, rtol=1e-8)

    @pytest.mark.parametrize("name", ["max_iterations", "max_newton_iterations"])
    def test_bad_counts(self, name):
        for value in (0, -1, True):
            with pytest.raises(ValueError, match=name):
                switching(**{name: value})


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


def test_nothing_of_newtons_method_is_computed_outside_its_loop():
    """XLA moves what does not change in a loop in front of it, so also where the loop is not entered: here M times the
    unit vectors. Of the compiled program both loops stand in the entry, and no product does."""

    def solve(M, start):
        return solvers.switching()(lambda x: jnp.tanh(M @ x) + 0.1, start)[0]

    M = jax.random.normal(jax.random.key(0), (6, 6)) / 10
    text = jax.jit(jax.vmap(solve, (None, 0))).lower(M, jnp.ones((5, 6))).compile().as_text()
    entry = text[text.index("ENTRY") :]
    assert entry.count(" while(") == 2
    assert entry.count(" dot(") == 0
