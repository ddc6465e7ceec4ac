"""The SoftAbs metric: the Hessian with its eigenvalues λ made positive, λ coth(αλ) (Betancourt 2013, eq. 11).

With a = αλ the function of a matrix is F(H) = V diag(g(a)) Vᵀ / α, g(a) = a coth a, and its derivative in a direction E

    dF = V (Φ ∘ Vᵀ E V) Vᵀ,   Φ_ij = (g(a_i) - g(a_j)) / (a_i - a_j),   Φ_ij = g'(a_i) where a_i = a_j

(Daleckii & Krein 1965). JAX's own derivative of `eigh` divides by a_i - a_j and is NaN at equal eigenvalues, which
symmetric targets such as Neal's funnel have everywhere.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from hmcvae._checks import check_positive
from hmcvae.metrics.euclidean import Leaf
from hmcvae.metrics.riemannian import RiemannianMetric
from hmcvae.types import LogDensityFn, Vector

# Below this distance of the arguments a divided difference loses digits, and the derivative's mean is taken instead.
NEAR = 0.5
SMALL = 0.35


def softabs(logdensity_fn: LogDensityFn, softness: Any = None, scale: Any = None) -> "SoftAbs":
    """G(z) = V diag(λ coth(αλ)) Vᵀ for the Hessian V diag(λ) Vᵀ of -log p at z.

    Eigenvalues |λ| ≫ 1/α keep their size and lose their sign; those near 0 become 1/α, which bounds the metric from
    below. Each position costs d Hessian-vector products and one eigendecomposition. First derivatives are exact and
    finite for every spectrum; second ones (derivatives through an integrator) too.

    Args:
        logdensity_fn: z [d] -> log p(z), three times differentiable by JAX.
        softness: α > 0, in the inverse units of the Hessian; None: min(10⁶, 10⁻⁴ / eps) by the position's dtype, which
            is 10⁶ in double (Betancourt's) and 839 in single precision. The Hessian and the metric are known to some
            eps |H|, |H| the largest |λ|, and a flat direction's 1/α must stand out from it: log |G| is then off by
            about eps α |H| for each of them, below 0.01 nats up to |H| = 100 (single) and 10⁷ (double). Where
            eps α |H| comes near 1 the metric need not be definite; give a steeper Hessian α ≈ 0.01 / (eps |H|).
            A softer one is chosen in units of the posterior's standard deviations, by `scale`: a Gaussian's curvature
            is 1 there, α = 3 leaves it (coth 3 = 1.005), and no direction counts for less than 1/3. Expect little of
            it: `experiments.bench_softness` finds failed solves at every softness, and none whose draws are better
            beyond the noise.
        scale: s, the typical size of each coordinate, [d] or a number for all, such as the standard deviations of a
            short run of `nuts`: the eigenvalues are then those of the
            Hessian in these units, S H S with S = diag(s), and G = S⁻¹ (S H S)coth(α S H S) S⁻¹, so that α is a number
            without units and the metric that of the same problem in any others. None: 1.

    Raises:
        ValueError: unless softness and scale are None, or finite and positive; when G is built, for a scale of another
            dimension.
    """
    softness = check_positive("softness", softness, optional=True)
    scale = check_positive("scale", scale, optional=True, is_array=True)
    softness, scale = (None if value is None else jnp.asarray(value, float) for value in (softness, scale))
    if scale is not None and scale.ndim > 1:
        raise ValueError(f"scale must be a number or have shape [d], got shape {tuple(scale.shape)}")
    return SoftAbs(logdensity_fn, softness, scale)


def default_softness(dtype: Any) -> float:
    """α of `softabs` where none is given."""
    return min(1e6, 1e-4 / float(jnp.finfo(dtype).eps))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SoftAbs(RiemannianMetric):
    """See `softabs`."""

    logdensity_fn: LogDensityFn = field(metadata={"static": True})
    softness: Leaf | None
    scale: Leaf | None = None

    def tensor(self, z: Vector) -> Float[Array, "d d"]:
        hessian = jax.hessian(self.logdensity_fn)(z)
        s = jnp.ones_like(z) if self.scale is None else self.scale.astype(z.dtype) * jnp.ones_like(z)
        # Rows and columns one after the other: their product may be beyond the dtype where the result is not.
        hessian = s[:, None] * hessian * s[None, :]
        # log p or -log p: the function is even.
        alpha = jnp.asarray(default_softness(z.dtype) if self.softness is None else self.softness, z.dtype)
        return matrix_function(alpha * 0.5 * (hessian + hessian.T)) / alpha / s[:, None] / s[None, :]


def soft_absolute(a: Array) -> Array:
    """g(a) = a coth a = |a| + 2|a| / (e^{2|a|} - 1)."""
    return jnp.abs(a) + _excess(jnp.abs(a))


def _excess(y: Array) -> Array:
    """g(y) - y = 2y / (e^{2y} - 1) for y ≥ 0: 1 at 0, and no overflow at any size."""
    is_zero = y == 0
    safe = jnp.where(is_zero, 1.0, y)
    return jnp.where(is_zero, 1.0, 2 * safe * jnp.exp(-2 * safe) / -jnp.expm1(-2 * safe))


def _series(coefficients: list[float], square: Array) -> Array:
    """Σ c_k square^k."""
    total = jnp.zeros_like(square)
    for coefficient in reversed(coefficients):
        total = total * square + coefficient
    return total


# a coth a = Σ B_2k 4^k a^2k / (2k)!, and its first two derivatives.
_BERNOULLI = [1, 1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510]
_G = [b * 4.0**k / float(np.prod(np.arange(1, 2 * k + 1))) for k, b in enumerate(_BERNOULLI)]
_DG = [2 * k * c for k, c in enumerate(_G)][1:]
_DDG = [(2 * k + 1) * c for k, c in enumerate(_DG)]


def slope(a: Array) -> Array:
    """g'(a) = coth a - a / sinh² a."""
    y = jnp.abs(a)
    safe = jnp.where(y < SMALL, 1.0, y)
    t = jnp.exp(-2 * safe)
    large = (1 + t) / (1 - t) - 4 * safe * t / (1 - t) ** 2
    return jnp.where(y < SMALL, a * _series(_DG, jnp.where(y < SMALL, a, 0.0) ** 2), jnp.sign(a) * large)


def curvature(a: Array) -> Array:
    """g''(a) = 2 (a coth a - 1) / sinh² a."""
    y = jnp.abs(a)
    safe = jnp.where(y < SMALL, 1.0, y)
    t = jnp.exp(-2 * safe)
    large = 8 * t / (1 - t) ** 2 * (safe * (1 + t) / (1 - t) - 1)
    return jnp.where(y < SMALL, _series(_DDG, jnp.where(y < SMALL, a, 0.0) ** 2), large)


# Six Gauss-Legendre nodes on [0, 1]; g' has its poles at ±iπ, so over a length of 1/2 they leave some 1e-15.
_NODES, _WEIGHTS = (array for array in np.polynomial.legendre.leggauss(6))
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


def divided_difference(a: Array, b: Array) -> Array:
    """Φ(a, b) = (g(a) - g(b)) / (a - b), and g'(a) at a = b, to a few roundings everywhere."""
    a, b = jnp.broadcast_arrays(a, b)
    distance = a - b
    is_near = jnp.abs(distance) < NEAR
    mean = sum(w * slope(b + t * distance) for t, w in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True))
    # The part |a| - |b| over a - b in a form that does not cancel: large arguments have nothing else.
    safe = jnp.where(is_near, 1.0, distance)
    same_sign = jnp.sign(a) * jnp.sign(b) > 0
    linear = jnp.where(same_sign, jnp.sign(a), (jnp.abs(a) - jnp.abs(b)) / safe)
    far = linear + (_excess(jnp.abs(a)) - _excess(jnp.abs(b))) / safe
    return jnp.where(is_near, jnp.asarray(mean), far)


