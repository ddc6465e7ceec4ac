"""The leapfrog by property, over a table of densities × metrics × dtypes; then `init`, `integrate` and misuse.

What each property can see that the others cannot: energy, volume and reversibility hold for a map that runs at the
wrong speed or moves with M instead of M⁻¹; only the exact flow, the closed form and the elapsed time tell.
"""

from dataclasses import dataclass
from functools import cache, partial

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
from hmcvae.solvers import SolverInfo, exact_info
from hmcvae.types import Metric
from tests.support import targets
from tests.support.flows import stack

TARGETS = {target.name: target for target in targets.all_targets()}
METRICS = ["identity", "diagonal", "dense"]
DTYPES = ["float32", "float64"]


def mass_matrix(kind: str, dim: int) -> np.ndarray:
    """A mass of that kind, of trace above d, so that the frequencies of the targets' step sizes stay stable."""
    if kind == "identity":
        return np.eye(dim)
    if kind == "diagonal":
        return np.diag(np.geomspace(0.8, 4.0, dim))
    rotation, _ = np.linalg.qr(np.random.default_rng(dim).normal(size=(dim, dim)))
    return (rotation * np.geomspace(0.8, 4.0, dim)) @ rotation.T


def make_metric(kind: str, mass: jax.Array) -> Metric:
    if kind == "identity":
        return metrics.identity()
    return metrics.diagonal(jnp.diagonal(mass)) if kind == "diagonal" else metrics.dense(mass)


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    target_name: str
    kind: str
    dtype: str

    @property
    def target(self) -> targets.Target:
        return TARGETS[self.target_name]

    @property
    def mass(self) -> np.ndarray:
        return mass_matrix(self.kind, self.target.dim)

    @property
    def metric(self) -> Metric:
        return make_metric(self.kind, jnp.asarray(self.mass, self.dtype))

    @property
    def position(self) -> jax.Array:
        return jnp.asarray(self.target.typical, self.dtype)

    @property
    def momentum(self) -> jax.Array:
        noise = np.linspace(1.0, -0.7, self.target.dim)
        return jnp.asarray(np.linalg.cholesky(self.mass) @ noise, self.dtype)

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.dtype).eps)

    def start(self) -> IntegratorState:
        return integrators.init(self.target.logdensity_fn, self.metric, self.position, self.momentum)


@cache
def flow_of(case: Case):
    """(position, momentum, ε, L) -> end of the trajectory. One compilation serves every ε and every L."""
    step = integrators.leapfrog(case.target.logdensity_fn, case.metric)

    def flow(position: jax.Array, momentum: jax.Array, step_size: jax.Array, num_steps: jax.Array):
        state = integrators.init(case.target.logdensity_fn, case.metric, position, momentum)
        end, _ = integrators.integrate(step, state, step_size, num_steps)
        return end.position, end.momentum

    return flow


@cache
def jitted_flow(case: Case):
    flow = jax.jit(flow_of(case))
    return lambda z, v, epsilon, n: flow(z, v, jnp.asarray(epsilon, case.dtype), jnp.asarray(n))


@cache
def jacobian_of(case: Case):
    """(z, v, ε, L) -> the [2d, 2d] Jacobian of the end in the start."""
    dim = case.target.dim
    flow = flow_of(case)  # here, not in the trace: it is kept, with the metric's arrays

    @jax.jit
    def jacobian(z, v, epsilon, n):
        def stacked(zv):
            return jnp.concatenate(flow(zv[:dim], zv[dim:], epsilon, n))

        return jax.jacfwd(stacked)(jnp.concatenate([z, v]))

    return lambda z, v, epsilon, n: np.asarray(
        jacobian(z, v, jnp.asarray(epsilon, case.dtype), jnp.asarray(n))
    )


# Every density, and every metric on both Gaussians; elsewhere the pairs that differ most.
TABLE = {
    "isotropic": METRICS,
    "correlated": METRICS,
    "skewed": ["identity", "diagonal"],
    "banana": ["diagonal", "dense"],
    "funnel": ["identity", "dense"],
    "logistic": ["dense"],
}


def over(target_names=tuple(TABLE), kinds=METRICS, *, extra=()):
    """Rows of the table in float64, where properties are sharp, and `extra` rows."""
    cases = [Case(name, kind, "float64") for name in target_names for kind in TABLE[name] if kind in kinds]
    return pytest.mark.parametrize(
        "case", [*cases, *extra], ids=lambda case: f"{case.target_name}-{case.kind}-{case.dtype}"
    )


