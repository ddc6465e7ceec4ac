"""Array aliases and protocols shared by every module; nothing here computes.

Notation, used in all docstrings: d is the latent dimension, z a position, v a momentum,
U(z) = -log p(z) the potential, G(z) the metric (mass matrix) with G = L Lᵀ.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key, Real, UInt32
from jaxtyping import ArrayLike as ArrayLike

# Old-style uint32 keys and typed keys are both taken everywhere.
PRNGKey = Key[Array, ""] | UInt32[Array, " 2"]

Vector = Float[Array, " d"]
Scalar = Float[Array, ""]
# A step size may be one number or one number per coordinate.
StepSize = Real[ArrayLike, ""] | Float[Array, " d"]
PyTree = Any

LogDensityFn = Callable[[Any], Any]


@runtime_checkable
class Factor(Protocol):
    """A factorisation G = L Lᵀ of the metric at one position. `b` may be [d] or [d, k]."""

    def solve(self, b: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        """G⁻¹ b."""
        ...

    def sqrt_matvec(self, e: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        """L e: turns white noise into momenta."""
        ...

    def sqrt_solve(self, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        """L⁻¹ v: whitens momenta."""
        ...

    @property
    def log_det(self) -> Scalar:
        """log |G|."""
        ...


@runtime_checkable
class Metric(Protocol):
    """What integrators, kernels and bounds ask of a metric z ↦ G(z), symmetric positive definite."""

    @property
    def is_position_dependent(self) -> bool:
        """Whether G changes with z; explicit integrators refuse such a metric."""
        ...

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        """G(z)."""
        ...

    def matvec(self, z: Vector, v: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
        """G(z) v."""
        ...

    def quadratic_form(self, z: Vector, V: Float[Array, "d ..."]) -> Scalar:
        """Σ_j V_jᵀ G(z) V_j."""
        ...

    def factor(self, z: Vector) -> Factor:
        """The factorisation of G(z)."""
        ...

    def carry(self, z: Vector) -> Any:
        """What states keep of the metric at z, so that it is built there once; () for a Euclidean metric."""
        ...

    def carried_factor(self, z: Vector, carried: Any) -> Factor:
        """The factor of G(z), from `carry(z)`."""
        ...

    def sample_momentum(self, rng_key: PRNGKey, z: Vector) -> Vector:
        """v ~ N(0, G(z))."""
        ...

    def log_prob_momentum(self, v: Vector, z: Vector) -> Scalar:
        """log N(v; 0, G(z))."""
        ...

    def kinetic_energy(self, v: Vector, z: Vector) -> Scalar:
        """½ vᵀ G(z)⁻¹ v + ½ log |G(z)|."""
        ...
