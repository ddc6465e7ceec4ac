"""The necessary parts of a Riemannian training step, as a contestant of `experiments.bench_bounds`.

L steps of the generalized leapfrog cannot do without, at each of their L + 1 positions, one metric, one Cholesky
factor, one gradient of log |G| and one of log p, all of it differentiated for training. `explicit_leapfrog` does this
and no more: no implicit equation, no derivative of vᵀ G⁻¹ v. What `bounds.rhvi` costs above it is its solves and
forces.
"""

from typing import Any

import jax

from hmcvae.integrators import IntegratorState, Step
from hmcvae.solvers import Solver, SolverInfo, exact_info
from hmcvae.types import LogDensityFn, StepSize, Vector


def explicit_leapfrog(logdensity_fn: LogDensityFn, metric: Any, solver: Solver) -> Step:
    """A leapfrog that takes the metric of each position for constant:

        v½ = v + ε/2 s(z),   z₁ = z + ε G(z)⁻¹ v½,   v₁ = v½ + ε/2 s(z₁),   s = ∇ log p - ½ ∂_z log |G|

    It preserves no volume, so a bound with it bounds nothing: it is a cost. Nothing in it is dead code: s moves the
    momentum, whose end the reverse model's density reads; G⁻¹ makes the move; log |G| stands in the weight at both
    ends. So the gradient of the weight goes back through each of them.

    With M multiplications of one pass of the decoder, d latents and N outputs, a position of one example takes

        4 d M     for the d derivatives that make G, and the way back through them that ∂ log |G| takes
        6 d² N    for Jᵀ diag(w) J, the leverages, and G⁻¹ J
        4 M       for log p and its gradient

    floating-point operations (a multiplication and an addition count as two), and twice as much backward.
    For the nets of the benchmark XLA counts 418 million an example where `expected_flops` and a Fisher Gaussian give
    356 + 47; the rest are the passes that carry ∂ log |G| down to z, and what is not a product.
    """
    del solver

    def step(state: IntegratorState, step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        z, epsilon = state.position, step_size
        v = state.momentum + 0.5 * epsilon * _static(state.logdensity_grad, state.geometry)
        z = z + epsilon * state.geometry.factor.solve(v)
        logdensity, gradient = jax.value_and_grad(logdensity_fn)(z)
        geometry = metric.carry(z)
        v = v + 0.5 * epsilon * _static(gradient, geometry)
        return IntegratorState(z, v, logdensity, gradient, geometry), exact_info(z.dtype)

    return Step(lambda state, _: state, step, step)


def _static(gradient: Vector, geometry: Any) -> Vector:
    return gradient - 0.5 * geometry.log_det_grad


def expected_flops(num_multiplications: int, d: int, num_outputs: int, num_steps: int) -> float:
    """Operations of one example's gradient on paper, for the positions alone: without the encoder, the posterior and
    what is not a product. num_multiplications: M, of one pass of the decoder."""
    wide = 2 * (2 * d * num_multiplications)
    small = 3 * (2 * d**2 * num_outputs)
    density = 2 * 2 * num_multiplications
    return 3.0 * (num_steps + 1) * (wide + small + density)
