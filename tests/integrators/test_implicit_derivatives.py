"""The force and the energy of the implicit integrators, and derivatives through their trajectories."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics, solvers
from hmcvae.integrators import generalized_leapfrog
from tests.support.problems import (
    INTEGRATORS,
    PROBLEMS,
    SHARP,
    energy,
    over_integrators,
    over_problems,
    start_of,
)

# --- Force and energy


@over_problems
def test_force_is_the_derivative_of_the_energy(problem):
    """-∂_z H put together as the integrator does, against finite differences of H."""
    target, metric, _ = PROBLEMS[problem]
    z, v = start_of(problem)

    @jax.jit
    def force(z, v):
        geometry, pull = metric.geometry(z)
        gradient = jax.grad(target.logdensity_fn)(z)
        return gradient - 0.5 * geometry.log_det_grad + 0.5 * pull(geometry.factor.solve(v))

    hamiltonian, h = energy(problem), 1e-4
    expected = [(hamiltonian(z - h * e, v) - hamiltonian(z + h * e, v)) / (2 * h) for e in np.eye(target.dim)]
    np.testing.assert_allclose(force(z, v), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["banana-fisher", "logistic-fisher", "skewed-diagonal"])
@over_integrators
def test_energy_is_bounded_for_long(problem, kind):
    """No drift in 10,000 steps: the last thousand err by no more than twice the first."""
    target, metric, epsilon = PROBLEMS[problem]
    hamiltonian, step = energy(problem), INTEGRATORS[kind](target.logdensity_fn, metric)
    z, v = start_of(problem)

    @jax.jit
    def run(z, v):
        def body(state, _):
            state, info = step(state, epsilon)
            return state, (hamiltonian(state.position, state.momentum), info.converged)

        state = integrators.init(target.logdensity_fn, metric, z, v)
        return jax.lax.scan(body, state, None, length=10_000)[1]

    energies, converged = run(z, v)
    error = np.abs(np.asarray(energies) - float(hamiltonian(z, v)))
    assert converged.all()
    assert error[:1000].max() < 0.2
    assert error[-1000:].max() < 2 * error[:1000].max()


# --- Derivatives through a trajectory


def tilted(p):
    """A log density and a metric, both with the parameter p inside."""

    def logdensity(z):
        return jnp.sum(z - jnp.exp(z)) - 0.5 * p * z[0] ** 2

    def tensor(z):
        root = jnp.diag(1 + 0.3 * z**2) + p * 0.2 * jnp.outer(jnp.sin(z), jnp.ones(2))
        return root @ root.T + p * jnp.eye(2)

    return logdensity, metrics.from_tensor(tensor)


DERIVATIVE_START = jnp.array([0.4, -0.3, 0.8, -0.5, 0.15, 0.6])  # z, v, ε, p


def scalar_of_the_end(solver, make, checkpoint=False):
    def total(x):
        logdensity, metric = tilted(x[5])
        step = make(logdensity, metric, solver)
        state = integrators.init(logdensity, metric, x[:2], x[2:4])
        end, _ = integrators.integrate(step, state, x[4], 10, checkpoint=checkpoint)
        return jnp.dot(end.position, jnp.array([1.0, -0.5])) + jnp.sum(end.momentum**2) + end.logdensity

    return total


@cache
def gradient_by_differences(kind):
    total = jax.jit(scalar_of_the_end(SHARP, INTEGRATORS[kind]))
    h, rows = 1e-3, []
    for e in np.eye(6):
        one, two = (total(DERIVATIVE_START + k * h * e) - total(DERIVATIVE_START - k * h * e) for k in (1, 2))
        rows.append((8 * one - two) / (12 * h))
    return np.array(rows)


@over_integrators
@pytest.mark.parametrize(
    "solver",
    [
        solvers.fixed_point(),
        solvers.fixed_point(num_iterations=40, differentiate="unrolled"),
        solvers.newton(),
    ],
    ids=["implicit", "unrolled", "newton"],
)
def test_gradient_through_ten_steps(kind, solver):
    """In the start, the step size, and a parameter of both G and U."""
    gradient = jax.jit(jax.grad(scalar_of_the_end(solver, INTEGRATORS[kind])))(DERIVATIVE_START)
    assert np.abs(gradient).min() > 1e-3
    np.testing.assert_allclose(gradient, gradient_by_differences(kind), rtol=1e-6)


def test_gradient_forward_and_checkpointed():
    total = scalar_of_the_end(solvers.fixed_point(), generalized_leapfrog)
    forward = jax.jit(jax.jacfwd(total))(DERIVATIVE_START)
    np.testing.assert_allclose(forward, gradient_by_differences("generalized"), rtol=1e-6)
    kept = scalar_of_the_end(solvers.fixed_point(), generalized_leapfrog, checkpoint=True)
    np.testing.assert_allclose(jax.jit(jax.grad(kept))(DERIVATIVE_START), forward, rtol=1e-8)


@pytest.mark.parametrize("problem", ["logistic-fisher", "funnel-softabs", "skewed-monge"])
def test_gradient_in_the_start(problem):
    """Through the special paths of each metric too: second derivatives of SoftAbs, the table of Fisher."""
    target, metric, epsilon = PROBLEMS[problem]
    step = generalized_leapfrog(target.logdensity_fn, metric, SHARP)
    z, v = start_of(problem)

    def total(z):
        state = integrators.init(target.logdensity_fn, metric, z, v)
        end, _ = integrators.integrate(step, state, epsilon, 3)
        return jnp.sum(jnp.sin(end.position)) + jnp.sum(end.momentum)

    value, gradient, h = jax.jit(total), jax.jit(jax.grad(total))(z), 1e-3
    for i, e in enumerate(np.eye(target.dim)):
        one, two = (value(z + k * h * e) - value(z - k * h * e) for k in (1, 2))
        np.testing.assert_allclose(gradient[i], (8 * one - two) / (12 * h), rtol=1e-6, atol=1e-7)
