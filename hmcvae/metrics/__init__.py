"""Metrics z ↦ G(z): the mass matrix of the kinetic energy, and all that is asked of it.

The kinetic energy is ½ vᵀ G(z)⁻¹ v + ½ log |G(z)| with v ~ N(0, G(z)) (Girolami & Calderhead 2011, eq. 12;
Neal 2011, section 4.1 for constant masses). All metrics are pytrees of arrays.

Euclidean, G does not depend on z: `identity`, `diagonal`, `dense`, `low_rank`.
Riemannian: `from_tensor` (any function), `fisher`, `softabs`, `monge`; and `hierarchical`, whose masses of one block of
coordinates depend on another block: `integrators.hierarchical_leapfrog` is explicit there. `banded` is of both kinds:
it takes the bands of G, or a function of the position that returns them, and never builds a matrix.
"""

from hmcvae.metrics.banded import Banded, BandedFactor, ConstantBanded, banded
from hmcvae.metrics.euclidean import (
    Dense,
    DenseFactor,
    Diagonal,
    DiagonalFactor,
    GaussianMomentum,
    Geometry,
    Identity,
    IdentityFactor,
    dense,
    diagonal,
    identity,
)
from hmcvae.metrics.hessian import softabs
from hmcvae.metrics.hierarchical import Hierarchical, LogLinear, block_numbers, hierarchical, log_linear
from hmcvae.metrics.information import fisher
from hmcvae.metrics.low_rank import LowRank, LowRankFactor, low_rank
from hmcvae.metrics.riemannian import check_is_metric, check_metric, from_tensor, monge

__all__ = [
    "Banded",
    "BandedFactor",
    "ConstantBanded",
    "Dense",
    "DenseFactor",
    "Diagonal",
    "DiagonalFactor",
    "GaussianMomentum",
    "Geometry",
    "Hierarchical",
    "Identity",
    "IdentityFactor",
    "LogLinear",
    "LowRank",
    "LowRankFactor",
    "banded",
    "block_numbers",
    "check_is_metric",
    "check_metric",
    "dense",
    "diagonal",
    "fisher",
    "from_tensor",
    "hierarchical",
    "identity",
    "log_linear",
    "low_rank",
    "monge",
    "softabs",
]
