"""Hamiltonian dynamics as pure JAX functions, and variational auto-encoders with MCMC inside the bound.

`import hmcvae` needs jax and jaxtyping alone. What leans on other libraries is imported by name:
`hmcvae.networks` (Flax), `hmcvae.training` (Optax, Orbax), `hmcvae.data`; ArviZ is imported by `diagnose` and
`to_arviz` when they are called, NumPyro by `transforms` and `interop`, tqdm by `sample(…, progress=True)`, Flax and
Orbax by `load`.
"""

from hmcvae import (
    annealing,
    bounds,
    evaluation,
    geodesics,
    integrators,
    interop,
    likelihoods,
    metrics,
    posteriors,
    priors,
    samplers,
    solvers,
    transforms,
    transitions,
    types,
)
from hmcvae._threads import spare_threads
from hmcvae.samplers import (
    SamplingWarning,
    concatenate,
    diagnose,
    hmc,
    load_samples,
    mmala,
    nuts,
    rmhmc,
    sample,
    to_arviz,
    uniform_steps,
)
from hmcvae.saved import TrainedModel, load
from hmcvae.vae import VAE

__version__ = "0.1.0"

spare_threads()  # importing computes nothing, so it is in time unless JAX was at work before

__all__ = [
    "VAE",
    "SamplingWarning",
    "TrainedModel",
    "annealing",
    "bounds",
    "concatenate",
    "diagnose",
    "evaluation",
    "geodesics",
    "hmc",
    "integrators",
    "interop",
    "likelihoods",
    "load",
    "load_samples",
    "metrics",
    "mmala",
    "nuts",
    "posteriors",
    "priors",
    "rmhmc",
    "sample",
    "samplers",
    "solvers",
    "to_arviz",
    "transforms",
    "transitions",
    "types",
    "uniform_steps",
]
