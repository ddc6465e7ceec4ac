"""The implicit integrators by property, over a table of problems; and the two splittings that are explicit.

Order, elapsed time, return, volume, energy: what one cannot see the others do. Elapsed time catches a step that is
twice as long as it says; the finite differences of H and the order catch a metric that is frozen in the solve.
"""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics, solvers
from hmcvae.integrators import generalized_leapfrog, implicit_midpoint, leapfrog, mclachlan, yoshida
from tests.support import targets
from tests.support.flows import stack

COVARIATES, LABELS = targets.logistic_data(30, 3, 0)
LOGISTIC = targets.logistic(30, 3)
BANANA, FUNNEL, SKEWED = targets.banana(), targets.funnel(3), targets.skewed()


def bernoulli_weight(f):
    return jax.nn.sigmoid(f) * jax.nn.sigmoid(-f)


def bend(z):
    """The banana as a least-squares problem: its log density is -½ |f|² of these two."""
    return jnp.stack([z[0] / 1.5, z[1] - 0.5 * (z[0] ** 2 - 2.25)])


def matrix(z):
    root = 0.3 * jnp.outer(jnp.sin(z), jnp.cos(z)) + jnp.diag(1 + 0.2 * z**2)
    return root @ root.T + 0.5 * jnp.eye(z.shape[0], dtype=z.dtype)


def masses(z):
    return jnp.exp(0.4 * jnp.roll(z, 1)) + 0.3 * z**2 + 0.3


def logits(z):
    return jnp.asarray(COVARIATES, z.dtype) @ z


# name: (target, metric, step size)
PROBLEMS = {
    "banana-fisher": (BANANA, metrics.fisher(bend, jnp.ones_like, 0.0), 0.2),
    "logistic-fisher": (LOGISTIC, metrics.fisher(logits, bernoulli_weight, 0.25), 0.3),
    "funnel-softabs": (FUNNEL, metrics.softabs(FUNNEL.logdensity_fn, 1.0), 0.15),
    "skewed-monge": (SKEWED, metrics.monge(SKEWED.logdensity_fn, 0.5), 0.15),
    "skewed-tensor": (SKEWED, metrics.from_tensor(matrix), 0.15),
    "skewed-diagonal": (SKEWED, metrics.from_tensor(masses), 0.15),
}
INTEGRATORS = {"generalized": generalized_leapfrog, "midpoint": implicit_midpoint}
over_problems = pytest.mark.parametrize("problem", PROBLEMS)
over_integrators = pytest.mark.parametrize("kind", INTEGRATORS)
# Far below the default tolerance, so that the properties are seen to the last digits.
SHARP = solvers.fixed_point(1e-14, max_iterations=60)


def start_of(problem, dtype="float64"):
    """(position, momentum); the momentum whitened, so that all problems move at a like speed."""
    target, metric, _ = PROBLEMS[problem]
    position = jnp.asarray(target.typical, dtype)
    white = jnp.asarray(np.linspace(1.0, -0.7, target.dim), dtype)
    return position, jax.jit(lambda z: metric.factor(z).sqrt_matvec(white))(position)


@cache
def program(problem, kind, is_sharp=True):
    """(z, v, ε, L) -> (end state, info), jitted; one compilation serves all ε and L."""
    target, metric, _ = PROBLEMS[problem]
    solver = SHARP if is_sharp else solvers.DEFAULT
    step = INTEGRATORS[kind](target.logdensity_fn, metric, solver)

    @jax.jit
    def run(z, v, epsilon, num_steps):
        state = integrators.init(target.logdensity_fn, metric, z, v)
        return integrators.integrate(step, state, epsilon, num_steps)

    return lambda z, v, epsilon, num_steps: run(z, v, jnp.asarray(epsilon, z.dtype), jnp.asarray(num_steps))


@cache
def energy(problem):
    target, metric, _ = PROBLEMS[problem]
    return jax.jit(lambda z, v: metric.kinetic_energy(v, z) - target.logdensity_fn(z))


