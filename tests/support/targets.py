"""Known densities for the tests: a log density and what is known of it in closed form.

Every `logdensity_fn` takes a flat position [d] and computes in the position's dtype. Closed forms are NumPy
arrays in float64. All densities are normalised, except the logistic posterior.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, special


@dataclass(frozen=True)
class Target:
    """A density on R^d. What is not known in closed form is None."""

    name: str
    dim: int
    logdensity_fn: Callable[[jax.Array], jax.Array]
    typical: np.ndarray  # a point of the bulk, off every axis of symmetry
    step_size: float  # leapfrog is well inside its stable range there, with unit masses
    mean: np.ndarray | None = None
    covariance: np.ndarray | None = None
    skewness: np.ndarray | None = None
    is_normalised: bool = True


@dataclass(frozen=True)
class Gaussian(Target):
    """N(mean, covariance), whose Hamiltonian flow is linear and known."""

    def flow(
        self, position: np.ndarray, momentum: np.ndarray, time: float, mass: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The exact solution of dz/dt = mass⁻¹ v, dv/dt = -covariance⁻¹ (z - mean) at `time`."""
        assert self.mean is not None
        assert self.covariance is not None
        zero = np.zeros((self.dim, self.dim))
        inverse_mass = np.linalg.inv(np.eye(self.dim) if mass is None else mass)
        generator = np.block([[zero, inverse_mass], [-np.linalg.inv(self.covariance), zero]])
        end = linalg.expm(time * generator) @ np.concatenate([position - self.mean, momentum])
        return end[: self.dim] + self.mean, end[self.dim :]


def gaussian(mean: np.ndarray, covariance: np.ndarray, name: str = "gaussian") -> Gaussian:
    """N(mean, covariance)."""
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    precision = np.linalg.inv(covariance)
    precision = 0.5 * (precision + precision.T)
    constant = -0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]

    def logdensity_fn(z: jax.Array) -> jax.Array:
        centred = z - jnp.asarray(mean, z.dtype)
        return -0.5 * jnp.dot(centred, jnp.asarray(precision, z.dtype) @ centred) + constant.astype(z.dtype)

    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    dim = mean.shape[0]
    typical = mean + eigenvectors @ (np.sqrt(eigenvalues) * np.linspace(0.6, 1.2, dim))
    step_size = 0.3 * float(np.sqrt(eigenvalues[0]))
    return Gaussian(name, dim, logdensity_fn, typical, step_size, mean, covariance, np.zeros(dim))


def isotropic(dim: int = 3) -> Gaussian:
    """N(0, I): the harmonic oscillator q'' = -q in each coordinate."""
    return gaussian(np.zeros(dim), np.eye(dim), "isotropic")


