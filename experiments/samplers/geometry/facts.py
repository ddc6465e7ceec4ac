"""What the page says of each posterior, and what was expected there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from experiments.samplers.geometry import hierarchies
from experiments.samplers.geometry.funnels import TAIL_MASS
from experiments.samplers.geometry.lists import POSTERIORS
from experiments.samplers.geometry.summary import MOST_ERRORS, Summary

PEERS = ("blackjax", "numpyro", "nutpie")
FACTOR = 5.0  # expected of the funnels
TAIL = "P(v < -5)"


class Fact(NamedTuple):
    """exact: of the watched expectations, where known.  shown: those with a column.  published: seconds per min ESS in
    Girolami & Calderhead (2011), on hardware of their time."""

    title: str
    note: str
    exact: Mapping[str, float] = {}
    shown: Sequence[str] = ()
    published: str = ""


def _funnel(dimension: int) -> Fact:
    return Fact(
        f"Neal's funnel, d = {dimension}",
        "v ~ N(0, 9), x_i ~ N(0, eᵛ), in these coordinates for all. Effective sizes are of v and v².",
        {TAIL: TAIL_MASS, "E[v]": 0.0, "E[v²]": 9.0},
        (TAIL,),
    )


FACTS: dict[str, Fact] = {
    **{f"funnel_{d}": _funnel(d) for d in (2, 10, 100)},
    "cox": Fact(
        "Log-Gaussian Cox process, 64 × 64",
        "d = 4096, the data of Girolami & Calderhead (2011). Their constant metric Λ + Σ⁻¹ as coordinates for ours, "
        "from the one factorisation of Σ that there is; for the others the coordinates in which the prior is N(0, I), "
        "with the same products a gradient.",
        shown=("expected count",),
        published="Published (hardware of 2011, of latents): RMHMC 1.5, MMALA 24.1 s per min ESS.",
    ),
    "volatility": Fact(
        "Stochastic volatility, T = 2000",
        "d = 2003, simulated; latents and three parameters are drawn together by all. Centred: (u, x) with "
        "u = (log β, atanh φ, log σ); not centred: innovations in place of x. Banded Fisher coordinates: "
        "x = c(u) + L⁻ᵀ e with L Lᵀ = G(u), the tridiagonal metric of the latents given the parameters, factorised by "
        "cyclic reduction for each gradient, c(u) a scoring step.",
        shown=("σ", "φ"),
        published="Published (hardware of 2011, of latents): RMHMC 0.34, HMC 1.04 s per min ESS.",
    ),
    "schools": Fact(
        "Eight schools, centred",
        "z = (μ, log τ, θ), in these coordinates for all.",
        hierarchies.schools_moments(),
        ("P(τ < 1)",),
    ),
    "horseshoe": Fact(
        "Horseshoe regression, 100 × 50",
        "d = 102, simulated. Centred for the hierarchical metric, not centred for the others.",
        shown=("E[log τ]",),
    ),
    "neurons": Fact(
        "FitzHugh–Nagumo equations",
        "Three parameters, 200 times, Runge & Kutta's rule of order 4 within JAX; Fisher metric from sensitivities.",
        published="Published (hardware of 2011): RMHMC 0.083, HMC 0.23, simplified MMALA 0.031 s per min ESS.",
    ),
}


def not_measured(name: str, measured: Sequence[str]) -> list[str]:
    """Of the contestants of a posterior those that are not among these."""
    return [c.name for c in POSTERIORS[name].contestants if c.name not in measured]


def outcome(name: str, found: Sequence[Summary]) -> Iterator[str]:
    """What was expected, against what came."""
    fact = FACTS[name]
    if name.startswith("funnel"):
        yield from _of_funnel(fact, found)
    elif name in ("cox", "volatility"):
        yield from _fastest(fact, found)


def _of_funnel(fact: Fact, found: Sequence[Summary]) -> Iterator[str]:
    hierarchical = [s for s in found if "hierarchical" in s.contestant and s.is_ours]
    if not hierarchical:
        return
    own = min(hierarchical, key=lambda s: (not s.is_right, s.seconds))
    p, truth = own.watched[TAIL], fact.exact[TAIL]
    off = abs(p.mean - truth) / p.error if p.error > 0 else float("inf")
    yield (
        f"{fact.title}: {TAIL} expected within {MOST_ERRORS:g} standard errors of {truth:.4f}, came {p.mean:.4f} ± "
        f"{p.error:.4f} from {own.contestant}, {off:.1f} off: {_met(off <= MOST_ERRORS and own.is_right)}."
    )
    rivals = [s for s in found if not s.is_ours and "MAMS" not in s.contestant]
    if not rivals:
        return
    right = [s for s in rivals if s.is_right]
    best = min(right or rivals, key=lambda s: s.seconds)
    whom = (
        f"of {best.contestant}, the fastest of the others' no-U-turn samplers that is right there"
        if right
        else f"of {best.contestant}, the fastest of the others' no-U-turn samplers, none of which is right there"
    )
    ratio = best.seconds / own.seconds
    yield (
        f"{fact.title}: min ESS a second expected ≥ {FACTOR:g} × that {whom}; came {ratio:.3g} ×: "
        f"{_met(ratio >= FACTOR)}."
    )


def _fastest(fact: Fact, found: Sequence[Summary]) -> Iterator[str]:
    ours, rivals = ([s for s in found if s.is_ours == flag] for flag in (True, False))
    if not ours or not rivals:
        return
    own = min(ours, key=lambda s: (not s.is_right, s.seconds))
    best = min(rivals, key=lambda s: (not s.is_right, s.seconds))
    yield (
        f"{fact.title}: seconds per min ESS expected below every contestant's; came {own.seconds:.3g} "
        f"({own.contestant}) against {best.seconds:.3g} ({best.contestant}), {best.seconds / own.seconds:.3g} × less: "
        f"{_met(own.is_right and all(own.seconds < s.seconds for s in rivals if s.is_right))}. {fact.published}"
    ).strip()


def _met(is_met: bool) -> str:
    return "met" if is_met else "**not met**"