# --- Accuracy


@over_problems
@over_integrators
def test_order_two_and_right_limit(problem, kind):
    """Errors against Hamilton's equations fall by four when ε is halved. The reference is an independent RK4."""
    run, time = program(problem, kind), 4 * PROBLEMS[problem][2]
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


@cache
def oscillator(name, dim=2):
    """q'' = -q with G = I, told to the integrator as a metric that depends on the position; (q, p, ε, n) -> end."""
    is_explicit = name in ("mclachlan", "yoshida", "leapfrog")
    metric = metrics.identity() if is_explicit else metrics.from_tensor(lambda z: jnp.eye(dim, dtype=z.dtype))
    make = {**INTEGRATORS, "mclachlan": mclachlan, "yoshida": yoshida, "leapfrog": leapfrog}[name]

    def logdensity(z):
        return -0.5 * jnp.sum(z**2)

    step = make(logdensity, metric)

    @jax.jit
    def run(q, p, epsilon, num_steps):
        state = integrators.init(logdensity, metric, q, p)
        return integrators.integrate(step, state, epsilon, num_steps)

    return lambda q, p, epsilon, n: run(q, p, jnp.asarray(epsilon, q.dtype), jnp.asarray(n))


@pytest.mark.parametrize("name", ["generalized", "midpoint", "mclachlan", "yoshida"])
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