# Nodes of Stroud's conical product rule on the triangle {s, t ≥ 0, s + t ≤ 1}.
_CONICAL = [
    ((1 - r) * s, r, ws * wr * (1 - r))
    for r, wr in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True)
    for s, ws in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True)
]


def second_divided_difference(a: Array, b: Array, c: Array) -> Array:
    """Φ(a, b, c) = (Φ(a, b) - Φ(b, c)) / (a - c) and its confluent limits, symmetric in its arguments.

    Arguments near each other: ∫∫ g''(a + s (b - a) + t (c - a)) ds dt over the triangle (Hermite-Genocchi). Otherwise
    the two farthest apart are those divided by.
    """
    a, b, c = jnp.broadcast_arrays(a, b, c)
    low, high = jnp.minimum(jnp.minimum(a, b), c), jnp.maximum(jnp.maximum(a, b), c)
    middle = jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
    is_near = high - low < NEAR
    near = sum(w * curvature(low + s * (middle - low) + t * (high - low)) for s, t, w in _CONICAL)
    safe = jnp.where(is_near, 1.0, high - low)
    far = (divided_difference(high, middle) - divided_difference(middle, low)) / safe
    return jnp.where(is_near, jnp.asarray(near), far)


@jax.custom_jvp
def matrix_function(A: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """F(A) = V diag(a coth a) Vᵀ of a symmetric A = V diag(a) Vᵀ; twice differentiable for every spectrum, in any order
    of forward and reverse. A third derivative raises NotImplementedError."""
    a, V = jnp.linalg.eigh(A, symmetrize_input=False)
    return (V * soft_absolute(a)[None, :]) @ V.T


@matrix_function.defjvp
def _matrix_function_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (A,), (E,) = primals, tangents
    a, V = jnp.linalg.eigh(lax.stop_gradient(A), symmetrize_input=False)
    return matrix_function(A), _derivative_p.bind(A, a, V, E)


# dF is a primitive of JAX's, because only a primitive that is linear in E can be transposed and still keep a derivative
# in A of its own: the transpose of a custom_jvp function forgets its rule and differentiates `eigh`.
_derivative_p = Primitive("softabs_derivative")


def _derivative(A: Array, a: Array, V: Array, E: Array) -> Array:
    """dF at A = V diag(a) Vᵀ in the direction E, [..., d, d]: V (Φ ∘ Vᵀ E V) Vᵀ."""
    del A
    Vt = jnp.swapaxes(V, -1, -2)
    return V @ (divided_difference(a[..., :, None], a[..., None, :]) * (Vt @ _symmetric(E) @ V)) @ Vt


def _symmetric(M: Array) -> Array:
    return 0.5 * (M + jnp.swapaxes(M, -1, -2))


def _derivative_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Any]:
    A, a, V, E = primals
    dA, _, _, dE = tangents  # those of a and V are contained in that of A
    terms = [] if isinstance(dE, ad.Zero) else [_derivative_p.bind(A, a, V, dE)]
    if not isinstance(dA, ad.Zero):
        terms.append(_second_order(_last_derivative(A), V, E, dA))
    return _derivative_p.bind(*primals), sum(terms[1:], terms[0])


