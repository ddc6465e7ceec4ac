"""What draws are worth: convergence, effective sample sizes, failures; and the hand-over to ArviZ.

R̂ and effective sample sizes are ArviZ's (Vehtari et al. 2021); the package `arviz` is needed, and imported here alone.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from hmcvae._checks import check_real
from hmcvae.samplers.draws import Samples
from hmcvae.samplers.health import flat_draws, list_of


class Diagnostics(NamedTuple):
    """Of a run's draws. Arrays have one entry for each coordinate of the (ravelled) position.

    Draws that are all the same have no effective size: a chain that never moved in a coordinate adds nothing to its
    effective sample sizes, which are 0 where no chain moved, and makes its R̂ infinite, or NaN where all chains stand
    at one value.

    rhat: split R̂, rank-normalised.
    ess_bulk, ess_tail: effective draws for the centre and for the 5 % and 95 % quantiles.
    ess_mean, ess_square: effective draws for E[z] and for E[z²]. Antithetic draws flatter the first; the second tells
        whether a chain that swings from side to side goes anywhere.
    e_bfmi: energy Bayesian fraction of missing information of each chain (Betancourt 2016), low below about 0.3; NaN
        for an algorithm without an energy, and for a chain that never moved: its energies are those of fresh momenta.
    acceptance_rate: mean acceptance probability.
    num_transitions; num_divergent, num_unconverged, num_irreversible: energy divergences, failed implicit solves and
        trajectories that could not be retraced, among them; num_max_depth: trees of `nuts` cut off at their largest
            depth.
    seconds: as given, or NaN.
    is_stuck: whether a chain never moved in a coordinate.
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

    @property
    def ess_per_second(self) -> float:
        """The smallest of the bulk effective sample sizes, by the seconds; 0 where a coordinate never moved."""
        return float(np.min(self.ess_bulk)) / self.seconds

    def __str__(self) -> str:
        lines = [f"{'':<14}{'min':>10}{'median':>10}{'max':>10}"]
        for name in ("rhat", "ess_bulk", "ess_tail", "ess_mean", "ess_square", "e_bfmi"):
            values = np.asarray(getattr(self, name))
            digits = 0 if name.startswith("ess") else 3
            cells = "".join(f"{f(values):>10.{digits}f}" for f in (np.min, np.median, np.max))
            lines.append(f"{name:<14}{cells}")
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
            lines.append(f"coordinates {list_of(partly)} never moved in some of the chains that did")
        if np.isfinite(self.seconds):
            lines.append(f"{self.seconds:.3g} s, {self.ess_per_second:.3g} effective draws a second")
        return "\n".join(lines)


def diagnose(samples: Samples, seconds: Any = float("nan")) -> Diagnostics:
    """`Diagnostics` of the draws; `seconds` is what they took.

    Raises:
        ValueError: for fewer than 8 draws, of which no effective sample size can be had, positions without numbers, or
            seconds that are not positive.
        ImportError: without the package `arviz`.
    """
    if not isinstance(samples, Samples):
        raise ValueError(
            f"diagnose takes Samples, as hmcvae.sample returns them, got {type(samples).__name__}"
        )
    if not (isinstance(seconds, float) and np.isnan(seconds)):
        seconds = check_real("seconds", seconds, 0, is_open=True)
    draws = flat_draws(samples.position)
    if draws.shape[1] < 8:
        raise ValueError(f"diagnostics need at least 8 draws of each chain, got {draws.shape[1]}")
    if draws.shape[2] == 0:
        raise ValueError("diagnostics need positions of at least one number, got none")
    counts = samples.counts
    energy = getattr(samples.info, "energy", None)
    is_stuck = _is_constant(draws)
    fractions = np.full(draws.shape[0], np.nan) if energy is None else e_bfmi(np.asarray(energy, np.float64))
    return Diagnostics(
        _rhat(draws),
        _effective("bulk", draws),
        _effective("tail", draws),
        _effective("mean", draws),
        _effective("mean", draws**2),
        np.where(is_stuck.all(axis=1), np.nan, fractions),
        float(counts.acceptance_rate),
        int(counts.num_transitions),
        int(counts.num_divergent),
        int(counts.num_unconverged),
        int(counts.num_irreversible),
        int(counts.num_max_depth),
        float(seconds),
        is_stuck,
    )


def e_bfmi(energy: Float[np.ndarray, "chain draw"]) -> Float[np.ndarray, " chain"]:
    """Σ (E_i - E_{i-1})² / Σ (E_i - Ē)² of each chain (Betancourt 2016, eq. 1)."""
    scatter = np.sum((energy - energy.mean(axis=1)[:, None]) ** 2, axis=1)
    return np.sum(np.diff(energy, axis=1) ** 2, axis=1) / np.where(scatter > 0, scatter, np.nan)


