"""Riemannian kernels: targets that bend, and metrics for them."""

import jax.numpy as jnp

from hmcvae import integrators, metrics
from hmcvae.samplers.hamiltonian import hmc
from tests.support.metrics import bernoulli_weight
from tests.support.problems import COVARIATES, bend

BENT = metrics.fisher(bend, jnp.ones_like, 0.2)
REGRESSION = metrics.fisher(lambda z: jnp.asarray(COVARIATES, z.dtype) @ z, bernoulli_weight, 0.25)


def midpoint(logdensity_fn, step_size, num_integration_steps, metric, **kwargs):
    return hmc(
        logdensity_fn,
        step_size,
        num_integration_steps,
        metric,
        integrator=integrators.implicit_midpoint,
        **kwargs,
    )
