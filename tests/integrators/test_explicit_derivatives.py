"""What a state of the leapfrog holds and what a step costs, and the derivatives through a trajectory."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae import integrators, metrics
from hmcvae.integrators import IntegratorState
from hmcvae.solvers import exact_info
from tests.support import targets
from tests.support.cases import SINGLE, Case, make_metric, over

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
