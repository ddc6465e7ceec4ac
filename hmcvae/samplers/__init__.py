"""Samplers: Markov kernels on any log density, their warm-up, many chains, and what to make of the draws.

`hmc`, `rmhmc`, `nuts` and `mmala` are pairs of pure functions by BlackJAX's conventions; `sample` runs many chains of
one, with warm-up (`adaptation`), from starts that `find_start` may have moved uphill; `diagnose` and `to_arviz` read
the draws.
"""

from hmcvae.samplers import adaptation
from hmcvae.samplers.arviz_data import to_arviz
from hmcvae.samplers.base import HMCState, SamplingAlgorithm
from hmcvae.samplers.diagnostics import diagnose
from hmcvae.samplers.draws import Adaptation, Samples, SamplingWarning, TransitionCounts, concatenate
from hmcvae.samplers.hamiltonian import HMCInfo, hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.nuts import NUTSInfo, nuts
from hmcvae.samplers.riemannian import rmhmc
from hmcvae.samplers.run_folder import load_samples
from hmcvae.samplers.sampling import sample
from hmcvae.samplers.starts import StartInfo, find_start

__all__ = [
    "Adaptation",
    "HMCInfo",
    "HMCState",
    "NUTSInfo",
    "Samples",
    "SamplingAlgorithm",
    "SamplingWarning",
    "StartInfo",
    "TransitionCounts",
    "adaptation",
    "concatenate",
    "diagnose",
    "find_start",
    "hmc",
    "load_samples",
    "mmala",
    "nuts",
    "rmhmc",
    "sample",
    "to_arviz",
    "uniform_steps",
]
