"""Hamiltonian dynamics as pure JAX functions, and variational auto-encoders with MCMC inside the bound.

`import hmcvae` needs jax and jaxtyping alone. What leans on other libraries is imported by name:
`hmcvae.networks` (Flax), `hmcvae.training` (Optax, Orbax), `hmcvae.data`; ArviZ is imported by `diagnose` and
`to_arviz` when they are called, tqdm by `sample(…, progress=True)`.
"""

from hmcvae import (
    adaptation,
    annealing,
    bounds,
    charts,
    diagnostics,
    evaluation,
    geodesics,
    integrators,
    likelihoods,
    metrics,
    samples,
    sampling,
    solvers,
    transitions,
    types,
)
from hmcvae.diagnostics import diagnose, to_arviz
from hmcvae.hmc import hmc, uniform_steps
from hmcvae.mmala import mmala
from hmcvae.rmhmc import rmhmc
from hmcvae.samples import SamplingWarning, concatenate
from hmcvae.sampling import sample
from hmcvae.vae import VAE

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "SamplingWarning",
    "adaptation",
    "annealing",
    "bounds",
    "charts",
    "concatenate",
    "diagnose",
    "diagnostics",
    "evaluation",
    "geodesics",
    "hmc",
    "integrators",
    "likelihoods",
    "metrics",
    "mmala",
    "rmhmc",
    "sample",
    "samples",
    "sampling",
    "solvers",
    "to_arviz",
    "transitions",
    "types",
    "uniform_steps",
]
