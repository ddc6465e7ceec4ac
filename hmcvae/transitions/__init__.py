"""Transitions for the Markov-chain bound: a move of y, with the log densities of going there and of coming back.

A transition t draws auxiliary noise u ~ q_t(u | x, y_{t-1}) and maps (y_{t-1}, u) to (y_t, u') by an invertible map of
unit volume; r_t(u' | x, y_t) is the model of coming back. Its contribution to the bound is

    log_reverse - log_forward = log r_t(u' | x, y_t) - log q_t(u | x, y_{t-1}).

For a plain Markov kernel, the move of Salimans, Kingma & Welling (2015, eq. 5), u is y_t itself and u' is y_{t-1}.
y are the coordinates of the bound's posterior, by default z itself.
"""

from hmcvae.transitions.base import (
    ConditionalGaussian,
    LearnedMetric,
    Target,
    Transition,
    TransitionInfo,
    as_conditional,
    standard_normal,
    step_size,
)
from hmcvae.transitions.gaussian import gaussian_kernel
from hmcvae.transitions.hierarchical import MassModel, hierarchical, learned_hierarchical_metric
from hmcvae.transitions.leapfrog import hamiltonian
from hmcvae.transitions.position_dependent import learned_decoder_metric, riemannian
from hmcvae.transitions.underdamped import persistence_of, underdamped

__all__ = [
    "ConditionalGaussian",
    "LearnedMetric",
    "MassModel",
    "Target",
    "Transition",
    "TransitionInfo",
    "as_conditional",
    "gaussian_kernel",
    "hamiltonian",
    "hierarchical",
    "learned_decoder_metric",
    "learned_hierarchical_metric",
    "persistence_of",
    "riemannian",
    "standard_normal",
    "step_size",
    "underdamped",
]
