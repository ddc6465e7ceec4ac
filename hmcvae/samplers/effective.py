"""R̂ and effective sample sizes of all coordinates at once (Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021).

The figures are those of ArviZ, whose functions take one coordinate after another, which is long where a position has
thousands. Draws are [chain, draw, d]; of a coordinate with a draw that is infinite or NaN all figures are NaN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import fft
from scipy.special import ndtri
from scipy.stats import rankdata

Draws = Float[np.ndarray, "chain draw d"]
Each = Float[np.ndarray, " d"]

# Numbers that are worked on at once.
CHUNK = 4_000_000


def rhat(draws: Draws) -> Each:
    """Rank-normalised split R̂ (section 4.1): the larger one of the draws and of their distances from the median."""
    return _in_chunks(_rhat, draws)


def ess_bulk(draws: Draws) -> Each:
    """Effective draws for the centre: of the rank-normalised draws (section 4.2)."""
    return _in_chunks(lambda own: _ess(_as_normal(split(own))), draws)


def ess_tail(draws: Draws) -> Each:
    """Effective draws for the 5 % and the 95 % quantile, the smaller one (section 4.3)."""
    return _in_chunks(_tail, draws)


def ess_mean(draws: Draws) -> Each:
    """Effective draws for the mean."""
    return _in_chunks(lambda own: _ess(split(own)), draws)


def e_bfmi(energy: Float[np.ndarray, "chain draw"]) -> Float[np.ndarray, " chain"]:
    """Σ (E_i - E_{i-1})² / Σ (E_i - Ē)² of each chain (Betancourt 2016, eq. 1)."""
    scatter = np.sum((energy - energy.mean(axis=1)[:, None]) ** 2, axis=1)
    return np.sum(np.diff(energy, axis=1) ** 2, axis=1) / np.where(scatter > 0, scatter, np.nan)


def _in_chunks(function: Callable[[Draws], Each], draws: Draws) -> Each:
    width = max(1, CHUNK // (draws.shape[0] * draws.shape[1]))
    parts = [
        _of_finite(function, draws[..., start : start + width]) for start in range(0, draws.shape[2], width)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _of_finite(function: Callable[[Draws], Each], draws: Draws) -> Each:
    is_finite = np.isfinite(draws).all(axis=(0, 1))
    return np.where(is_finite, function(np.where(is_finite, draws, 0.0)), np.nan)


def split(draws: Draws) -> Float[np.ndarray, "halves half d"]:
    """The halves of each chain as chains; the draw in the middle of an odd number is left out."""
    half = draws.shape[1] // 2
    return np.stack([draws[:, :half], draws[:, -half:]], axis=1).reshape(-1, half, draws.shape[2])


def _as_normal(draws: Draws) -> Draws:
    """Φ⁻¹((rank - 3/8) / (n + 1/4)), ranks over all chains (equation 14)."""
    flat = draws.reshape(-1, draws.shape[2])
    return ndtri((rankdata(flat, axis=0) - 0.375) / (len(flat) + 0.25)).reshape(draws.shape)


def _rhat(draws: Draws) -> Each:
    halves = split(draws)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(plain_rhat(_as_normal(halves)), plain_rhat(_as_normal(folded)))


def plain_rhat(draws: Draws) -> Each:
    """√(var⁺ / W) (equations 1-4); 1 where nothing varies."""
    num_draws = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean(axis=0)
    between = draws.mean(axis=1).var(axis=0, ddof=1)
    ratio = between / np.where(within > 0, within, 1) + (num_draws - 1) / num_draws
    return np.where(within > 0, np.sqrt(ratio), np.where(between > 0, np.inf, 1.0))


def _tail(draws: Draws) -> Each:
    low, high = np.quantile(draws, (0.05, 0.95), axis=(0, 1))
    halves = split(draws)
    return np.minimum(_ess((halves <= low).astype(np.float64)), _ess((halves <= high).astype(np.float64)))


def _ess(draws: Draws) -> Each:
    """Effective draws for the mean by Geyer's (1992) initial monotone sequence (equations 10-13).

    ρ_t = 1 - (W - mean_m acov_t) / var⁺;   P_k = ρ_{2k} + ρ_{2k+1}, made monotone, as long as it is positive
    τ = -1 + 2 Σ_{k<K} P_k + max(ρ_{2K}, 0), at least 1 / log₁₀ n; ρ_{2K} itself where the lags ended first
    """
    num_chains, num_draws, _ = draws.shape
    total = num_chains * num_draws
    covariance = _autocovariance(draws)
    within = covariance[0] * num_draws / (num_draws - 1)
    variance = covariance[0] + (draws.mean(axis=1).var(axis=0, ddof=1) if num_chains > 1 else 0.0)
    # A coordinate that does not vary has a ratio of 0 to 0: all of its draws are one value, and count as they are.
    varies = variance > 0
    rho = 1 - (within - covariance) / np.where(varies, variance, 1)
    rho[0] = 1
    most = (num_draws - 3) // 2  # the last lags are noise of one or two terms, and left out
    pairs = rho[: 2 * most : 2] + rho[1 : 2 * most : 2]
    is_over = np.concatenate([pairs <= 0, np.ones((1, pairs.shape[1]), bool)])
    count = is_over.argmax(axis=0)
    sums = np.cumsum(np.minimum.accumulate(pairs, axis=0), axis=0)
    sums = np.concatenate([np.zeros((1, pairs.shape[1])), sums])
    summed = np.take_along_axis(sums, count[None], 0)[0]
    even, odd = (np.take_along_axis(rho, 2 * count[None] + lag, 0)[0] for lag in (0, 1))
    rest = np.where(even + odd >= 0, even, np.maximum(even, 0))
    tau = np.maximum(-1 + 2 * summed + rest, 1 / np.log10(total))
    return np.where(varies, total / tau, total)


def _autocovariance(draws: Draws) -> Float[np.ndarray, "draw d"]:
    """Σ_i (x_i - x̄)(x_{i+t} - x̄) / n, the mean over the chains."""
    num_draws = draws.shape[1]
    size = fft.next_fast_len(2 * num_draws, real=True)
    spectrum: Any = fft.rfft(draws - draws.mean(axis=1, keepdims=True), size, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0)
    return np.asarray(fft.irfft(power, size, axis=0))[:num_draws] / num_draws
