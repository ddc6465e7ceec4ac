"""The solver that goes over to Newton's method where the iteration does not contract."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import solvers
from hmcvae.solvers import fixed_point, switching
from tests.support.equations import affine, bent


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
