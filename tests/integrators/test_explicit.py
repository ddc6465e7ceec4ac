"""The leapfrog by property, over a table of densities × metrics × dtypes.

What each property can see that the others cannot: energy, volume and reversibility hold for a map that runs at the
wrong speed or moves with M instead of M⁻¹; only the exact flow, the closed form and the elapsed time tell.
"""

from functools import partial

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import linalg

from hmcvae import integrators, metrics
from hmcvae.integrators import IntegratorState
from tests.support import targets
from tests.support.cases import (
    DTYPES,
    SINGLE,
    Case,
    jacobian_of,
    jitted_flow,
    over,
    over_float64,
    over_gaussians,
    over_table,
)
from tests.support.flows import stack

# --- Accuracy: it follows Hamilton's equations, in the right time.


@over_table
def test_order_two(case: Case):
    """The error at a fixed time falls as ε²: the slope in log-log is 2."""
    flow, time = jitted_flow(case), 8 * case.target.step_size
    double = Case(case.target_name, case.kind, "float64")
    reference = stack(jitted_flow(double)(double.position, double.momentum, time / 2048, 2048))
    # float32 has no room below 32 steps: there rounding is all that is left.
    counts = np.array([4, 8, 16, 32] if case.dtype == "float32" else [32, 64, 128])
    ends = [stack(flow(case.position, case.momentum, time / n, n)) for n in counts]
    errors = [np.linalg.norm(end - reference) for end in ends]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert 1.85 < slope < 2.15 if case.dtype == "float32" else 1.98 < slope < 2.02


@over_gaussians
def test_exact_flow(case: Case):
    """On a Gaussian the flow is known for any constant mass: n steps of ε end where time t = nε ends."""
    assert isinstance(case.target, targets.Gaussian)
    time, n = 1.5, 400
    end = stack(jitted_flow(case)(case.position, case.momentum, time / n, n))
    exact = np.concatenate(
        case.target.flow(np.asarray(case.position), np.asarray(case.momentum), time, case.mass)
    )
    np.testing.assert_allclose(end, exact, atol=5e-5 if case.dtype == "float64" else 2e-4)
    wrong = np.concatenate(
        case.target.flow(np.asarray(case.position), np.asarray(case.momentum), 2 * time, case.mass)
    )
    assert np.linalg.norm(end - wrong) > 0.1  # the test would see a wrong time scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [0.4, 0.1, 0.02])
def test_elapsed_time(epsilon: float, dtype: str):
    """q'' = -q: after n steps of ε the phase is t = nε up to O(ε²)."""
    case = Case("isotropic", "identity", dtype)
    n = round(2.4 / epsilon)
    one, zero = jnp.ones(3, dtype), jnp.zeros(3, dtype)
    q, p = jitted_flow(case)(one, zero, epsilon, n)
    phase = np.arctan2(-np.asarray(p, float), np.asarray(q, float))
    # The modified frequency, and the ellipse of axes 1 and √(1 - ε²/4) on which the phase is read.
    allowed = n * epsilon * epsilon**2 / 24 + epsilon**2 / 16
    np.testing.assert_allclose(phase, n * epsilon, atol=1.1 * allowed + 100 * case.eps)


@over(["isotropic"], extra=[Case("isotropic", "dense", "float32")])
def test_closed_form_on_the_harmonic_oscillator(case: Case):
    """Leapfrog turns an ellipse at the modified frequency θ, cos θ = 1 - (εω)²/2, exactly."""
    epsilon, n = 0.7, 25
    frequencies, modes = linalg.eigh(np.eye(3), case.mass)  # modesᵀ M modes = I
    frequencies = np.sqrt(frequencies)
    q, p = modes.T @ case.mass @ np.asarray(case.position, float), modes.T @ np.asarray(case.momentum, float)
    theta = n * np.arccos(1 - (epsilon * frequencies) ** 2 / 2)
    width = frequencies * np.sqrt(1 - (epsilon * frequencies) ** 2 / 4)
    q_end = q * np.cos(theta) + p * np.sin(theta) / width
    p_end = p * np.cos(theta) - q * np.sin(theta) * width
    expected = np.concatenate([modes @ q_end, case.mass @ modes @ p_end])
    end = stack(jitted_flow(case)(case.position, case.momentum, epsilon, n))
    np.testing.assert_allclose(end, expected, atol=200 * case.eps)


