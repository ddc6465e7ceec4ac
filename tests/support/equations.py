"""Equations x = g(x) whose solutions are known, and the solvers that are tried on them."""

import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae.solvers import fixed_point, newton, switching

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
