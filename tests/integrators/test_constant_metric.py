"""At a metric that is constant: closed forms of the oscillator, the plain leapfrog, and the two splittings.

Elapsed time catches a step that is twice as long as it says.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics
from hmcvae.integrators import generalized_leapfrog, implicit_midpoint, leapfrog, mclachlan, yoshida
from tests.support.flows import stack
from tests.support.problems import ALL_INTEGRATORS, BANANA, PROBLEMS, SKEWED

# --- The oscillator


@cache
def oscillator(name, dim=2):
    """q'' = -q with G = I, told to the integrator as a metric that depends on the position; (q, p, ε, n) -> end."""
    is_explicit = name in ("mclachlan", "yoshida", "leapfrog")
    metric = metrics.identity() if is_explicit else metrics.from_tensor(lambda z: jnp.eye(dim, dtype=z.dtype))
    if name == "explicit":
        metric = metrics.hierarchical([1, 0], lambda z: 1.0)
    make = {**ALL_INTEGRATORS, "mclachlan": mclachlan, "yoshida": yoshida, "leapfrog": leapfrog}[name]

    def logdensity(z):
        return -0.5 * jnp.sum(z**2)

    step = make(logdensity, metric)

    @jax.jit
    def run(q, p, epsilon, num_steps):
        state = integrators.init(logdensity, metric, q, p)
        return integrators.integrate(step, state, epsilon, num_steps)

    return lambda q, p, epsilon, n: run(q, p, jnp.asarray(epsilon, q.dtype), jnp.asarray(n))


@pytest.mark.parametrize("name", ["generalized", "midpoint", "explicit", "mclachlan", "yoshida"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elapsed_time(name, dtype):
    """From (1, 0) the phase after n steps of ε is nε, up to O(ε²): a step of 2ε, or of ε/2, lands elsewhere."""
    run, one, zero = oscillator(name), jnp.ones(2, dtype), jnp.zeros(2, dtype)
    for epsilon in (0.2, 0.05):
        n = round(2.4 / epsilon)
        end, info = run(one, zero, epsilon, n)
        phase = np.arctan2(-np.asarray(end.momentum, float), np.asarray(end.position, float))
        allowed = n * epsilon**3 / 6 + epsilon**2 / 8
        np.testing.assert_allclose(phase, n * epsilon, atol=allowed + 200 * float(jnp.finfo(dtype).eps))
        assert info.converged


def test_closed_forms_on_the_oscillator():
    """Midpoint: the Cayley transform, a rotation by 2 atan(ε/2). Generalized: leapfrog's cos θ = 1 - ε²/2."""
    epsilon, n = 0.5, 7
    q, p = jnp.array([1.0, -0.4]), jnp.array([0.3, 0.8])
    angle = 2 * n * np.arctan(epsilon / 2)
    end, _ = oscillator("midpoint")(q, p, epsilon, n)
    np.testing.assert_allclose(end.position, q * np.cos(angle) + p * np.sin(angle), atol=1e-10)
    np.testing.assert_allclose(end.momentum, p * np.cos(angle) - q * np.sin(angle), atol=1e-10)
    end, _ = oscillator("generalized")(q, p, epsilon, n)
    angle, width = n * np.arccos(1 - epsilon**2 / 2), np.sqrt(1 - epsilon**2 / 4)
    np.testing.assert_allclose(end.position, q * np.cos(angle) + p * np.sin(angle) / width, atol=1e-10)
    np.testing.assert_allclose(end.momentum, p * np.cos(angle) - q * np.sin(angle) * width, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plain_leapfrog_at_a_constant_metric(dtype):
    """Told as a function, and as a Euclidean metric (which is delegated)."""
    mass = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 0.7]])
    z, v = jnp.asarray(SKEWED.typical, dtype), jnp.asarray([0.5, -0.8, 0.3], dtype)
    fixed = metrics.dense(jnp.asarray(mass, dtype))
    told = metrics.from_tensor(lambda z: jnp.asarray(mass, z.dtype))

    def end(make, metric):
        state = integrators.init(SKEWED.logdensity_fn, metric, z, v)
        step = make(SKEWED.logdensity_fn, metric)
        return jax.jit(lambda state: integrators.integrate(step, state, 0.2, 12))(state)

    plain, _ = end(leapfrog, fixed)
    delegated, info = end(generalized_leapfrog, fixed)
    np.testing.assert_array_equal(stack(delegated), stack(plain))
    assert info.num_iterations == 0
    general, info = end(generalized_leapfrog, told)
    rtol = 1e-10 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(stack(general), stack(plain), rtol=rtol, atol=rtol)
    assert info.converged
    assert info.num_iterations > 0
    euclidean, told_end = end(implicit_midpoint, fixed)[0], end(implicit_midpoint, told)[0]
    np.testing.assert_allclose(stack(euclidean), stack(told_end), rtol=rtol, atol=rtol)