@over_problems
def test_equations_of_the_generalized_leapfrog(problem):
    """One step satisfies the three equations of the scheme, with ∂H by `jax.grad`: v½ is recovered from the last."""
    hamiltonian, epsilon = energy(problem), PROBLEMS[problem][2]
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
    hamiltonian, epsilon = energy(problem), PROBLEMS[problem][2]
    z, v = start_of(problem)
    end, _ = program(problem, "midpoint")(z, v, epsilon, 1)
    middle = (z + end.position) / 2, (v + end.momentum) / 2
    by_z, by_v = jax.jit(jax.grad(hamiltonian, (0, 1)))(*middle)
    np.testing.assert_allclose(end.position, z + epsilon * by_v, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(end.momentum, v - epsilon * by_z, rtol=1e-11, atol=1e-11)


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


# --- Structure


@over_problems
@over_integrators
def test_reversible(problem, kind):
    """Back by a negative step, and by a flipped momentum, over one step and over ten."""
    run, epsilon = program(problem, kind), PROBLEMS[problem][2]
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
    target, metric, _ = PROBLEMS[problem]
    step, d = INTEGRATORS[kind](target.logdensity_fn, metric, SHARP), target.dim

    @jax.jit
    def compute(x, epsilon):
        def flow(x):
            state = integrators.init(target.logdensity_fn, metric, x[:d], x[d:])
            end, _ = integrators.integrate(step, state, epsilon, num_steps)
            return jnp.concatenate([end.position, end.momentum])

        return jax.jacfwd(flow)(x)

    return compute


@over_problems
@over_integrators
def test_volume_preserving_and_symplectic(problem, kind):
    """|det J| = 1 and JᵀΩJ = Ω, for the map itself: a Jacobian through the solves."""
    epsilon, d = PROBLEMS[problem][2], PROBLEMS[problem][0].dim
    x = jnp.concatenate(start_of(problem))
    J = np.asarray(jacobian(problem, kind, 1)(x, epsilon))
    assert abs(np.linalg.slogdet(J)[1]) < 1e-9
    omega = np.block([[np.zeros((d, d)), np.eye(d)], [-np.eye(d), np.zeros((d, d))]])
    np.testing.assert_allclose(J.T @ omega @ J, omega, atol=1e-8)
    assert np.linalg.norm(J - np.eye(2 * d)) > 0.05


@over_problems
@over_integrators
def test_jacobian_is_that_of_the_map(problem, kind):
    """So that the determinant above is of what is computed: finite differences of the step."""
    epsilon, d, h = PROBLEMS[problem][2], PROBLEMS[problem][0].dim, 1e-5
    x, run = jnp.concatenate(start_of(problem)), program(problem, kind)
    J = jacobian(problem, kind, 1)(x, epsilon)
    for i, e in enumerate(np.eye(2 * d)):
        ends = [stack(run(*jnp.split(x + s * h * e, 2), epsilon, 1)[0]) for s in (1, -1)]
        np.testing.assert_allclose(J[:, i], (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-7)


@over_problems
@over_integrators
def test_energy_error_is_of_order_two(problem, kind):
    """H along a trajectory: small, and a quarter of it at half the step."""
    run, hamiltonian, epsilon = program(problem, kind), energy(problem), PROBLEMS[problem][2]
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


# --- The same at a metric that is constant; what is carried


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


@over_problems
@over_integrators
def test_carried_state_is_fresh(problem, kind):
    """Density, gradient and geometry at the end are those of the end, not of a step before it."""
    target, metric, epsilon = PROBLEMS[problem]
    z, v = start_of(problem)
    end, _ = program(problem, kind)(z, v, epsilon, 5)
    fresh = jax.jit(partial(integrators.init, target.logdensity_fn, metric))(end.position, end.momentum)
    for came, expected in zip(jax.tree.leaves(end), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(came, expected, rtol=1e-8, atol=1e-9)
    assert jax.tree.structure(end) == jax.tree.structure(fresh)


@pytest.mark.parametrize("problem", ["banana-fisher", "skewed-diagonal"])
@over_integrators
def test_traced_count_is_static_count_is_single_steps(problem, kind):
    target, metric, epsilon = PROBLEMS[problem]
    z, v = start_of(problem)
    traced, traced_info = program(problem, kind)(z, v, epsilon, 4)
    step = INTEGRATORS[kind](target.logdensity_fn, metric, SHARP)

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
    target, metric, epsilon = PROBLEMS["banana-fisher"]
    z, v = start_of("banana-fisher")
    ends = []
    for count in (1, 2, 30, 60):
        step = INTEGRATORS[kind](target.logdensity_fn, metric, solvers.fixed_point(num_iterations=count))
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
    target, metric, epsilon = PROBLEMS["banana-fisher"]
    z, v = start_of("banana-fisher")
    step = INTEGRATORS[kind](target.logdensity_fn, metric, solvers.newton())
    state, info = jax.jit(step)(integrators.init(target.logdensity_fn, metric, z, v), epsilon)
    assert info.converged
    assert info.num_iterations < 12
    np.testing.assert_allclose(
        stack(state), stack(program("banana-fisher", kind)(z, v, epsilon, 1)[0]), rtol=1e-10
    )


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


# --- Failure and rounding


@over_problems
@over_integrators
def test_absurd_steps_are_flagged(problem, kind):
    """Not converged, or an energy that rejects, or else a true solution: one that can be retraced. In float32, with
    the solver as it comes, from several momenta, so that none slips through."""
    run, hamiltonian = program(problem, kind, is_sharp=False), energy(problem)
    z, v = start_of(problem, "float32")
    for epsilon in (30.0, 1e4, 1e12):
        for scale in (1.0, -2.5, 0.3):
            start = z, scale * v
            end, info = run(*start, epsilon, 3)
            change = float(hamiltonian(end.position, end.momentum) - hamiltonian(*start))
            if not bool(info.converged) or not np.isfinite(change) or change > 15:
                continue
            back, back_info = run(end.position, end.momentum, -epsilon, 3)
            assert back_info.converged, (epsilon, scale, change)
            np.testing.assert_allclose(stack(back), stack(start), atol=1e-2)


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


@over_problems
@over_integrators
def test_float32(problem, kind):
    """It stays in float32, converges, ends where float64 does, and comes back, to what rounding leaves."""
    run, epsilon = program(problem, kind, is_sharp=False), PROBLEMS[problem][2]
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