def test_stability_limit():
    """ε = 2/ω is the border: bounded below it, growing above."""
    case = Case("isotropic", "identity", "float64")
    flow = jitted_flow(case)
    assert np.max(np.abs(stack(flow(case.position, case.momentum, 1.99, 2000)))) < 100
    assert np.max(np.abs(stack(flow(case.position, case.momentum, 2.01, 2000)))) > 1e20


# --- Structure: reversible, volume preserving, symplectic, bounded energy.


@over_table
def test_reversible(case: Case):
    """Flip the momentum, or the step size, and the trajectory comes back to rounding."""
    flow, epsilon, n = jitted_flow(case), case.target.step_size, 20
    z, v = flow(case.position, case.momentum, epsilon, n)
    start = stack((case.position, case.momentum))
    assert np.linalg.norm(stack((z, v)) - start) > 0.1  # it went somewhere
    tolerance = 500 * case.eps * (1 + np.abs(start).max())
    np.testing.assert_allclose(stack(flow(z, v, -epsilon, n)), start, atol=tolerance)
    back, flipped = flow(z, -v, epsilon, n)
    np.testing.assert_allclose(stack((back, -flipped)), start, atol=tolerance)


def symplectic_form(dim: int, scale: np.ndarray | float = 1.0) -> np.ndarray:
    """[[0, D⁻¹], [-D⁻¹, 0]] for step sizes D = diag(scale)."""
    inverse = np.diag(np.ones(dim) / scale)
    return np.block([[np.zeros((dim, dim)), inverse], [-inverse, np.zeros((dim, dim))]])


@over_float64
def test_volume_preserving_and_symplectic(case: Case):
    J = jacobian_of(case)(case.position, case.momentum, case.target.step_size, 10)
    omega = symplectic_form(case.target.dim)
    assert abs(np.linalg.det(J) - 1) < 1e-10
    np.testing.assert_allclose(J.T @ omega @ J, omega, atol=1e-10)
    assert np.linalg.norm(J - np.eye(len(J))) > 0.1


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(
    seed=st.integers(0, 2**16),
    epsilon=st.floats(-0.5, 0.5).filter(lambda epsilon: abs(epsilon) > 1e-3),
    num_steps=st.integers(0, 12),
)
def test_structure_anywhere(seed: int, epsilon: float, num_steps: int):
    """The same from random starts, with random steps of either sign, on the most curved density."""
    case = Case("banana", "dense", "float64")
    rng = np.random.default_rng(seed)
    z, v = jnp.asarray(rng.normal(size=2)), jnp.asarray(rng.normal(size=2))
    J = jacobian_of(case)(z, v, epsilon, num_steps)
    omega = symplectic_form(2)
    size = max(1.0, np.linalg.norm(J) ** 2)
    np.testing.assert_allclose(J.T @ omega @ J, omega, atol=1e-12 * size)
    back = jitted_flow(case)(*jitted_flow(case)(z, v, epsilon, num_steps), -epsilon, num_steps)
    np.testing.assert_allclose(stack(back), stack((z, v)), atol=1e-12 * size)


