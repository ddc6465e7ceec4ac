"""The explicit leapfrog of hierarchical metrics: the generalized one in closed form, hyperbolic geodesics, its cost.

Order, elapsed time, return, volume, energy, dtypes: in the tables of `test_implicit` and `test_constant_metric`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics
from hmcvae.integrators import generalized_leapfrog, hierarchical_leapfrog, leapfrog
from tests.support.flows import stack
from tests.support.problems import HIERARCHICAL, SHARP, SKEWED, start_of


def flow(step, logdensity_fn, metric):
    @partial(jax.jit, static_argnums=3)
    def run(z, v, epsilon, num_steps):
        state = integrators.init(logdensity_fn, metric, z, v)
        return integrators.integrate(step, state, epsilon, num_steps)[0]

    return run


@pytest.mark.parametrize("problem", HIERARCHICAL)
def test_is_the_generalized_leapfrog_in_closed_form(problem):
    """Its implicit equations are triangular here: the same ends to the last digits, not in the limit alone, of metric
    code that shares nothing but the mass functions."""
    target, metric, _ = HIERARCHICAL[problem]
    as_tensor = metrics.from_tensor(metric.masses)
    explicit = flow(hierarchical_leapfrog(target.logdensity_fn, metric), target.logdensity_fn, metric)
    implicit = flow(
        generalized_leapfrog(target.logdensity_fn, as_tensor, SHARP), target.logdensity_fn, as_tensor
    )
    for epsilon in (0.3, -0.3, 0.05):
        a, b = (run(*start_of(problem), epsilon, 6) for run in (explicit, implicit))
        for came, expected in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(came, expected, rtol=1e-10, atol=1e-11)


def test_constant_masses_are_leapfrog():
    metric = metrics.hierarchical([[2], [0], [1]], [lambda a: 2.0, lambda a, b: jnp.array([0.5])], 3.0)
    plain = metrics.diagonal(jnp.array([2.0, 0.5, 3.0]))
    z, v = jnp.asarray(SKEWED.typical), jnp.array([1.0, -0.4, 0.7])
    density = SKEWED.logdensity_fn
    a = flow(hierarchical_leapfrog(density, metric), density, metric)(z, v, 0.2, 5)
    b = flow(leapfrog(density, plain), density, plain)(z, v, 0.2, 5)
    np.testing.assert_allclose(stack(a), stack(b), rtol=1e-12)


def test_geodesics_of_the_hyperbolic_plane():
    """ds² = dz₁² + exp(-2 z₁) dz₂² is the half plane of x = z₂, y = exp z₁, whose geodesics are half circles:
    x = r tanh(c t), y = r / cosh(c t), c the speed. log p = -z₁ cancels ½ log |G|."""
    metric = metrics.hierarchical([0, 1], lambda z1: jnp.exp(-2 * z1))
    radius, speed, time = 1.5, 0.8, 1.7
    run = flow(hierarchical_leapfrog(lambda z: -z[0], metric), lambda z: -z[0], metric)
    z, v = jnp.array([np.log(radius), 0.0]), jnp.array([0.0, speed / radius])
    exact = np.array(
        [
            np.log(radius / np.cosh(speed * time)),
            radius * np.tanh(speed * time),
            -speed * np.tanh(speed * time),
            speed / radius,
        ]
    )
    errors = np.array([np.abs(stack(run(z, v, time / n, n)) - exact).max() for n in (50, 100)])
    assert errors[1] < 2e-4
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 2, atol=0.05)


def test_vector_step_sizes():
    """Steps ε = diag(s) are unit steps on the density of y = z / s, whose masses are those at s y; and reversible."""
    target, metric, _ = HIERARCHICAL["skewed-nested"]
    z, v = start_of("skewed-nested")
    s = jnp.array([0.3, 0.05, 0.15])
    run = flow(hierarchical_leapfrog(target.logdensity_fn, metric), target.logdensity_fn, metric)
    end = run(z, v, s, 4)
    np.testing.assert_allclose(stack(run(end.position, end.momentum, -s, 4)), stack((z, v)), rtol=1e-10)

    def density(y):
        return target.logdensity_fn(s * y)

    second, third = metric.mass_fns
    scaled = metrics.hierarchical(
        metric.blocks, [lambda a: second(s[2] * a), lambda a, b: third(s[2] * a, s[0] * b)]
    )
    other = flow(hierarchical_leapfrog(density, scaled), density, scaled)(z / s, v, 1.0, 4)
    np.testing.assert_allclose(stack(end), stack((s * other.position, other.momentum)), rtol=1e-10)


def test_a_step_costs_one_gradient_and_one_mass():
    """Counted by primitives that stand in nothing else: tan in the density, erf in the mass."""
    metric = metrics.hierarchical([0, 1], lambda z1: 2 + jax.lax.erf(z1))
    step = hierarchical_leapfrog(lambda z: jnp.sum(jnp.tan(z)), metric)
    state = integrators.init(lambda z: -jnp.sum(z**2), metric, jnp.ones(2), jnp.ones(2))
    carry = step.begin(state, 0.1)
    program = str(jax.make_jaxpr(lambda carry: step.advance(carry, 0.1))(carry))
    assert program.count(" tan ") == 1
    assert program.count(" erf ") == 1


def test_gradient_through_a_trajectory():
    """In the start, the step size and the masses."""
    target, _, _ = HIERARCHICAL["funnel-hierarchical"]

    @jax.jit
    def total(x):
        metric = metrics.hierarchical([0, 1, 1], metrics.LogLinear(x[7:9], x[9:11, None]), x[11])
        state = integrators.init(target.logdensity_fn, metric, x[:3], x[3:6])
        step = hierarchical_leapfrog(target.logdensity_fn, metric)
        end, _ = integrators.integrate(step, state, x[6], 5, checkpoint=True)
        return jnp.sum(end.momentum**2) + end.position[0] - end.position[1] + end.logdensity

    x = jnp.array([0.4, -0.3, 0.8, -0.5, 0.6, 0.2, 0.1, 0.1, -0.2, -0.9, -0.8, 1.3])
    h = 1e-4
    expected = [(total(x + h * e) - total(x - h * e)) / (2 * h) for e in np.eye(12)]
    gradient = jax.jit(jax.grad(total))(x)
    assert np.abs(gradient).min() > 1e-4
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_other_metrics_are_refused():
    for metric in (metrics.identity(), metrics.from_tensor(jnp.exp)):
        with pytest.raises(ValueError, match=f"metrics.hierarchical, got {type(metric).__name__}"):
            hierarchical_leapfrog(SKEWED.logdensity_fn, metric)
    metric = metrics.hierarchical([0, 1], jnp.exp)
    with pytest.raises(ValueError, match="leapfrog needs a Euclidean metric, got Hierarchical"):
        leapfrog(SKEWED.logdensity_fn, metric)
    assert not hierarchical_leapfrog(SKEWED.logdensity_fn, metric).is_implicit
