"""Steps taken back, and solves that fail: what is flagged, and what passes from both ends."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics, solvers
from hmcvae.integrators import generalized_leapfrog, implicit_midpoint
from tests.support.flows import stack
from tests.support.problems import INTEGRATORS, PROBLEMS, over_integrators, over_problems, start_of

# --- The way back


def as_a_whole(make):
    """The integrator, without its own way of taking steps back: the trajectory is then integrated back."""
    return lambda *arguments: replace(make(*arguments), retraced=None)


@over_integrators
@pytest.mark.parametrize("solver", [solvers.fixed_point(), solvers.DEFAULT], ids=["plain", "switching"])
def test_steps_taken_back_are_the_trajectory_back(kind, solver):
    """At steps so long that a good part of the solves fails: what can and what cannot be retraced is told alike by
    taking each step back as it is made, and by the trajectory back, over 600 starts and 1 to 4 steps."""
    weight = 25.0

    def logdensity(z):
        return -0.5 * weight * (1.0 - z[0] - z[1] ** 2) ** 2 - 0.125 * jnp.sum(z**2)

    metric = metrics.fisher(lambda z: (z[0] + z[1] ** 2)[None], lambda f: jnp.full_like(f, weight), 0.25)
    second = 1.2 * jax.random.normal(jax.random.key(1), (600,))
    positions = jnp.stack([1.0 - second**2, second], axis=1)
    counts = jnp.arange(600) % 4 + 1

    def retrace(make):
        step = make(logdensity, metric, solver)

        def one(key, z, count):
            state = integrators.init(logdensity, metric, z, metric.sample_momentum(key, z))
            return integrators.integrate_retraced(step, metric, state, 0.15, count)

        return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 600), positions, counts)

    end, info, by_steps = retrace(INTEGRATORS[kind])
    other, other_info, whole = retrace(as_a_whole(INTEGRATORS[kind]))
    # Two programs, which XLA rounds differently; what a failed solve leaves is anything.
    assert np.mean(info.converged != other_info.converged) <= 0.005
    good = np.asarray(info.converged & other_info.converged)
    for leaf, other_leaf in zip(jax.tree.leaves(end), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(leaf[good], other_leaf[good], rtol=1e-5, atol=1e-5)
    passes = [np.asarray(r.converged & (r.excess <= 1e-8))[good] for r in (by_steps, whole)]
    if kind == "generalized":
        assert 0.01 < 1 - passes[1].mean() < 0.5
    assert np.mean(passes[0] != passes[1]) <= 0.005
    if isinstance(
        solver, solvers.FixedPoint
    ):  # with Newton's method few fail, and the way back may find them
        assert not by_steps.converged[~np.asarray(info.converged)].all()
    both = passes[0] & passes[1]
    assert by_steps.error[good][both].max() < 1e-8
    assert by_steps.error[good][both].max() > 0


@over_problems
@over_integrators
def test_taken_back_step_by_step(problem, kind):
    """The end and the report are those of `integrate`; the way back meets the start to the solver's tolerance, for no
    step, one and several, with the count known and not known."""
    target, metric, epsilon = PROBLEMS[problem]
    z, v = start_of(problem)
    step = INTEGRATORS[kind](target.logdensity_fn, metric)
    state = integrators.init(target.logdensity_fn, metric, z, v)
    end, info = jax.jit(lambda n: integrators.integrate(step, state, epsilon, n))(3)
    # How the steps are counted is another loop, but the same one for every problem.
    for count in (3, jnp.asarray(3)) if problem == "skewed-diagonal" else (3,):
        came, report, retrace = jax.jit(
            lambda s: integrators.integrate_retraced(step, metric, s, epsilon, count)  # noqa: B023
        )(state)
        np.testing.assert_allclose(stack(came), stack(end), rtol=1e-12)
        assert report.num_iterations == info.num_iterations
        assert retrace.converged
        assert 0 < retrace.error < 1e-10
        assert retrace.excess < retrace.error
    _, _, none = integrators.integrate_retraced(step, metric, state, epsilon, 0)
    assert none.converged
    assert none.error == 0


# --- Solves that fail


@over_integrators
def test_outside_the_metric_is_flagged(kind):
    """Where G stops being positive definite the solve fails, and does not go on with numbers."""

    def logdensity(z):
        return -0.5 * jnp.sum(z**2)

    metric = metrics.from_tensor(lambda z: 1 - z**2)
    step = INTEGRATORS[kind](logdensity, metric)
    state = integrators.init(logdensity, metric, jnp.full(2, 0.9), jnp.full(2, 3.0))
    end, info = jax.jit(lambda s: integrators.integrate(step, s, 0.5, 4))(state)
    assert not info.converged
    assert not np.isfinite(metric.kinetic_energy(end.momentum, end.position))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_solve_at_the_cap_on_logistic_regression(dtype):
    """A thousand starts at the step size of the paper's experiments: every solve converges, in few iterations."""
    target, metric, _ = PROBLEMS["logistic-fisher"]
    step = generalized_leapfrog(target.logdensity_fn, metric)
    z, _ = start_of("logistic-fisher", dtype)

    def one(rng_key):
        v = metric.sample_momentum(rng_key, z)
        return step(integrators.init(target.logdensity_fn, metric, z, v), 0.5)[1]

    info = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 1000))
    assert info.converged.all()
    assert np.quantile(info.num_iterations, 0.99) < (30 if dtype == "float32" else 60)


