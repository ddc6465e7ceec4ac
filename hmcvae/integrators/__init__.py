"""Integrators of Hamilton's equations: build a step, then integrate it.

    H(z, v) = U(z) + ½ log |G(z)| + ½ vᵀ G(z)⁻¹ v,   dz/dt = ∂H/∂v,   dv/dt = -∂H/∂z,   U(z) = -log p(z)

Explicit, for Euclidean metrics: `leapfrog`, `mclachlan`, `yoshida`; for hierarchical ones: `hierarchical_leapfrog`.
Implicit, for all metrics that depend on the position: `generalized_leapfrog`, `implicit_midpoint`.

A step maps a state and a step size to the next state and a report of its implicit solves. Everything is pure:
under `jax.jit` a trajectory is one loop on the device, and `jax.vmap` runs many side by side.
"""

from hmcvae.integrators.base import (
    IntegratorState,
    Retrace,
    Step,
    StepFn,
    energy,
    init,
    integrate,
    integrate_retraced,
)
from hmcvae.integrators.explicit import leapfrog, mclachlan, yoshida
from hmcvae.integrators.hierarchical import hierarchical_leapfrog
from hmcvae.integrators.implicit import generalized_leapfrog
from hmcvae.integrators.midpoint import implicit_midpoint

__all__ = [
    "IntegratorState",
    "Retrace",
    "Step",
    "StepFn",
    "energy",
    "generalized_leapfrog",
    "hierarchical_leapfrog",
    "implicit_midpoint",
    "init",
    "integrate",
    "integrate_retraced",
    "leapfrog",
    "mclachlan",
    "yoshida",
]