def _derivative_transpose(cotangent: Any, A: Array, a: Array, V: Array, E: Any) -> list:
    """dF is its own adjoint: ⟨W, dF[E]⟩ = ⟨dF[W], E⟩."""
    return [
        None,
        None,
        None,
        cotangent if isinstance(cotangent, ad.Zero) else _derivative_p.bind(A, a, V, cotangent),
    ]


def _derivative_batch(args: tuple, axes: tuple) -> tuple[Array, int]:
    size = next(arg.shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None)
    stacked = [
        jnp.broadcast_to(arg, (size, *arg.shape)) if axis is None else jnp.moveaxis(arg, axis, 0)
        for arg, axis in zip(args, axes, strict=True)
    ]
    return _derivative_p.bind(*stacked), 0


_derivative_p.def_impl(jax.jit(_derivative))
_derivative_p.def_abstract_eval(lambda A, a, V, E: E)
mlir.register_lowering(_derivative_p, mlir.lower_fun(_derivative, multiple_results=False))
ad.primitive_jvps[_derivative_p] = _derivative_jvp
ad.primitive_transposes[_derivative_p] = _derivative_transpose
batching.primitive_batchers[_derivative_p] = _derivative_batch


@jax.custom_jvp
def _last_derivative(A: Array) -> Array:
    """A itself, which has been differentiated as often as it can be."""
    return A


@_last_derivative.defjvp
def _last_derivative_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    raise NotImplementedError("the SoftAbs metric has two derivatives; a third one was asked for")


def _second_order(A: Array, V: Array, E: Array, D: Array) -> Array:
    """d²F[E, D]_ij = Σ_k Φ(a_i, a_k, a_j) (E_ik D_kj + D_ik E_kj) in the basis of the eigenvectors, [..., d, d]; linear
    in E and in D."""
    Vt = jnp.swapaxes(V, -1, -2)
    a = jnp.einsum("...ji,...jk,...ki->...i", V, A, V)
    table = second_divided_difference(a[..., :, None, None], a[..., None, :, None], a[..., None, None, :])
    E, D = (Vt @ _symmetric(M) @ V for M in (E, D))
    inner = jnp.einsum("...ikj,...ik,...kj->...ij", table, E, D) + jnp.einsum(
        "...ikj,...ik,...kj->...ij", table, D, E
    )
    return V @ inner @ Vt
