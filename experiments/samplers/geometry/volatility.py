"""Stochastic volatility (Kim, Shephard & Chib 1998; Girolami & Calderhead 2011, section 8), simulated.

    y_t = β exp(x_t / 2) e_t,   x_{t+1} = φ x_t + σ n_t,   x_1 ~ N(0, σ² / (1 - φ²))
    p(β) ∝ 1/β,   (φ + 1)/2 ~ Beta(20, 1.5),   σ² ~ scaled inverse χ²(10, 0.05)

All samplers draw latents and parameters together; u = (log β, atanh φ, log σ).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from scipy import linalg

from experiments.samplers.geometry.posteriors import Form, Posterior, Watched
from hmcvae import metrics

BETA, PHI, SIGMA = 0.65, 0.98, 0.15
NUM_PARAMETERS = 3
Path = Float[Array, " T"]


def simulate(length: int, seed: int = 0) -> np.ndarray:
    """y, [T]."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=length)
    x = np.empty(length)
    x[0] = SIGMA / np.sqrt(1 - PHI**2) * noise[0]
    for t in range(1, length):
        x[t] = PHI * x[t - 1] + SIGMA * noise[t]
    return BETA * np.exp(x / 2) * rng.normal(size=length)


def log_joint(y: Path, u: Float[Array, " 3"], x: Path) -> Float[Array, ""]:
    """log p(y, x, u) up to a constant, the Jacobian of u with it."""
    log_beta, phi, log_sigma = u[0], jnp.tanh(u[1]), u[2]
    precision, length = jnp.exp(-2 * log_sigma), x.shape[0]
    stationary = 1 - phi**2
    observed = -length * log_beta - 0.5 * jnp.sum(x) - 0.5 * jnp.sum(y**2 * jnp.exp(-x - 2 * log_beta))
    moves = jnp.sum((x[1:] - phi * x[:-1]) ** 2) + stationary * x[0] ** 2
    path = 0.5 * jnp.log(stationary) - length * log_sigma - 0.5 * precision * moves
    of_phi = 19 * jnp.log1p(phi) + 0.5 * jnp.log1p(-phi) + jnp.log(stationary)
    return observed + path + of_phi - 10 * log_sigma - 0.25 * precision


def latent_bands(u: Float[Array, " 3"], length: int) -> Float[Array, "2 T"]:
    """Of x given the parameters: the Fisher information of y, ½ each, and the prior's precision; tridiagonal."""
    phi, precision = jnp.tanh(u[1]), jnp.exp(-2 * u[2])
    ends = np.zeros(length)
    ends[[0, -1]] = 1
    diagonal = 0.5 + precision * (1 + phi**2 * (1 - ends))
    return jnp.stack([diagonal, jnp.full(length, -phi * precision)])


def joint_bands(z: Float[Array, " d"]) -> Float[Array, "2 d"]:
    """Of (u, x) together: Fisher information of u with its prior's, then `latent_bands`. As Girolami & Calderhead have
    it, with nothing between u and x."""
    u, length = z[:NUM_PARAMETERS], z.shape[0] - NUM_PARAMETERS
    phi, precision = jnp.tanh(u[1]), jnp.exp(-2 * u[2])
    stationary = 1 - phi**2
    of_phi = (length - 1 + 21.5) * stationary + 2 * phi**2  # 21.5: of the prior
    of_sigma = 2.0 * length + precision
    path = latent_bands(u, length)
    diagonal = jnp.concatenate([jnp.stack([jnp.full_like(phi, 2.0 * length), of_phi, of_sigma]), path[0]])
    below = jnp.concatenate([jnp.stack([jnp.zeros_like(phi), 2 * phi, jnp.zeros_like(phi)]), path[1]])
    return jnp.stack([diagonal, below])


def path_of_noise(u: Float[Array, " 3"], noise: Path) -> Path:
    """x of standard normal noise, by a scan in log₂ T rounds."""
    phi, sigma = jnp.tanh(u[1]), jnp.exp(u[2])
    steps = sigma * noise.at[0].divide(jnp.sqrt(1 - phi**2))

    def combine(a: tuple, b: tuple) -> tuple:
        return a[0] * b[0], b[0] * a[1] + b[1]

    return lax.associative_scan(combine, (jnp.full_like(steps, phi), steps))[1]


