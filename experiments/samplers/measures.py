"""What draws are worth: effective sizes and errors of running moments, against derivatives taken and seconds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

import hmcvae
from experiments.samplers.sampler import Drawn
from experiments.samplers.targets import Target
from hmcvae.samplers.draws import Samples


class Curve(NamedTuple):
    """How far the running moments are off, see `running_error`, against what a chain had taken by then."""

    derivatives: Float[np.ndarray, " draw"]
    seconds: Float[np.ndarray, " draw"]
    errors: Float[np.ndarray, " draw"]


class Moments(NamedTuple):
    """E[z] and E[z²]; NaN where not known."""

    mean: Float[np.ndarray, " d"]
    square: Float[np.ndarray, " d"]


def derivatives(samples: Samples) -> Int[np.ndarray, "chain draw"]:
    """Derivatives taken in each transition: ∇log p a step; for RMHMC also that of log |G| a step, and one of uᵀ G u or
    product with G for every iteration of a solve."""
    return np.asarray(derivatives_of(samples.info))


def derivatives_of(info: Any) -> Any:
    """The same of a kernel's report, traced or not."""
    iterations = info.solver.num_iterations
    return info.num_integration_steps * (1 + (iterations > 0)) + iterations


def moments(target: Target, drawn: Mapping[str, Drawn]) -> Moments:
    """The target's own where known, else the mean over all that was drawn."""
    if not np.isnan(target.mean).all():
        return Moments(target.mean, target.square)
    pooled = np.concatenate(
        [np.asarray(own.samples.position).reshape(-1, len(target.start)) for own in drawn.values()]
    )
    return Moments(pooled.mean(0), (pooled**2).mean(0))


def running_error(draws: Float[np.ndarray, "chain draw d"], exact: Moments) -> Float[np.ndarray, " draw"]:
    """Root mean square over chains and moments of the running mean's error, in posterior standard deviations (of z and
    of z²)."""
    counts = np.arange(1, draws.shape[1] + 1)[None, :, None]
    errors = []
    for values, own in ((draws, exact.mean), (draws**2, exact.square)):
        known = np.isfinite(own)
        scale = values.reshape(-1, values.shape[-1]).std(0)[known]
        running = np.cumsum(values[..., known], axis=1) / counts
        errors.append((running - own[known]) / scale)
    return np.sqrt(np.mean(np.concatenate(errors, axis=-1) ** 2, axis=(0, 2)))


def curve(drawn: Drawn, exact: Moments) -> Curve:
    """The course of one sampler's errors."""
    draws = np.asarray(drawn.samples.position, np.float64)
    num_draws = draws.shape[1]
    return Curve(
        np.cumsum(derivatives(drawn.samples).mean(0)),
        drawn.seconds * np.arange(1, num_draws + 1) / num_draws,
        running_error(draws, exact),
    )


def row(name: str, drawn: Drawn, exact: Moments) -> dict:
    """One sampler's figures, those of R̂ and effective sizes for the worst of the coordinates whose moments are
    known."""
    samples, seconds = drawn
    found = hmcvae.diagnose(samples, seconds)
    known = np.isfinite(exact.square)
    ess_mean, ess_square = found.ess_mean[known].min(), found.ess_square[known].min()
    smallest = float(min(ess_mean, ess_square))
    draws = np.asarray(samples.position, np.float64)
    deviation = np.abs(draws.mean((0, 1)) - exact.mean) / (draws.std((0, 1)) / np.sqrt(found.ess_mean))
    return {
        "method": name,
        "step_size": float(samples.adaptation.step_size),
        "acceptance_rate": found.acceptance_rate,
        "num_transitions": found.num_transitions,
        "num_unconverged": found.num_unconverged,
        "num_irreversible": found.num_irreversible,
        "num_divergent": found.num_divergent,
        "rhat": float(found.rhat[known].max()),
        "e_bfmi": float(found.e_bfmi.min()),
        "ess_mean": float(ess_mean),
        "ess_square": float(ess_square),
        "ess_per_1000_derivatives": 1e3 * smallest / float(derivatives(samples).sum()),
        "ess_per_second": smallest / seconds,
        "seconds": seconds,
        "largest_deviation": float(np.nanmax(deviation)),
    }