SINGLE = [Case("correlated", "identity", "float32"), Case("banana", "dense", "float32")]
over_table = over(extra=[*SINGLE, Case("logistic", "diagonal", "float32")])
over_float64 = over()
over_gaussians = over(["isotropic", "correlated"], extra=SINGLE[:1])


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


# --- What the state holds, and what it costs.


@over(["banana"], ["diagonal"], extra=SINGLE)
def test_state(case: Case):
    """The end's density and gradient are those at the end's position; nothing changes its dtype."""
    target = case.target
    step = integrators.leapfrog(target.logdensity_fn, case.metric)
    start = case.start()
    for take in (step, partial(integrators.integrate, step, num_steps=3)):
        end, info = jax.jit(take)(start, np.float64(target.step_size))
        value, gradient = jax.value_and_grad(target.logdensity_fn)(end.position)
        chex.assert_trees_all_close(
            (end.logdensity, end.logdensity_grad), (value, gradient), rtol=50 * case.eps
        )
        chex.assert_trees_all_equal_shapes_and_dtypes(end, start)
        chex.assert_trees_all_equal(info, exact_info(start.position.dtype))
        assert info.residual.dtype == case.dtype


@pytest.mark.parametrize("num_steps", [0, 1, 2, 7])
def test_one_gradient_a_step(num_steps: int):
    """L + 1 gradients for L steps, counted call by call with the compiler off."""
    calls = []

    def logdensity_fn(z):
        calls.append(1)
        return -0.5 * jnp.dot(z, z)

    with jax.disable_jit():
        state = integrators.init(logdensity_fn, metrics.identity(), jnp.ones(2), jnp.ones(2))
        step = integrators.leapfrog(logdensity_fn, metrics.identity())
        integrators.integrate(step, state, 0.1, num_steps)
    assert len(calls) == num_steps + 1


@pytest.mark.parametrize("dynamic", [False, True])
def test_one_gradient_a_step_compiled(dynamic: bool):
    """The same in compiled code, counted on the host in both passes; the initial state's is not among them."""
    counts = {"value": 0, "gradient": 0}

    def count(what):
        counts[what] += 1

    @jax.custom_vjp
    def logdensity_fn(z):
        return -0.5 * jnp.dot(z, z)

    def forward(z):
        jax.debug.callback(lambda _: count("value"), z)
        return logdensity_fn(z), z

    def backward(z, cotangent):
        jax.debug.callback(lambda _: count("gradient"), z)
        return (-cotangent * z,)

    logdensity_fn.defvjp(forward, backward)
    state = IntegratorState(jnp.ones(2), jnp.ones(2), -jnp.ones(()), -jnp.ones(2))
    step = integrators.leapfrog(logdensity_fn, metrics.identity())
    integrate = jax.jit(partial(integrators.integrate, step), static_argnums=() if dynamic else 2)
    jax.block_until_ready(integrate(state, 0.1, 9))
    jax.effects_barrier()
    assert counts == {"value": 9, "gradient": 9}


# --- integrate.


@pytest.fixture(scope="module")
def case() -> Case:
    """A curved density under a dense mass, in float64: what `integrate` is tried on."""
    return Case("banana", "dense", "float64")


@pytest.fixture(scope="module")
def step(case: Case) -> integrators.Step:
    return integrators.leapfrog(case.target.logdensity_fn, case.metric)


@cache
def static_integrate(step, num_steps, **options):
    return jax.jit(partial(integrators.integrate, step, num_steps=num_steps, **options))