# --- What the check of the way back promises


def test_a_way_that_passes_passes_from_its_other_end_too():
    """However loose the solver: each step's kick is solved to the solver's tolerance, and the way back must come to the
    momentum that it set out with to that of the check. Without that, a tenth of these pass one way alone."""
    metric = metrics.from_tensor(lambda z: (1 + jax.nn.sigmoid(4 * z))[:, None])
    step = generalized_leapfrog(lambda z: -0.5 * jnp.sum(z**2), metric, solvers.switching(1e-2))

    def passes(state, step_size):
        end, info, back = integrators.integrate_retraced(step, metric, state, step_size, 1)
        near = back.excess <= jnp.finfo(state.position.dtype).eps ** 0.5
        return end, info.converged & back.converged & near

    def both_ways(position, noise):
        momentum = metric.factor(position).sqrt_matvec(noise)
        density = -0.5 * jnp.sum(position**2), -position
        state = integrators.IntegratorState(position, momentum, *density, metric.carry(position))
        end, forth = passes(state, 0.5)
        return forth, passes(end, -0.5)[1]

    positions = jnp.linspace(-0.75, 0.75, 2000, dtype=jnp.float32)[:, None]
    noise = jax.random.normal(jax.random.key(0), positions.shape, positions.dtype)
    forth, back = jax.jit(jax.vmap(both_ways))(positions, noise)
    assert jnp.mean(forth) > 0.5
    assert jnp.mean(forth & ~back) < 0.04  # what lies on the edge of the check's own tolerance


def test_the_midpoint_rules_check_is_in_units_of_the_momentum_that_came():
    """The explicit guess, which may be anywhere, does not tell what is a small distance."""

    def tensor(z):
        return (1 + jax.nn.sigmoid(4 * z))[:, None]

    metric, epsilon = metrics.from_tensor(tensor), 0.5
    step = implicit_midpoint(lambda z: -50.0 * jnp.sum(z**2), metric, solvers.newton(1e-2, 2))
    position, momentum = jnp.array([4.0]), jnp.array([0.3])
    state = integrators.init(lambda z: -50.0 * jnp.sum(z**2), metric, position, momentum)
    end, _, back = integrators.integrate_retraced(step, metric, state, epsilon, 1)
    came, _ = step(end, -epsilon)
    G = tensor(end.position)[0]
    speed = jnp.sqrt(1 + end.momentum**2 / G)
    by_position = jnp.abs(came.position - position) * jnp.sqrt(G)
    by_momentum = jnp.abs(came.momentum - momentum) / jnp.sqrt(G)
    assert back.error > 1e-6
    np.testing.assert_allclose(
        back.error, float((jnp.maximum(by_position, by_momentum) / speed)[0]), rtol=1e-3
    )
