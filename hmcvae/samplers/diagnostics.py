"""What draws are worth: convergence, effective sample sizes, failures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hmcvae._checks import check_real
from hmcvae.samplers import effective
from hmcvae.samplers.draws import Samples, coordinate_names
from hmcvae.samplers.effective import e_bfmi
from hmcvae.samplers.health import flat_draws, is_thinned, list_of, nonempty


class Diagnostics(NamedTuple):
    """Of a run's draws. Arrays have one entry for each coordinate of the (ravelled) position.

    `print` shows the least, median and largest of each, and the coordinate that is worst off by name.

    Draws that are all the same have no effective size: a chain that never moved in a coordinate adds nothing to its
    effective sample sizes, which are 0 where no chain moved, and makes its R̂ infinite, or NaN where all chains stand
    at one value. Where a draw is infinite or NaN all figures of its coordinate are NaN.

    rhat: split R̂, rank-normalised.
    ess_bulk, ess_tail: effective draws for the centre and for the 5 % and 95 % quantiles.
    ess_mean, ess_square: effective draws for E[z] and for E[z²]. Antithetic draws flatter the first; the second tells
        whether a chain that swings from side to side goes anywhere.
    e_bfmi: energy Bayesian fraction of missing information of each chain (Betancourt 2016), low below about 0.3; NaN
        for an algorithm without an energy, for a chain that never moved, whose energies are those of fresh momenta,
        and for draws that were thinned: it is a figure of successive transitions.
    acceptance_rate: mean acceptance probability.
    num_transitions; num_divergent, num_unconverged, num_irreversible: energy divergences, failed implicit solves and
        trajectories that could not be retraced, among them; num_max_depth: trees of `nuts` cut off at their largest
            depth.
    seconds: as given, or NaN.
    is_stuck: whether a chain never moved in a coordinate.
    names: of the coordinates: the leaf's path and the place in it, as theta[3].
    """

    rhat: Float[np.ndarray, " d"]
    ess_bulk: Float[np.ndarray, " d"]
    ess_tail: Float[np.ndarray, " d"]
    ess_mean: Float[np.ndarray, " d"]
    ess_square: Float[np.ndarray, " d"]
    e_bfmi: Float[np.ndarray, " chain"]
    acceptance_rate: float
    num_transitions: int
    num_divergent: int
    num_unconverged: int
    num_irreversible: int
    num_max_depth: int
    seconds: float
    is_stuck: Bool[np.ndarray, "chain d"]
    names: tuple[str, ...]

    @property
    def ess_per_second(self) -> float:
        """The smallest of the bulk effective sample sizes, by the seconds; 0 where a coordinate never moved."""
        return float(np.min(self.ess_bulk)) / self.seconds

    def __str__(self) -> str:
        lines = [f"{'':<14}{'min':>10}{'median':>10}{'max':>10}  worst"]
        for name in ("rhat", "ess_bulk", "ess_tail", "ess_mean", "ess_square", "e_bfmi"):
            values = np.asarray(getattr(self, name))
            digits = 0 if name.startswith("ess") else 3
            cells = "".join(f"{f(values):>10.{digits}f}" for f in (np.min, np.median, np.max))
            lines.append(f"{name:<14}{cells}  {self._worst(name, values)}".rstrip())
        lines.append(
            f"{self.num_transitions} transitions, acceptance {self.acceptance_rate:.3f}; failures: "
            f"{self.num_divergent} divergent, {self.num_unconverged} unconverged, {self.num_irreversible} irreversible"
        )
        if self.num_max_depth:
            lines.append(f"{self.num_max_depth} trees were cut off at their largest depth")
        whole = self.is_stuck.all(axis=1)
        if whole.any():
            lines.append(f"chains {list_of(whole)} never moved")
        partly = self.is_stuck[~whole].any(axis=0)
        if partly.any():
            lines.append(f"coordinates {self._named(partly)} never moved in some of the chains that did")
        if np.isfinite(self.seconds):
            lines.append(f"{self.seconds:.3g} s, {self.ess_per_second:.3g} effective draws a second")
        return "\n".join(lines)

    def _worst(self, name: str, values: np.ndarray) -> str:
        """The coordinate, or the chain, where a figure is worst."""
        if name == "e_bfmi" and np.isnan(values).all():
            return "not known"
        score = -values if name == "rhat" else values
        index = int(np.argmin(np.where(np.isnan(score), -np.inf, score)))
        return f"chain {index}" if name == "e_bfmi" else self.names[index]

    def _named(self, flags: Any) -> str:
        """The names of the coordinates that are flagged, the first ten of them."""
        found = [self.names[index] for index in np.flatnonzero(flags)]
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        return ", ".join(found[:10]) + more


def diagnose(samples: Samples, seconds: Any = float("nan")) -> Diagnostics:
    """`Diagnostics` of the draws; `seconds` is what they took. Effective draws and R̂ are themselves estimates: of some
    20 draws a chain they say next to nothing.

    Raises:
        ValueError: for fewer than 8 draws, of which no effective sample size can be had, positions without numbers, or
            seconds that are not positive.
    """
    if not isinstance(samples, Samples):
        raise ValueError(
            f"diagnose takes Samples, as hmcvae.sample returns them, got {type(samples).__name__}"
        )
    if not (isinstance(seconds, float) and np.isnan(seconds)):
        seconds = check_real("seconds", seconds, 0, is_open=True)
    if samples.shape[1] < 8:
        raise ValueError(f"diagnostics need at least 8 draws of each chain, got {samples.shape[1]}")
    if not nonempty(samples.position):
        raise ValueError("diagnostics need positions of at least one number, got none")
    draws = flat_draws(samples.position)
    counts = samples.counts
    energy = getattr(samples.info, "energy", None)
    is_stuck = _is_constant(draws)
    is_unknown = energy is None or is_thinned(samples)
    fractions = np.full(draws.shape[0], np.nan) if is_unknown else e_bfmi(np.asarray(energy, np.float64))
    return Diagnostics(
        rhat(draws),
        effective_draws(effective.ess_bulk, draws),
        effective_draws(effective.ess_tail, draws),
        effective_draws(effective.ess_mean, draws),
        effective_draws(effective.ess_mean, draws**2),
        np.where(is_stuck.all(axis=1), np.nan, fractions),
        float(counts.acceptance_rate),
        int(counts.num_transitions),
        int(counts.num_divergent),
        int(counts.num_unconverged),
        int(counts.num_irreversible),
        int(counts.num_max_depth),
        float(seconds),
        is_stuck,
        coordinate_names(samples.position),
    )


def _is_constant(draws: Float[np.ndarray, "chain draw d"]) -> Bool[np.ndarray, "chain d"]:
    return np.all(draws == draws[:, :1], axis=1)


def rhat(draws: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    is_constant = _is_constant(draws)
    is_one_value = np.all(draws == draws[:1, :1], axis=(0, 1))
    rhat = np.where(is_one_value, np.nan, np.inf)
    moves = ~is_constant.any(axis=0)
    if moves.any():
        rhat[moves] = effective.rhat(draws[..., moves])
    return np.where(_is_finite(draws), rhat, np.nan)


def effective_draws(statistic: Callable, draws: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    """Effective draws of the chains that move, for each coordinate; coordinates with the same ones go together."""
    moves = ~_is_constant(draws)
    found = np.zeros(draws.shape[2])
    for pattern in np.unique(moves, axis=1).T:
        columns = np.all(moves == pattern[:, None], axis=0)
        if pattern.any():
            found[columns] = statistic(draws[pattern][..., columns])
    return np.where(_is_finite(draws), found, np.nan)


def _is_finite(draws: Float[np.ndarray, "chain draw d"]) -> Bool[np.ndarray, " d"]:
    return np.all(np.isfinite(draws), axis=(0, 1))