@over(["banana"], ["dense"], extra=SINGLE)
def test_static_and_traced_counts_agree(case: Case):
    """Bit for bit: an int scans, a traced count loops, over the same arithmetic."""
    step = integrators.leapfrog(case.target.logdensity_fn, case.metric)
    traced = jax.jit(partial(integrators.integrate, step))
    epsilon = jnp.asarray(case.target.step_size, case.dtype)
    for num_steps in (0, 3, 8):
        expected = static_integrate(step, num_steps)(case.start(), epsilon)
        chex.assert_trees_all_equal(traced(case.start(), epsilon, jnp.asarray(num_steps)), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_traced_count_of_any_whole_type(case: Case, step, dtype):
    """An unsigned 0 - 1 is a very large number."""
    traced = jax.jit(partial(integrators.integrate, step))
    for num_steps in (0, 1, 4):
        expected = static_integrate(step, num_steps)(case.start(), 0.1)
        end = traced(case.start(), 0.1, jnp.asarray(num_steps, dtype))
        chex.assert_trees_all_close(end, expected, rtol=1e-14)


class TestVariants(chex.TestCase):
    """The same trajectory however JAX is made to run it."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_trajectory(self):
        target = TARGETS["banana"]
        metric = metrics.diagonal(jnp.array([0.8, 4.0]))
        step = integrators.leapfrog(target.logdensity_fn, metric)
        start = integrators.init(target.logdensity_fn, metric, jnp.array([0.3, -0.2]), jnp.array([0.5, 1.0]))
        end, info = self.variant(lambda start, epsilon: integrators.integrate(step, start, epsilon, 5))(
            start, 0.1
        )
        expected, _ = static_integrate(step, 5)(start, 0.1)
        chex.assert_trees_all_close(end, expected, rtol=1e-13)
        chex.assert_trees_all_equal(info, exact_info(jnp.dtype(jnp.float64)))


def test_no_steps(case: Case, step):
    start = case.start()
    for num_steps in (0, jnp.asarray(0)):
        end, info = integrators.integrate(step, start, 0.1, num_steps)
        chex.assert_trees_all_equal(end, start)
        chex.assert_trees_all_equal(info, exact_info(jnp.dtype(jnp.float64)))


def test_one_step(case: Case, step):
    end = static_integrate(step, 1)(case.start(), 0.1)
    chex.assert_trees_all_close(end, jax.jit(step)(case.start(), 0.1), rtol=1e-15)


def test_composition(case: Case, step):
    """3 steps and then 4 are 7 steps, and 7 calls of the step: the whole kicks inside are two halves."""
    three, _ = static_integrate(step, 3)(case.start(), 0.1)
    seven, _ = static_integrate(step, 4)(three, 0.1)
    expected, _ = static_integrate(step, 7)(case.start(), 0.1)
    one_by_one, once = case.start(), jax.jit(step)
    for _ in range(7):
        one_by_one, _ = once(one_by_one, 0.1)
    chex.assert_trees_all_close(seven, expected, rtol=1e-13)
    chex.assert_trees_all_close(one_by_one, expected, rtol=1e-13)


def test_unroll(case: Case, step):
    expected = static_integrate(step, 7)(case.start(), 0.1)
    for unroll in (3, True):
        chex.assert_trees_all_close(
            static_integrate(step, 7, unroll=unroll)(case.start(), 0.1), expected, rtol=1e-14
        )


def test_vmap_agrees_with_a_loop(case: Case, step):
    """Over starts, step sizes and numbers of steps at once; lanes that end early stay where they are."""
    rng = np.random.default_rng(1)
    starts = [case.start()._replace(momentum=jnp.asarray(rng.normal(size=2))) for _ in range(4)]
    epsilons, counts = jnp.asarray([0.05, -0.1, 0.15, 0.2]), jnp.asarray([5, 0, 1, 9])
    integrate = partial(integrators.integrate, step)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    ends = jax.jit(jax.vmap(integrate))(batch, epsilons, counts)
    single = jax.jit(integrate)
    looped = [single(starts[i], epsilons[i], counts[i]) for i in range(4)]
    chex.assert_trees_all_close(ends, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped), rtol=1e-13)


def euler(state: IntegratorState, step_size) -> tuple[IntegratorState, SolverInfo]:
    """A plain function as a step: explicit Euler for q'' = -q, with a made-up report that depends on the state."""
    position = state.position + step_size * state.momentum
    momentum = state.momentum - step_size * state.position
    logdensity = -0.5 * jnp.dot(position, position)
    info = SolverInfo(position[0] < 0.9, jnp.asarray(2, jnp.int32), jnp.abs(position[0]))
    return IntegratorState(position, momentum, logdensity, -position), info


@pytest.mark.parametrize("checkpoint", [False, True])
def test_plain_function_as_step(checkpoint: bool):
    """A custom step needs no class; its reports are joined by all / sum / max."""
    start = IntegratorState(
        jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), -jnp.ones(()) / 2, jnp.array([-1.0, 0.0])
    )
    state, infos = start, []
    for _ in range(6):
        state, info = euler(state, 0.2)
        infos.append(info)
    converged, iterations, residuals = zip(*infos, strict=True)
    # An inner step fails and the last does not: all, any and the last step's own report differ.
    assert not converged[0]
    assert converged[-1]
    expected = (
        state,
        SolverInfo(jnp.asarray(all(converged)), jnp.asarray(sum(iterations), jnp.int32), max(residuals)),
    )
    assert expected[1].residual != residuals[-1]
    static = integrators.integrate(euler, start, 0.2, 6, checkpoint=checkpoint)
    dynamic = integrators.integrate(euler, start, 0.2, jnp.asarray(6))
    chex.assert_trees_all_close(static, expected, rtol=1e-14)
    chex.assert_trees_all_close(dynamic, expected, rtol=1e-14)
    chex.assert_trees_all_equal_shapes_and_dtypes(static, dynamic)


@pytest.mark.parametrize("num_steps", [1, 200, jnp.asarray(200)])
def test_absurd_step_size(num_steps):
    """Overflow is no error and no flag: it stays in the state for the caller to judge (documented)."""
    for dtype in DTYPES:
        case = Case("isotropic", "diagonal", dtype)
        step = integrators.leapfrog(case.target.logdensity_fn, case.metric)
        huge = float(jnp.finfo(dtype).max) ** 0.6 if np.ndim(num_steps) == 0 and num_steps == 1 else 1e3
        end, info = integrators.integrate(step, case.start(), huge, num_steps)
        assert not np.all(np.isfinite(stack(end))) or not np.isfinite(end.logdensity)
        assert info.converged
        assert info.num_iterations == 0


# --- Derivatives.


def end_loss(case: Case, num_steps: int, **options):
    """A scalar of everything in the end state, in the start, the step size and the masses."""
    rng = np.random.default_rng(11)
    dim = case.target.dim
    a, b, c = (jnp.asarray(rng.normal(size=dim)) for _ in range(3))

    def loss(inputs: dict[str, jax.Array]) -> jax.Array:
        metric = make_metric(case.kind, inputs["mass"])

        def logdensity_fn(z):
            return case.target.logdensity_fn(z) * inputs["temperature"]

        state = integrators.init(logdensity_fn, metric, inputs["position"], inputs["momentum"])
        step = integrators.leapfrog(logdensity_fn, metric)
        end, _ = integrators.integrate(step, state, inputs["step_size"], num_steps, **options)
        tail = jnp.dot(c, end.logdensity_grad) + end.logdensity
        return jnp.dot(a, end.position) + jnp.dot(b, end.momentum) + tail

    inputs = {
        "position": case.position,
        "momentum": case.momentum,
        "step_size": jnp.asarray(case.target.step_size),
        "temperature": jnp.asarray(1.1),
    }
    if case.kind != "identity":
        inputs["mass"] = jnp.asarray(case.mass)
    else:
        inputs["mass"] = jnp.eye(dim)
    return loss, inputs


@over(
    ["correlated"],
    ["dense"],
    extra=[Case("banana", "diagonal", "float64"), Case("logistic", "dense", "float64")],
)
def test_gradients_against_finite_differences(case: Case):
    """In start, step size, masses and the density's own parameter: second-order terms are all there."""
    loss, inputs = end_loss(case, num_steps=6)
    value, gradients = jax.jit(jax.value_and_grad(loss))(inputs)
    assert np.isfinite(value)
    batched = jax.jit(jax.vmap(loss))
    rng = np.random.default_rng(2)
    for name, leaf in inputs.items():
        direction = rng.normal(size=leaf.shape)
        if name == "mass":
            direction = direction + direction.T
        direction = jnp.asarray(direction)
        # Richardson's extrapolation of central differences: error h⁴, rounding 1e-16 / h.
        offsets = 2e-3 * np.array([-2.0, -1.0, 1.0, 2.0])
        moved = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), inputs)
        moved[name] = jnp.stack([leaf + offset * direction for offset in offsets])
        far_left, left, right, far_right = np.asarray(batched(moved))
        difference = (8 * (right - left) - (far_right - far_left)) / (12 * 2e-3)
        np.testing.assert_allclose(jnp.sum(gradients[name] * direction), difference, rtol=1e-6, err_msg=name)