def _is_constant(draws: Float[np.ndarray, "chain draw d"]) -> Bool[np.ndarray, "chain d"]:
    return np.all(draws == draws[:, :1], axis=1)


def _rhat(draws: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    chains = _split(draws) if len(draws) == 1 else draws
    is_constant = _is_constant(draws)
    is_one_value = np.all(draws == draws[:1, :1], axis=(0, 1))
    rhat = np.where(is_one_value, np.nan, np.inf)
    moves = ~is_constant.any(axis=0)
    if moves.any():
        rhat[moves] = _statistic("rhat", chains[..., moves], method="rank")
    return rhat


def _effective(method: str, draws: Float[np.ndarray, "chain draw d"]) -> Float[np.ndarray, " d"]:
    """Effective draws of the chains that move, for each coordinate; coordinates with the same ones go together."""
    moves = ~_is_constant(draws)
    found = np.zeros(draws.shape[2])
    for pattern in np.unique(moves, axis=1).T:
        columns = np.all(moves == pattern[:, None], axis=0)
        if pattern.any():
            found[columns] = _statistic("ess", draws[pattern][..., columns], method=method)
    return found


def _split(draws: Float[np.ndarray, "1 draw d"]) -> Float[np.ndarray, "2 half d"]:
    """The halves of a single chain: ArviZ wants two chains to compare, though it splits each of them too."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _import_arviz() -> Any:
    try:
        import arviz
    except ImportError as error:
        raise ImportError("this needs ArviZ: pip install -e '.[arviz]', or pip install arviz") from error
    return arviz


def _statistic(name: str, draws: Float[np.ndarray, "chain draw d"], method: str) -> Float[np.ndarray, " d"]:
    arviz = _import_arviz()
    data = _from_groups({"posterior": {"position": draws}})
    return np.asarray(getattr(arviz, name)(data, method=method)["position"], np.float64)


def _from_groups(groups: dict) -> Any:
    """ArviZ's data; since ArviZ 1 it takes the groups as one dictionary."""
    arviz = _import_arviz()
    is_old = int(str(arviz.__version__).partition(".")[0]) < 1
    return arviz.from_dict(**groups) if is_old else arviz.from_dict(groups)


def to_arviz(samples: Samples) -> Any:
    """The draws as ArviZ data: groups `posterior` (one variable for each leaf of the position, named by its
    path, or "position") and `sample_stats` in ArviZ's vocabulary, with our own failure flags beside it.

    Needs the package `arviz`, of any version.

    Raises:
        ValueError: for names of which ArviZ would drop a variable: two leaves of one name, or a leaf with the name of
            one of its axes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(samples.position)
    _check_names([(_path_name(path), np.ndim(leaf)) for path, leaf in leaves])
    posterior = {_path_name(path): np.asarray(leaf) for path, leaf in leaves}
    info, solver = samples.info, getattr(samples.info, "solver", None)
    found = {
        "lp": samples.logdensity,
        "diverging": getattr(info, "is_divergent", None),
        "acceptance_rate": getattr(info, "acceptance_rate", None),
        "energy": getattr(info, "energy", None),
        "energy_error": getattr(info, "energy_error", None),
        "n_steps": getattr(info, "num_integration_steps", None),
        "max_energy_error": getattr(info, "max_energy_error", None),
        "tree_depth": getattr(info, "tree_depth", None),
        "reached_max_treedepth": getattr(info, "reached_max_depth", None),
        "step_size": _step_sizes(samples),
        "is_accepted": getattr(info, "is_accepted", None),
        "is_reversible": getattr(info, "is_reversible", None),
        "solver_converged": getattr(solver, "converged", None),
    }
    statistics = {name: np.asarray(value) for name, value in found.items() if value is not None}
    return _from_groups({"posterior": posterior, "sample_stats": statistics})


def _step_sizes(samples: Samples) -> Any:
    """The step size of each draw: one number for all of a run; None for an algorithm that has none."""
    step_size = samples.adaptation.step_size
    if step_size is None or np.ndim(step_size):
        return None
    return np.full(jax.tree.leaves(samples.position)[0].shape[:2], np.asarray(step_size))


def _path_name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".") or "position"


def _check_names(variables: list[tuple[str, int]]) -> None:
    """Raise ValueError unless each (name, number of axes) has a name of its own, which is no axis's."""
    names = [name for name, _ in variables]
    axes = {"chain", "draw"} | {f"{name}_dim_{axis}" for name, ndim in variables for axis in range(ndim - 2)}
    twice = {name for name in names if names.count(name) > 1}
    bad = sorted(twice | (set(names) & axes))
    if bad:
        raise ValueError(
            f"ArviZ cannot keep the variables {bad}: a name must be one leaf's alone, and no axis's "
            f"(chain, draw, <name>_dim_<k>). Rename them: samples._replace(position={{…}})"
        )
