"""Integrators for metrics that depend on the position, by property: the implicit ones over a table of problems, the
explicit one on those whose metric is hierarchical.

Order, return, energy: what one cannot see the others do. The finite differences of H and the order catch a metric that
is frozen in the solve.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, solvers
from tests.support.flows import stack
from tests.support.problems import (
    ALL_INTEGRATORS,
    ALL_PROBLEMS,
    SHARP,
    energy,
    over_cases,
    over_integrators,
    over_problems,
    start_of,
)


@cache
def program(problem, kind, is_sharp=True):
    """(z, v, ε, L) -> (end state, info), jitted; one compilation serves all ε and L."""
    target, metric, _ = ALL_PROBLEMS[problem]
    solver = SHARP if is_sharp else solvers.DEFAULT
    step = ALL_INTEGRATORS[kind](target.logdensity_fn, metric, solver)

    @jax.jit
    def run(z, v, epsilon, num_steps):
        state = integrators.init(target.logdensity_fn, metric, z, v)
        return integrators.integrate(step, state, epsilon, num_steps)

    return lambda z, v, epsilon, num_steps: run(z, v, jnp.asarray(epsilon, z.dtype), jnp.asarray(num_steps))


# --- Accuracy


@over_cases
def test_order_two_and_right_limit(problem, kind):
    """Errors against Hamilton's equations fall by four when ε is halved. The reference is an independent RK4."""
    run, time = program(problem, kind), 4 * ALL_PROBLEMS[problem][2]
    z, v = start_of(problem)
    reference = runge_kutta(problem, z, v, time)
    counts = np.array([8, 16, 32])
    errors = [np.linalg.norm(stack(run(z, v, time / n, n)[0]) - reference) for n in counts]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[0] < 0.05
    assert errors[0] > 1e-6
    assert 1.9 < slopes[-1] < 2.1, slopes


@cache
def _runge_kutta(problem):
    hamiltonian = energy(problem)

    @jax.jit
    def run(x, h, num_steps):
        d = x.shape[0] // 2

        def field(x):
            by_z, by_v = jax.grad(hamiltonian, (0, 1))(x[:d], x[d:])
            return jnp.concatenate([by_v, -by_z])

        def body(_, x):
            k1 = field(x)
            k2 = field(x + h / 2 * k1)
            k3 = field(x + h / 2 * k2)
            return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(x + h * k3))

        return jax.lax.fori_loop(0, num_steps, body, x)

    return run


def runge_kutta(problem, z, v, time, num_steps=200):
    """Hamilton's equations by the classical scheme; the field is `jax.grad` of H, none of the identities."""
    return np.asarray(_runge_kutta(problem)(jnp.concatenate([z, v]), time / num_steps, num_steps))


@over_problems
def test_equations_of_the_generalized_leapfrog(problem):
    """One step satisfies the three equations of the scheme, with ∂H by `jax.grad`: v½ is recovered from the last."""
    hamiltonian, epsilon = energy(problem), ALL_PROBLEMS[problem][2]
    z, v = start_of(problem)
    end, _ = program(problem, "generalized")(z, v, epsilon, 1)
    by_z, by_v = (jax.jit(jax.grad(hamiltonian, i)) for i in (0, 1))
    half = v
    for _ in range(100):
        half = v - epsilon / 2 * by_z(z, half)
    moved = z + epsilon / 2 * (by_v(z, half) + by_v(end.position, half))
    np.testing.assert_allclose(end.position, moved, rtol=1e-11, atol=1e-11)
    last = half - epsilon / 2 * by_z(end.position, half)
    np.testing.assert_allclose(end.momentum, last, rtol=1e-11, atol=1e-11)


