"""The floor: a step inside a trajectory against the sum of its parts, each alone in a loop of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from experiments.benchmarks.riemannian.chains import Chains, unchecked_rmhmc
from experiments.benchmarks.riemannian.config import EPSILON, NUM_STEPS, Config
from experiments.benchmarks.riemannian.density import Regression
from experiments.benchmarks.riemannian.rows import FloorRow
from experiments.support.timing import in_turns, seconds_per_round
from hmcvae import integrators

Loop = tuple[Callable[[Any], Any], Any]  # (a map of an array onto itself, where it starts), for one chain


def floor_row(model: Regression, num_chains: int, dtype: str, config: Config) -> FloorRow:
    """Microseconds of a step of all chains, of its parts, and their sum."""
    logdensity_fn, metric = model.build(dtype)
    step = integrators.generalized_leapfrog(logdensity_fn, metric)
    states = bulk_states(model, logdensity_fn, metric, num_chains, dtype)
    micro = microseconds(step, states, parts_of_step(logdensity_fn, metric), config)
    momentum, position = count_iterations(step, states)
    iterations = momentum * micro["momentum_iteration"] + position * micro["position_iteration"]
    floor = metric_microseconds(micro) + micro["gradient"] + iterations
    return FloorRow(
        chains=num_chains,
        dtype=dtype,
        microseconds=micro,
        momentum_iterations=momentum,
        position_iterations=position,
        iterations_microseconds=iterations,
        floor=floor,
        over_floor=micro["step"] / floor,
    )


def metric_microseconds(micro: dict[str, float]) -> float:
    """Of G, its Cholesky factor and ∇ log |G|: the three apart, or sharing their work, whichever is less."""
    return min(micro["metric"] + micro["cholesky"] + micro["log_det_grad"], micro["geometry"])


def pieces(row: FloorRow) -> dict[str, float]:
    """What the floor is the sum of, as fractions of it."""
    micro = row.microseconds
    found = {
        "G, Cholesky and ∇ log |G|": metric_microseconds(micro),
        "∇U": micro["gradient"],
        "momentum iterations": row.momentum_iterations * micro["momentum_iteration"],
        "position iterations": row.position_iterations * micro["position_iteration"],
    }
    return {name: value / row.floor for name, value in found.items()}


def bulk_states(model: Regression, logdensity_fn: Callable, metric: Any, num_chains: int, dtype: str) -> Any:
    """States with fresh momenta, after a few transitions from the mode."""
    chains = Chains(unchecked_rmhmc(logdensity_fn, metric), model.mode, num_chains, dtype)
    chains.warm_up(0.0)
    positions = chains().position

    def begin(rng_key: Any, position: Any) -> Any:
        start = integrators.init(logdensity_fn, metric, position, jnp.zeros_like(position))
        # From the factor at hand. With a second batch of Cholesky factors beside the first, the program was seen to
        # hang on two cores.
        noise = jax.random.normal(rng_key, position.shape, position.dtype)
        return start._replace(momentum=start.geometry.factor.sqrt_matvec(noise))

    keys = jax.random.split(jax.random.key(1), num_chains)
    return jax.jit(jax.vmap(begin))(keys, positions)


def microseconds(
    step: Any, states: Any, parts: dict[str, Callable[[Any], Loop]], config: Config
) -> dict[str, float]:
    """Of a step and of each part, for all chains, taken in turns."""
    epsilon = jnp.asarray(EPSILON, states.position.dtype)

    def trajectory(state: Any) -> Loop:
        return lambda state: integrators.integrate(step, state, epsilon, NUM_STEPS)[0], state

    runs = {name: repeated(maker, states) for name, maker in ({"step": trajectory} | parts).items()}
    seconds = config.call_seconds / 3  # of a call
    counts = {
        name: max(1, round(seconds / seconds_per_round(run, seconds / 4))) for name, run in runs.items()
    }
    taken = in_turns({name: partial(run, counts[name]) for name, run in runs.items()}, config.rounds)
    micro = {name: 1e6 * float(np.median(value)) / counts[name] for name, value in taken.items()}
    return micro | {"step": micro["step"] / NUM_STEPS}


def repeated(make_loop: Callable[[Any], Loop], states: Any) -> Callable[[int], Any]:
    """n -> the end of n rounds of a loop, for all chains."""

    def one(state: Any, count: Any) -> Any:
        body, start = make_loop(state)
        return lax.fori_loop(0, count, lambda _, x: body(x), start)

    run = jax.jit(jax.vmap(one, (0, None)))
    return lambda count: run(states, count)


def count_iterations(step: Any, states: Any) -> tuple[float, float]:
    """Iterations that a step makes for (momentum, position): all chains make those of the slowest."""
    epsilon = jnp.asarray(EPSILON, states.position.dtype)

    def one(state: Any) -> tuple[Any, Any]:
        def body(half: Any, _: Any) -> tuple[Any, tuple[Any, Any]]:
            new, info = step.advance(half, epsilon)
            before = half.info.num_iterations
            return new, (before, info.num_iterations - before)

        return lax.scan(body, step.begin(state, epsilon), None, NUM_STEPS)[1]

    counts = jax.jit(jax.vmap(one))(states)
    momentum, position = (float(np.mean(np.max(np.asarray(count), axis=0))) for count in counts)
    return momentum, position


def chained(function: Callable) -> Callable[[Any], Any]:
    """z ↦ z + a vanishing part of all that `function(z)` returns, so that nothing is hoisted, pruned or overlapped."""

    def body(z: Any) -> Any:
        # The barrier keeps the sum below from being moved into the computation of what is summed.
        parts = lax.optimization_barrier(jax.tree.leaves(function(z)))
        return z + 1e-12 * sum(jnp.sum(part.reshape(-1, z.shape[0]), axis=0) for part in parts)

    return body


def parts_of_step(logdensity_fn: Callable, metric: Any) -> dict[str, Callable[[Any], Loop]]:
    """state -> Loop, by the name of the part."""

    def shifted(fixed: Any, z: Any) -> Any:
        return fixed + 1e-12 * z[0]  # depends on the loop's variable, but not in value

    def cholesky(state: Any) -> Loop:
        G = metric.tensor(state.position)
        return chained(lambda z: jnp.linalg.cholesky(shifted(G, z), symmetrize_input=False)), state.position

    def log_det_grad(state: Any) -> Loop:
        lower, eye = state.geometry.factor.lower, jnp.eye(state.position.shape[0], dtype=state.position.dtype)

        def gradient(z: Any) -> Any:
            columns = solve_triangular(shifted(lower, z), eye, lower=True).T
            return jax.grad(metric.quadratic_form)(z, columns)

        return chained(gradient), state.position

    def geometry(state: Any) -> Loop:
        def build(z: Any) -> Any:
            found = metric.geometry(z)[0]
            return found.factor.lower, found.factor.inverse, found.log_det_grad

        return chained(build), state.position

    def momentum_iteration(state: Any) -> Loop:
        force, factor, base = metric.geometry(state.position)[1], state.geometry.factor, state.momentum
        return lambda v: base + 0.25 * EPSILON * force(factor.solve(v)), state.momentum

    def position_iteration(state: Any) -> Loop:
        factor, z, v = state.geometry.factor, state.position, state.momentum
        u = factor.solve(v)
        return lambda w: w + factor.solve(v - metric.matvec(z + 0.5 * EPSILON * (u + w), w)), u

    return {
        "metric": lambda state: (chained(metric.tensor), state.position),
        "cholesky": cholesky,
        "log_det_grad": log_det_grad,
        "geometry": geometry,
        "gradient": lambda state: (chained(jax.grad(logdensity_fn)), state.position),
        "momentum_iteration": momentum_iteration,
        "position_iteration": position_iteration,
    }
