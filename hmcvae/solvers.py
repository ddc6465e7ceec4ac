"""What a solve inside an integrator step reports."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class SolverInfo(NamedTuple):
    """Outcome of the implicit solves of one step, or of a whole trajectory.

    converged: whether every solve reached its tolerance (all over the steps).
    num_iterations: iterations spent (sum over the steps).
    residual: largest remaining residual (max over the steps).

    Explicit integrators solve nothing: they report converged, 0 iterations, residual 0.
    """

    converged: Bool[Array, ""]
    num_iterations: Int[Array, ""]
    residual: Float[Array, ""]


def exact_info(dtype: jnp.dtype) -> SolverInfo:
    """The report of a step that has no implicit solve."""
    return SolverInfo(jnp.asarray(True), jnp.asarray(0, jnp.int32), jnp.zeros((), dtype))


def combine_info(a: SolverInfo, b: SolverInfo) -> SolverInfo:
    """The report of two steps taken one after the other."""
    return SolverInfo(
        a.converged & b.converged,
        a.num_iterations + b.num_iterations,
        jnp.maximum(a.residual, b.residual),
    )
