"""What a solver is, and what it reports."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hmcvae._numerics import max_abs
from hmcvae.types import ArrayLike, Vector

MapFn = Callable[[Vector], Vector]


class SolverInfo(NamedTuple):
    """Outcome of the implicit solves of one step, or of a whole trajectory.

    converged: whether every solve reached its tolerance (all over the steps); False wherever a number is not finite.
    num_iterations: evaluations of the equations' right-hand sides (sum over the steps); a Newton iteration is one.
    residual: largest last correction, relative to the scale of what was solved for (max over the steps).

    Explicit integrators solve nothing: they report converged, 0 iterations, residual 0.
    """

    converged: Bool[Array, ""]
    num_iterations: Int[Array, ""]
    residual: Float[Array, ""]


@runtime_checkable
class Solver(Protocol):
    """Solves x = map_fn(x) from `start`, to a tolerance relative to `scale` and not below `floor`; both are numbers or
    one per coordinate."""

    def __call__(
        self, map_fn: MapFn, start: Vector, scale: ArrayLike = 1.0, floor: ArrayLike = 0.0
    ) -> tuple[Vector, SolverInfo]: ...


def exact_info(dtype: jnp.dtype) -> SolverInfo:
    """The report of a step that has no implicit solve."""
    return SolverInfo(jnp.asarray(True), jnp.asarray(0, jnp.int32), jnp.zeros((), dtype))


def combine_info(a: SolverInfo, b: SolverInfo) -> SolverInfo:
    """The report of two steps taken one after the other."""
    return SolverInfo(
        a.converged & b.converged,
        a.num_iterations + b.num_iterations,
        jnp.maximum(a.residual, b.residual),  # entry by entry: keeps NaN, unlike the reduction
    )


def collect_info(infos: SolverInfo) -> SolverInfo:
    """The report of steps that are stacked along a leading axis."""
    return SolverInfo(
        infos.converged.all(),
        infos.num_iterations.sum(dtype=infos.num_iterations.dtype),  # not widened to int64
        max_abs(infos.residual),
    )