# --- McLachlan and Yoshida

SPLITTINGS = {"mclachlan": (mclachlan, 2), "yoshida": (yoshida, 4)}
over_splittings = pytest.mark.parametrize("name", SPLITTINGS)
MASS = np.array([[2.0, 0.4], [0.4, 1.0]])


@cache
def splitting(name):
    metric = metrics.dense(MASS)
    step = {**SPLITTINGS, "leapfrog": (leapfrog, 2)}[name][0](BANANA.logdensity_fn, metric)

    def flow(x, epsilon, num_steps):
        state = integrators.init(BANANA.logdensity_fn, metric, x[:2], x[2:])
        end, _ = integrators.integrate(step, state, epsilon, num_steps)
        return jnp.concatenate([end.position, end.momentum])

    return flow, jax.jit(flow)


X0 = np.array([0.8, -0.4, 1.1, 0.6])


@over_splittings
def test_splitting_order(name):
    order, run = SPLITTINGS[name][1], splitting(name)[1]
    reference = np.asarray(splitting("yoshida")[1](X0, 2.0 / 4096, 4096))
    counts = [16, 32, 64]
    errors = [np.linalg.norm(run(X0, 2.0 / n, n) - reference) for n in counts]
    slope = np.log2(errors[1] / errors[2])
    assert abs(slope - order) < 0.1, slope


def test_mclachlan_beats_leapfrog_at_equal_gradients():
    """Two gradients a step: at twice the step size its energy error on the oscillator is the smaller one."""
    q, p = jnp.array([1.0, 0.3]), jnp.array([0.2, -0.5])

    def worst(name, epsilon, counts):
        ends = [oscillator(name)(q, p, epsilon, n)[0] for n in counts]
        return max(
            abs(float(jnp.sum(end.position**2 + end.momentum**2) / 2 - jnp.sum(q**2 + p**2) / 2))
            for end in ends
        )

    assert worst("mclachlan", 0.4, range(1, 20)) < 0.5 * worst("leapfrog", 0.2, range(2, 40, 2))


@over_splittings
def test_splitting_structure(name):
    """Reversible, volume preserving, symplectic."""
    flow, run = splitting(name)
    end = run(X0, 0.3, 10)
    np.testing.assert_allclose(run(end, -0.3, 10), X0, atol=1e-12)
    flip = np.array([1, 1, -1, -1])
    np.testing.assert_allclose(flip * run(flip * end, 0.3, 10), X0, atol=1e-12)
    J = np.asarray(jax.jit(jax.jacfwd(partial(flow, epsilon=0.3, num_steps=10)))(jnp.asarray(X0)))
    omega = np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])
    np.testing.assert_allclose(J.T @ omega @ J, omega, atol=1e-10)
    assert abs(np.linalg.slogdet(J)[1]) < 1e-10


@over_splittings
def test_splitting_trajectory_is_single_steps(name):
    run = splitting(name)[1]
    x = X0
    for _ in range(3):
        x = run(x, 0.2, 1)
    np.testing.assert_allclose(run(X0, 0.2, 3), x, rtol=1e-12)


@over_splittings
def test_splitting_refuses_riemannian_metrics(name):
    for problem in ("banana-fisher", "skewed-diagonal"):
        with pytest.raises(ValueError, match=f"{name} needs a Euclidean metric"):
            SPLITTINGS[name][0](BANANA.logdensity_fn, PROBLEMS[problem][1])
    with pytest.raises(ValueError, match="leapfrog needs a Euclidean metric"):
        leapfrog(BANANA.logdensity_fn, PROBLEMS["banana-fisher"][1])
