"""`integrate` and `init`: counts static and traced, steps of one's own, absurd steps, misuse."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics
from hmcvae.integrators import IntegratorState
from hmcvae.solvers import SolverInfo, exact_info
from tests.support.cases import DTYPES, SINGLE, TARGETS, Case, over
from tests.support.flows import stack

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


@pytest.mark.parametrize("checkpoint", [False, True])
def test_collected_steps(case: Case, step, checkpoint):
    """Every state is the end of a shorter trajectory, and their energies are those of momentum and density."""
    collect = jax.jit(partial(integrators.integrate, step, num_steps=4, collect=True, checkpoint=checkpoint))
    start = case.start()
    states, infos = collect(start, 0.1)
    assert infos.converged.shape == (4,)
    assert states.position.shape == (5, *start.position.shape)
    for index in range(5):
        expected, _ = static_integrate(step, index)(start, 0.1)
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=index: a[i], states), expected, rtol=1e-12)
    energies = jax.vmap(partial(integrators.energy, case.metric))(states)
    kinetic = jax.vmap(case.metric.kinetic_energy)(states.momentum, states.position)
    np.testing.assert_allclose(energies, kinetic - states.logdensity, rtol=1e-12)
    assert 0 < np.ptp(energies) < 0.1


def test_collected_reports_are_of_each_step():
    """The third step of five fails: the report of all says that one did, that of each says which."""

    def failing(state: IntegratorState, step_size) -> tuple[IntegratorState, SolverInfo]:
        info = exact_info(state.position.dtype)
        moved = state._replace(position=state.position + step_size)
        return moved, info._replace(converged=moved.position[0] != 3)

    start = IntegratorState(jnp.zeros(1), jnp.zeros(1), jnp.zeros(()), jnp.zeros(1))
    states, infos = integrators.integrate(failing, start, 1.0, 5, collect=True)
    assert infos.converged.tolist() == [True, True, False, True, True]
    assert states.position[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    states, infos = integrators.integrate(failing, start, 1.0, 0, collect=True)
    assert (states.position.shape, infos.converged.shape) == ((1, 1), (0,))


def test_collected_steps_need_a_count(case: Case, step):
    with pytest.raises(ValueError, match="must be an int where the steps are collected"):
        jax.eval_shape(
            lambda n: integrators.integrate(step, case.start(), 0.1, n, collect=True), jnp.asarray(2)
        )


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
