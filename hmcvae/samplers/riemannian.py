"""Riemannian manifold Hamiltonian Monte Carlo: `hmc` with a metric that depends on the position."""

from functools import partial
from typing import Any

from hmcvae import integrators, solvers
from hmcvae.samplers.base import SamplingAlgorithm
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.types import LogDensityFn


def rmhmc(
    logdensity_fn: LogDensityFn,
    step_size: Any,
    num_integration_steps: Any,
    metric: Any,
    *,
    solver: Any = solvers.DEFAULT,
    check_reversibility: bool | None = None,
    reversibility_tolerance: Any = None,
    divergence_threshold: Any = 1000.0,
) -> SamplingAlgorithm:
    """Riemannian manifold HMC (Girolami & Calderhead 2011, section 5) by the generalized leapfrog.

    v ~ N(0, G(z)), L steps of `integrators.generalized_leapfrog`, accept by H = -log p + ½ log |G| + ½ vᵀ G⁻¹ v.
    A transition with a solve that failed is rejected, and counted apart from energy divergences and from
    reversibility failures: see `HMCInfo`. For another integrator pass it to `hmc`, for instance
    `hmc(…, metric, integrator=partial(integrators.implicit_midpoint, solver=…))`.

    Args:
        logdensity_fn, step_size, num_integration_steps, divergence_threshold: see `hmc`.
        metric: `metrics.fisher`, `softabs`, `monge`, `from_tensor`; of the ravelled position.
        solver: of the implicit equations, see `hmcvae.solvers`.
        check_reversibility: take each step back as well, and reject where that misses by more than
            reversibility_tolerance, or cannot be solved; see `hmc`. None is True here. It costs the solves again, and
            nothing of the metric. Without it a trajectory whose solves succeed one way and fail the other is accepted
            one way only: where one solve in a hundred fails, expectations are off by some per cent. Switch it off only
            where none does.

    Raises:
        ValueError: see `hmc`; `init` also for a metric that is not finite, symmetric and positive definite at the
            position.
    """
    return hmc(
        logdensity_fn,
        step_size,
        num_integration_steps,
        metric,
        integrator=partial(integrators.generalized_leapfrog, solver=solver),
        check_reversibility=check_reversibility,
        reversibility_tolerance=reversibility_tolerance,
        divergence_threshold=divergence_threshold,
    )