# Not the funnel: its neck is stiffer than any fixed step.
@over(["correlated", "skewed", "banana", "logistic"], ["diagonal", "dense"], extra=SINGLE)
def test_energy_stays_bounded(case: Case):
    """Over 10,000 steps the energy error does not outgrow that of the first thousand, nor drift."""
    step = integrators.leapfrog(case.target.logdensity_fn, case.metric)

    @jax.jit
    def energies(state: IntegratorState) -> jax.Array:
        def body(state, _):
            state, _ = step(state, case.target.step_size)
            return state, case.metric.kinetic_energy(state.momentum, state.position) - state.logdensity

        return lax.scan(body, state, None, length=10_000)[1]

    start = case.start()
    first = case.metric.kinetic_energy(start.momentum, start.position) - start.logdensity
    error = np.asarray(energies(start), float) - float(first)
    early = np.abs(error[:1000]).max()
    rounding = 10 * case.eps * np.sqrt(error.size) * (1 + abs(float(first)))
    assert 0 < early < 0.5
    assert np.abs(error).max() < 1.5 * early + rounding
    assert abs(error[-1000:].mean() - error[:1000].mean()) < 0.1 * early + rounding


# --- The metric.


@over(["correlated", "skewed"], ["diagonal", "dense"])
def test_mass_is_a_linear_change_of_variables(case: Case):
    """Mass M = L Lᵀ on p(z) is mass I on the density of y = Lᵀ z, with momentum L⁻¹ v."""
    L = np.linalg.cholesky(case.mass)
    to_position = jnp.asarray(np.linalg.inv(L).T)
    step = integrators.leapfrog(lambda y: case.target.logdensity_fn(to_position @ y), metrics.identity())
    white = integrators.init(
        lambda y: case.target.logdensity_fn(to_position @ y),
        metrics.identity(),
        jnp.asarray(L.T @ np.asarray(case.position)),
        jnp.asarray(np.linalg.solve(L, np.asarray(case.momentum))),
    )
    end, _ = jax.jit(partial(integrators.integrate, step, num_steps=15))(white, case.target.step_size)
    mapped = np.concatenate([to_position @ end.position, L @ np.asarray(end.momentum)])
    direct = stack(jitted_flow(case)(case.position, case.momentum, case.target.step_size, 15))
    np.testing.assert_allclose(direct, mapped, rtol=1e-10, atol=1e-11)


@over(["correlated", "banana"], ["diagonal", "dense"])
def test_step_size_per_coordinate(case: Case):
    """Steps ε = diag(s) on p(z) are unit steps on the density of y = z / s, under the same metric."""
    dim = case.target.dim
    s = jnp.asarray(case.target.step_size * np.linspace(0.4, 1.1, dim))
    step = integrators.leapfrog(lambda y: case.target.logdensity_fn(s * y), case.metric)
    state = integrators.init(
        lambda y: case.target.logdensity_fn(s * y), case.metric, case.position / s, case.momentum
    )
    end, _ = jax.jit(partial(integrators.integrate, step, num_steps=12))(state, 1.0)
    direct = jitted_flow(case)(case.position, case.momentum, s, 12)
    np.testing.assert_allclose(stack(direct), stack((s * end.position, end.momentum)), rtol=1e-10, atol=1e-11)
    # What it keeps: volume, the way back, and the symplectic form scaled by ε⁻¹.
    J, omega = jacobian_of(case)(case.position, case.momentum, s, 12), symplectic_form(dim, np.asarray(s))
    assert abs(np.linalg.det(J) - 1) < 1e-10
    np.testing.assert_allclose(J.T @ omega @ J, omega, atol=1e-9)
    back = jitted_flow(case)(*direct, -s, 12)
    np.testing.assert_allclose(stack(back), stack((case.position, case.momentum)), atol=1e-11)


def test_equal_steps_per_coordinate_are_one_step():
    case = Case("banana", "dense", "float64")
    vector = jitted_flow(case)(case.position, case.momentum, np.full(2, 0.15), 7)
    scalar = jitted_flow(case)(case.position, case.momentum, 0.15, 7)
    chex.assert_trees_all_close(vector, scalar, rtol=1e-14)