def correlated(dim: int = 4, condition: float = 20.0, seed: int = 0) -> Gaussian:
    """A Gaussian off the origin whose axes are turned at random and whose variances span `condition`."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    variances = np.geomspace(1.0 / np.sqrt(condition), np.sqrt(condition), dim)
    return gaussian(rng.normal(size=dim), (rotation * variances) @ rotation.T, "correlated")


def skewed(shapes: tuple[float, ...] = (0.5, 1.0, 3.0)) -> Target:
    """Independent logarithms of Gamma(a, 1) variables, p(z) = exp(a z - eᶻ) / Γ(a): a long left tail.

    A sampler with the wrong sign somewhere cannot be told from a right one on a symmetric density; here it can.
    """
    a = np.asarray(shapes, float)
    constant = -float(np.sum(special.gammaln(a)))

    def logdensity_fn(z: jax.Array) -> jax.Array:
        return jnp.sum(jnp.asarray(a, z.dtype) * z - jnp.exp(z)) + jnp.asarray(constant, z.dtype)

    variance = special.polygamma(1, a)
    return Target(
        "skewed",
        a.shape[0],
        logdensity_fn,
        typical=np.log(a) + 0.3,
        step_size=0.2,
        mean=special.digamma(a),
        covariance=np.diag(variance),
        skewness=special.polygamma(2, a) / variance**1.5,
    )


def banana(curvature: float = 0.5, scale: float = 1.5) -> Target:
    """z₁ ~ N(0, s²), z₂ | z₁ ~ N(b (z₁² - s²), 1): a Gaussian bent into a banana, with moments in closed form."""
    variance = scale**2
    constant = -np.log(2 * np.pi) - 0.5 * np.log(variance)

    def logdensity_fn(z: jax.Array) -> jax.Array:
        bend = z[1] - curvature * (z[0] ** 2 - variance)
        return -0.5 * z[0] ** 2 / variance - 0.5 * bend**2 + constant.astype(z.dtype)

    # z₂ = b s² (χ² - 1) + noise, where χ² has one degree of freedom: variance 2 and third moment 8.
    tail = curvature * variance
    second = 2 * tail**2 + 1
    return Target(
        "banana",
        2,
        logdensity_fn,
        typical=np.array([0.8, -0.4]),
        step_size=0.15,
        mean=np.zeros(2),
        covariance=np.diag([variance, second]),
        skewness=np.array([0.0, 8 * tail**3 / second**1.5]),
    )


def funnel(dim: int = 5, scale: float = 3.0) -> Target:
    """Neal's funnel: z₁ ~ N(0, s²), the others N(0, exp z₁) given z₁ (Neal 2003, section 8)."""
    constant = -0.5 * dim * np.log(2 * np.pi) - np.log(scale)

    def logdensity_fn(z: jax.Array) -> jax.Array:
        neck, rest = z[0], z[1:]
        log_rest = -0.5 * jnp.sum(rest**2) * jnp.exp(-neck) - 0.5 * (dim - 1) * neck
        return -0.5 * neck**2 / scale**2 + log_rest + constant.astype(z.dtype)

    others = np.exp(0.5 * scale**2)
    return Target(
        "funnel",
        dim,
        logdensity_fn,
        typical=np.concatenate([[0.5], np.linspace(-1.0, 1.2, dim - 1)]),
        step_size=0.15,
        mean=np.zeros(dim),
        covariance=np.diag([scale**2] + [others] * (dim - 1)),
        skewness=np.zeros(dim),
    )


@cache
def logistic_data(num_rows: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up data for logistic regression: an intercept, standard normal covariates, labels of the model."""
    rng = np.random.default_rng(seed)
    covariates = np.concatenate([np.ones((num_rows, 1)), rng.normal(size=(num_rows, dim - 1))], axis=1)
    coefficients = rng.normal(size=dim)
    labels = rng.uniform(size=num_rows) < special.expit(covariates @ coefficients)
    return covariates, labels.astype(float)


def logistic(num_rows: int = 60, dim: int = 4, prior_variance: float = 4.0, seed: int = 0) -> Target:
    """Bayesian logistic regression with prior N(0, prior_variance I), up to the evidence; no moments known."""
    covariates, labels = logistic_data(num_rows, dim, seed)

    def logdensity_fn(z: jax.Array) -> jax.Array:
        logits = jnp.asarray(covariates, z.dtype) @ z
        log_likelihood = jnp.sum(jnp.asarray(labels, z.dtype) * logits - jax.nn.softplus(logits))
        return log_likelihood - 0.5 * jnp.dot(z, z) / prior_variance

    typical = np.zeros(dim)
    for _ in range(20):  # Newton's method: the mode, then a point beside it
        probability = special.expit(covariates @ typical)
        gradient = covariates.T @ (labels - probability) - typical / prior_variance
        weighted = covariates * (probability * (1 - probability))[:, None]
        hessian = covariates.T @ weighted + np.eye(dim) / prior_variance
        typical = typical + np.linalg.solve(hessian, gradient)
    width = 1 / np.sqrt(np.linalg.eigvalsh(hessian))
    return Target(
        "logistic",
        dim,
        logdensity_fn,
        typical + np.linspace(-1.0, 1.0, dim) * width.min(),
        step_size=0.3 * float(width.min()),
        is_normalised=False,
    )


def all_targets() -> list[Target]:
    """One of each, at the sizes that the property tests use."""
    return [isotropic(), correlated(), skewed(), banana(), funnel(), logistic()]
