"""Derivatives of what the solvers find: implicit, unrolled, exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae.solvers import fixed_point, newton
from tests.support.equations import EVERY, LINEAR, A, B, affine, bent, bent_solution, over_every, over_loops


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