def mode(y: np.ndarray, u: np.ndarray, num_steps: int = 30) -> np.ndarray:
    """argmax of p(x | y, u), by scoring."""
    x, bands = np.zeros(len(y)), np.asarray(latent_bands(jnp.asarray(u), len(y)))
    prior = bands - np.array([[0.5], [0.0]])
    for _ in range(num_steps):
        pull = prior[0] * x
        pull[1:] += prior[1, :-1] * x[:-1]
        pull[:-1] += prior[1, :-1] * x[1:]
        gradient = -0.5 + 0.5 * y**2 * np.exp(-x - 2 * u[0]) - pull
        x = x + 0.7 * linalg.solveh_banded(bands, gradient, lower=True)
    return x


def volatility(length: int = 2000, seed: int = 0) -> Posterior:
    """Common coordinates: (u, x). Three forms:

    centred     (u, x), with the banded Fisher metric for Riemannian samplers.
    noncentred  (u, n) with x_1 and its innovations made of standard normal n.
    fisher      (u, e) with x = c(u) + L(u)⁻ᵀ e, L Lᵀ = G(u) the tridiagonal metric of x given u, and
                c(u) = x̂ + G(u)⁻¹ ∂_x log p(y, x̂, u) a scoring step from where x̂ + 2 log β is fixed, which makes c
                linear in log β: given u, e is nearly N(0, I).
    """
    y = jnp.asarray(simulate(length, seed))
    # E log y² = 2 log β + E log χ²₁.
    typical = np.array([0.5 * float(np.mean(np.log(y**2)) + 1.27), np.arctanh(0.95), np.log(0.2)])
    path = mode(np.asarray(y), typical)
    levels = jnp.asarray(path + 2 * typical[0])

    def split(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return z[:NUM_PARAMETERS], z[NUM_PARAMETERS:]

    def centred(z: jax.Array) -> jax.Array:
        return log_joint(y, *split(z))

    def from_noise(z: jax.Array) -> jax.Array:
        u, noise = split(z)
        return jnp.concatenate([u, path_of_noise(u, noise)])

    def noncentred(z: jax.Array) -> jax.Array:
        u, _ = split(z)
        # ∂x/∂n is triangular: x_1 scales by σ/√(1 - φ²), the others by σ.
        log_jacobian = length * u[2] - 0.5 * jnp.log(1 - jnp.tanh(u[1]) ** 2)
        return centred(from_noise(z)) + log_jacobian

    def whiten(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        u, e = split(z)
        factor = metrics.banded(latent_bands(u, length)).factor(e)
        at = levels - 2 * u[0]
        shift = factor.solve(jax.grad(log_joint, 2)(y, u, at))
        return jnp.concatenate([u, at + shift + factor.inverse_sqrt_matvec(e)]), factor.log_det

    def fisher(z: jax.Array) -> jax.Array:
        whole, log_det = whiten(z)
        return centred(whole) - 0.5 * log_det

    start = np.concatenate([typical, path])
    noiseless = np.concatenate([typical, np.zeros(length)])
    forms = {
        "centred": Form(centred, start, spread=0.05, metric=metrics.banded(joint_bands)),
        "noncentred": Form(noncentred, noiseless, from_noise, spread=0.05),
        "fisher": Form(fisher, noiseless, lambda z: whiten(z)[0], spread=0.05),
    }
    watched = (
        Watched("β", lambda z: np.exp(z[..., 0])),
        Watched("φ", lambda z: np.tanh(z[..., 1])),
        Watched("σ", lambda z: np.exp(z[..., 2])),
        Watched("x in the middle", lambda z: z[..., NUM_PARAMETERS + length // 2]),
        Watched("mean of x²", lambda z: (z[..., NUM_PARAMETERS:] ** 2).mean(-1)),
    )
    return Posterior(
        "volatility", f"Stochastic volatility, T = {length}", forms, watched, num_warmup=500, num_samples=500
    )
