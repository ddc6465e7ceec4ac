"""Where chains start: nearer to where the density is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from hmcvae._checks import check_count, check_function
from hmcvae._numerics import all_finite
from hmcvae.samplers.base import as_chains, flatten, ravel
from hmcvae.samplers.keeping import kept
from hmcvae.types import LogDensityFn, PyTree, Scalar, Vector


class StartInfo(NamedTuple):
    """Of each chain.

    logdensity: log p where it ended.  gradient_norm: the largest entry of its gradient there.
    num_steps: L-BFGS steps that were taken.
    has_failed: the start, or a step, came to a log density or gradient that is not finite, or no step came higher
        though the gradient is not 0. The chain then stands at the best finite point that was seen, or where it was.
    """

    logdensity: Scalar
    gradient_norm: Scalar
    num_steps: Int[Array, ""]
    has_failed: Bool[Array, ""]


class _Climb(NamedTuple):
    position: Vector
    memory: Any
    best: Vector
    best_logdensity: Scalar
    best_norm: Scalar
    count: Int[Array, ""]
    has_failed: Bool[Array, ""]


def find_start(
    logdensity_fn: LogDensityFn, initial_positions: PyTree, *, num_steps: Any = 20
) -> tuple[PyTree, StartInfo]:
    """Move each chain's start uphill by a few L-BFGS steps (Liu & Nocedal 1989; `optax.lbfgs`, with its zoom line
    search): `sample(key, algorithm, find_start(logdensity_fn, starts)[0], …)`.

    For starts so far out that warm-up would spend itself on the way, or that overflow there. It is no part of the
    sampler: the draws are right from anywhere. The mode is not where the draws are: in d dimensions these lie √d
    standard deviations from it, and a density such as the funnel's has a mode without mass, or none. So take few steps,
    and note that chains which all climbed the same hill are not spread out as R̂ supposes.

    Args:
        logdensity_fn: position -> log p(position).
        initial_positions: pytree of positions with a leading chain axis.
        num_steps: at most; a chain stops before where its gradient is 0 or a step fails.

    Returns:
        (positions, `StartInfo` with a leading chain axis). What fails is flagged there and raises nothing.

    Raises:
        ValueError: for a function that is none, positions that are no float arrays with one leading axis, or a count
            below 1.
        ImportError: without optax.
    """
    check_function("logdensity_fn", logdensity_fn, "position -> log p(position)")
    num_steps = check_count("num_steps", num_steps, 1)
    positions = as_chains(initial_positions)
    return kept(logdensity_fn, "find_start", _program)(positions, np.int32(num_steps))


def _program(logdensity_fn: Callable) -> Callable:
    try:
        import optax
    except ImportError as error:
        raise ImportError("find_start needs optax: pip install optax") from error
    optimiser = optax.lbfgs()

    def climb(position: PyTree, num_steps: Any) -> tuple[PyTree, StartInfo]:
        z, unravel = ravel(position)
        flat = flatten(logdensity_fn, unravel)

        def loss(z: Vector) -> Scalar:
            return -flat(z)

        def look(z: Vector) -> tuple[Scalar, Vector, Bool[Array, ""]]:
            value, gradient = jax.value_and_grad(loss)(z)
            return value, gradient, all_finite(value, gradient, z)

        def step(c: _Climb) -> _Climb:
            value, gradient, _ = look(c.position)
            updates, memory = optimiser.update(
                gradient, c.memory, c.position, value=value, grad=gradient, value_fn=loss
            )
            new: Any = optax.apply_updates(c.position, updates)
            value, gradient, is_finite = look(new)
            is_better = is_finite & (-value > c.best_logdensity)
            return _Climb(
                new,
                memory,
                jnp.where(is_better, new, c.best),
                jnp.where(is_better, -value, c.best_logdensity),
                jnp.where(is_better, jnp.max(jnp.abs(gradient)), c.best_norm),
                c.count + 1,
                ~is_finite,
            )

        value, gradient, is_finite = look(z)
        norm = jnp.max(jnp.abs(gradient))
        zero = jnp.zeros((), jnp.int32)
        start = _Climb(z, optimiser.init(z), z, -value, norm, zero, ~is_finite)
        end = lax.while_loop(lambda c: (c.count < num_steps) & ~c.has_failed & (c.best_norm > 0), step, start)
        is_stuck = (end.best_logdensity <= -value) & (norm > 0)
        info = StartInfo(end.best_logdensity, end.best_norm, end.count, end.has_failed | is_stuck)
        return unravel(end.best), info

    return jax.jit(jax.vmap(climb, (0, None)))