def test_gradient_of_step_sizes_per_coordinate():
    loss, inputs = end_loss(Case("correlated", "dense", "float64"), num_steps=4)
    inputs["step_size"] = jnp.linspace(0.05, 0.15, 4)
    gradient = jax.jit(jax.grad(loss))(inputs)["step_size"]
    batched = jax.jit(jax.vmap(lambda s: loss(inputs | {"step_size": s})))
    shifts = 1e-5 * jnp.eye(4)
    base = jnp.stack([inputs["step_size"]] * 4)
    difference = (batched(base + shifts) - batched(base - shifts)) / 2e-5
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


def test_forward_mode_agrees_with_reverse_mode():
    """A traced count has no reverse mode, but it has a forward mode, and they agree."""
    case = Case("banana", "dense", "float64")
    loss, inputs = end_loss(case, num_steps=5)
    dynamic, _ = end_loss(case, num_steps=jnp.asarray(5))
    tangent = jax.tree.map(jnp.ones_like, inputs)
    slope = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(inputs)))
    for fn in (loss, dynamic):
        forward = jax.jit(lambda fn: jax.jvp(fn, (inputs,), (tangent,))[1], static_argnums=0)(fn)
        np.testing.assert_allclose(forward, slope, rtol=1e-11)


def test_checkpoint_keeps_gradients_and_saves_memory():
    """The same gradients, with one state a step stored instead of the inside of the density."""
    wide = targets.logistic(num_rows=2000, dim=2)
    num_steps = 100

    def gradient(checkpoint: bool):
        step = integrators.leapfrog(wide.logdensity_fn, metrics.identity())

        def loss(z):
            state = integrators.init(wide.logdensity_fn, metrics.identity(), z, jnp.ones(2))
            end, _ = integrators.integrate(step, state, 0.01, num_steps, checkpoint=checkpoint)
            return jnp.sum(end.position) + end.logdensity

        return jax.jit(jax.grad(loss)).lower(jnp.asarray(wide.typical)).compile()

    plain, saving = gradient(False), gradient(True)
    z = jnp.asarray(wide.typical)
    chex.assert_trees_all_close(saving(z), plain(z), rtol=1e-10)
    memory = [compiled.memory_analysis().temp_size_in_bytes for compiled in (plain, saving)]
    assert memory[0] > num_steps * 2000 * 8  # each step's logits were kept
    assert memory[1] < 0.2 * memory[0]