@over_problems
def test_equations_of_the_midpoint_rule(problem):
    hamiltonian, epsilon = energy(problem), ALL_PROBLEMS[problem][2]
    z, v = start_of(problem)
    end, _ = program(problem, "midpoint")(z, v, epsilon, 1)
    middle = (z + end.position) / 2, (v + end.momentum) / 2
    by_z, by_v = jax.jit(jax.grad(hamiltonian, (0, 1)))(*middle)
    np.testing.assert_allclose(end.position, z + epsilon * by_v, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(end.momentum, v - epsilon * by_z, rtol=1e-11, atol=1e-11)


# --- Structure


@over_cases
def test_reversible(problem, kind):
    """Back by a negative step, and by a flipped momentum, over one step and over ten."""
    run, epsilon = program(problem, kind), ALL_PROBLEMS[problem][2]
    z, v = start_of(problem)
    for n in (1, 10):
        end, info = run(z, v, epsilon, n)
        assert np.linalg.norm(stack(end) - stack((z, v))) > 0.02 * n
        assert info.residual < 1e-12
        back, _ = run(end.position, end.momentum, -epsilon, n)
        np.testing.assert_allclose(stack(back), stack((z, v)), atol=1e-9)
        flipped, _ = run(end.position, -end.momentum, epsilon, n)
        np.testing.assert_allclose(flipped.position, z, atol=1e-9)
        np.testing.assert_allclose(flipped.momentum, -v, atol=1e-9)


@cache
def jacobian(problem, kind, num_steps):
    target, metric, _ = ALL_PROBLEMS[problem]
    step, d = ALL_INTEGRATORS[kind](target.logdensity_fn, metric, SHARP), target.dim

    @jax.jit
    def compute(x, epsilon):
        def flow(x):
            state = integrators.init(target.logdensity_fn, metric, x[:d], x[d:])
            end, _ = integrators.integrate(step, state, epsilon, num_steps)
            return jnp.concatenate([end.position, end.momentum])

        return jax.jacfwd(flow)(x)

    return compute


@over_cases
def test_volume_preserving_and_symplectic(problem, kind):
    """|det J| = 1 and JᵀΩJ = Ω, for the map itself: a Jacobian through the solves."""
    epsilon, d = ALL_PROBLEMS[problem][2], ALL_PROBLEMS[problem][0].dim
    x = jnp.concatenate(start_of(problem))
    J = np.asarray(jacobian(problem, kind, 1)(x, epsilon))
    assert abs(np.linalg.slogdet(J)[1]) < 1e-9
    omega = np.block([[np.zeros((d, d)), np.eye(d)], [-np.eye(d), np.zeros((d, d))]])
    np.testing.assert_allclose(J.T @ omega @ J, omega, atol=1e-8)
    assert np.linalg.norm(J - np.eye(2 * d)) > 0.05


@over_cases
def test_jacobian_is_that_of_the_map(problem, kind):
    """So that the determinant above is of what is computed: finite differences of the step."""
    epsilon, d, h = ALL_PROBLEMS[problem][2], ALL_PROBLEMS[problem][0].dim, 1e-5
    x, run = jnp.concatenate(start_of(problem)), program(problem, kind)
    J = jacobian(problem, kind, 1)(x, epsilon)
    for i, e in enumerate(np.eye(2 * d)):
        ends = [stack(run(*jnp.split(x + s * h * e, 2), epsilon, 1)[0]) for s in (1, -1)]
        np.testing.assert_allclose(J[:, i], (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-7)


@over_cases
def test_energy_error_is_of_order_two(problem, kind):
    """H along a trajectory: small, and a quarter of it at half the step."""
    run, hamiltonian, epsilon = program(problem, kind), energy(problem), ALL_PROBLEMS[problem][2]
    z, v = start_of(problem)
    worst = []
    for factor in (1, 2, 4):
        energies = []
        for k in range(1, 7):
            end, _ = run(z, v, epsilon / factor, k * factor)
            energies.append(float(hamiltonian(end.position, end.momentum)))
        worst.append(np.max(np.abs(np.array(energies) - float(hamiltonian(z, v)))))
    assert worst[0] < 0.1
    assert 2.5 < worst[1] / worst[2] < 6, worst


# --- What is carried, and how it is counted and solved for


@over_cases
def test_carried_state_is_fresh(problem, kind):
    """Density, gradient and geometry at the end are those of the end, not of a step before it."""
    target, metric, epsilon = ALL_PROBLEMS[problem]
    z, v = start_of(problem)
    end, _ = program(problem, kind)(z, v, epsilon, 5)
    fresh = jax.jit(partial(integrators.init, target.logdensity_fn, metric))(end.position, end.momentum)
    for came, expected in zip(jax.tree.leaves(end), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(came, expected, rtol=1e-8, atol=1e-9)
    assert jax.tree.structure(end) == jax.tree.structure(fresh)


@pytest.mark.parametrize("problem", ["banana-fisher", "skewed-diagonal"])
@over_integrators
def test_traced_count_is_static_count_is_single_steps(problem, kind):
    target, metric, epsilon = ALL_PROBLEMS[problem]
    z, v = start_of(problem)
    traced, traced_info = program(problem, kind)(z, v, epsilon, 4)
    step = ALL_INTEGRATORS[kind](target.logdensity_fn, metric, SHARP)

    @jax.jit
    def static(z, v):
        state = integrators.init(target.logdensity_fn, metric, z, v)
        return integrators.integrate(step, state, epsilon, 4)

    end, info = static(z, v)
    np.testing.assert_allclose(stack(end), stack(traced), rtol=1e-11)
    # The last corrections are of the size of rounding: a solve more or less.
    assert abs(int(info.num_iterations) - int(traced_info.num_iterations)) <= 4
    state = z, v
    for _ in range(4):
        single, _ = program(problem, kind)(*state, epsilon, 1)
        state = single.position, single.momentum
    np.testing.assert_allclose(stack(single), stack(end), rtol=1e-10, atol=1e-11)
    none, info = program(problem, kind)(z, v, epsilon, 0)
    np.testing.assert_array_equal(stack(none), stack((z, v)))
    assert info.num_iterations == 0


@over_integrators
def test_iterations_matter(kind):
    """A metric frozen in the "implicit" solve gives the same bits whatever the count (pythae); here it does not."""
    target, metric, epsilon = ALL_PROBLEMS["banana-fisher"]
    z, v = start_of("banana-fisher")
    ends = []
    for count in (1, 2, 30, 60):
        step = ALL_INTEGRATORS[kind](target.logdensity_fn, metric, solvers.fixed_point(num_iterations=count))
        state, info = jax.jit(step)(integrators.init(target.logdensity_fn, metric, z, v), epsilon)
        assert info.num_iterations == count * (2 if kind == "generalized" else 1)
        assert bool(info.converged) == (count > 2)
        ends.append(stack(state))
    assert np.abs(ends[0] - ends[1]).max() > 1e-4
    np.testing.assert_allclose(ends[2], ends[3], rtol=1e-12)
    np.testing.assert_allclose(
        ends[3], stack(program("banana-fisher", kind)(z, v, epsilon, 1)[0]), rtol=1e-11
    )


@over_integrators
def test_newton_solver(kind):
    target, metric, epsilon = ALL_PROBLEMS["banana-fisher"]
    z, v = start_of("banana-fisher")
    step = ALL_INTEGRATORS[kind](target.logdensity_fn, metric, solvers.newton())
    state, info = jax.jit(step)(integrators.init(target.logdensity_fn, metric, z, v), epsilon)
    assert info.converged
    assert info.num_iterations < 12
    np.testing.assert_allclose(
        stack(state), stack(program("banana-fisher", kind)(z, v, epsilon, 1)[0]), rtol=1e-10
    )


# --- Failure and rounding


@over_cases
def test_absurd_steps_are_flagged(problem, kind):
    """Not converged, or an energy that rejects, or else a true solution: one that can be retraced. In float32, with
    the solver as it comes, from several momenta, so that none slips through."""
    run, hamiltonian = program(problem, kind, is_sharp=False), energy(problem)
    z, v = start_of(problem, "float32")
    for epsilon in (30.0, 1e12):
        for scale in (1.0, -2.5):
            start = z, scale * v
            end, info = run(*start, epsilon, 3)
            change = float(hamiltonian(end.position, end.momentum) - hamiltonian(*start))
            if not bool(info.converged) or not np.isfinite(change) or change > 15:
                continue
            back, back_info = run(end.position, end.momentum, -epsilon, 3)
            assert back_info.converged, (epsilon, scale, change)
            np.testing.assert_allclose(stack(back), stack(start), atol=1e-2)


@over_cases
def test_float32(problem, kind):
    """It stays in float32, converges, ends where float64 does, and comes back, to what rounding leaves."""
    run, epsilon = program(problem, kind, is_sharp=False), ALL_PROBLEMS[problem][2]
    z, v = start_of(problem, "float32")
    end, info = run(z, v, epsilon, 8)
    assert end.position.dtype == end.momentum.dtype == info.residual.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(end)} == {jnp.dtype("float32")}
    assert info.converged
    solves = 8 * (2 if kind == "generalized" else 1)
    assert info.num_iterations < 15 * solves
    exact, _ = program(problem, kind)(z.astype(float), v.astype(float), epsilon, 8)
    np.testing.assert_allclose(stack(end), stack(exact), rtol=2e-4, atol=2e-4)
    back, _ = run(end.position, end.momentum, -epsilon, 8)
    np.testing.assert_allclose(stack(back), stack((z, v)), rtol=3e-4, atol=3e-4)