# --- Misuse.


@pytest.mark.parametrize(
    ("num_steps", "message"),
    [
        (-1, "num_steps must be a whole number of at least 0, got -1"),
        (2.5, "got 2.5"),
        (True, "got True"),
        (jnp.asarray(-3), "got -3"),
        (jnp.asarray(2.0), r"got shape \(\) and dtype float64"),
        (jnp.asarray([1, 2]), r"got shape \(2,\) and dtype int64"),
    ],
)
def test_bad_number_of_steps(case: Case, step, num_steps, message):
    with pytest.raises(ValueError, match=message):
        integrators.integrate(step, case.start(), 0.1, num_steps)


@pytest.mark.parametrize(
    ("position", "momentum", "message"),
    [
        (
            np.ones((2, 2)),
            np.ones(2),
            r"position must be a floating-point vector of shape \[d\], got shape \(2, 2\)",
        ),
        (np.float64(1.0), np.ones(1), r"got shape \(\)"),
        (np.ones(2, int), np.ones(2), "dtype int64"),
        (np.ones(2), np.ones(3), r"position's shape \(2,\), got \(3,\)"),
        (np.array([1.0, np.nan]), np.ones(2), "position must be finite"),
        (np.ones(2), np.array([np.inf, 1.0]), "momentum must be finite"),
    ],
)
def test_bad_start(position, momentum, message):
    with pytest.raises(ValueError, match=message):
        integrators.init(lambda z: -0.5 * jnp.dot(z, z), metrics.identity(), position, momentum)


def test_constants_are_checked_inside_jit():
    """A start or a mass that jit closes over is concrete, while what is computed from it there is not."""
    z, mass = jnp.ones(2), jnp.asarray([[2.0, 1.0], [1.0, 2.0]])

    def energy(start, mass, scale):
        metric = metrics.dense(mass)
        state = integrators.init(lambda z: -0.5 * scale * jnp.dot(z, z), metric, start, start)
        return metric.kinetic_energy(state.momentum, state.position) - state.logdensity

    np.testing.assert_allclose(jax.jit(partial(energy, z, mass))(1.0), energy(z, mass, 1.0), rtol=1e-14)
    with pytest.raises(ValueError, match="position must be finite"):
        jax.jit(partial(energy, jnp.nan * z, mass))(1.0)
    with pytest.raises(ValueError, match="mass must be positive definite, got smallest eigenvalue -1"):
        jax.jit(partial(energy, z, mass - 2 * jnp.eye(2)))(1.0)


def test_leapfrog_refuses_a_metric_that_depends_on_the_position():
    class Curved(metrics.Identity):
        is_position_dependent = True

    with pytest.raises(
        ValueError, match="needs a Euclidean metric, got Curved, which depends on the position"
    ):
        integrators.leapfrog(lambda z: -0.5 * jnp.dot(z, z), Curved())
