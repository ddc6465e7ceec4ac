"""The posteriors of the comparison, and who takes part in each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.samplers.geometry import contestants as ours
from experiments.samplers.geometry import cox, funnels, hierarchies, neurons, peers, volatility
from experiments.samplers.geometry.contestants import Contestant
from experiments.samplers.geometry.posteriors import Posterior
from experiments.support.checks import check_choices
from hmcvae import solvers


class Entry(NamedTuple):
    posterior: Posterior
    contestants: tuple[Contestant, ...]


class Case(NamedTuple):
    """make: data folder -> posterior.  contestants: in the order they run.  needs_data: is left out without."""

    make: Callable[[Path | None], Posterior]
    contestants: tuple[Contestant, ...]
    needs_data: bool = False


def _all_nuts(form: str) -> tuple[Contestant, ...]:
    """No-U-turn samplers of all the libraries, and MAMS, at their defaults, on one form."""
    return (
        ours.nuts(form),
        *ours.low_rank(form),
        peers.blackjax_nuts(form),
        peers.blackjax_nuts(form, "BlackJAX NUTS, low-rank", low_rank=True),
        peers.mams(form),
        peers.numpyro_nuts(form),
        peers.nutpie_nuts(form),
    )


def _funnel(dimension: int) -> Case:
    careful = peers.blackjax_nuts("plain", "BlackJAX NUTS, acceptance 0.99", target=0.99)
    # Curved enough that plain iterations leave solvable equations unsolved.
    softabs = ours.rmhmc("softabs", 25, "RMHMC, SoftAbs", solvers.newton(), target=0.95)
    riemannian = (softabs,) if dimension <= 10 else ()
    # The first coordinate's speed is 1/√M₁, M₁ = E (∂_v log p)² ≈ d/2: so many steps for a few of its deviations.
    long = ours.hierarchical_hmc("hierarchical", round(20 * (dimension / 2) ** 0.5))
    first = (long, ours.hierarchical_nuts("hierarchical"), *_all_nuts("plain"), careful)
    return Case(lambda _: funnels.funnel(dimension), (*first, *riemannian))


COX = (
    ours.hmc("fisher", 6, "HMC, constant Fisher metric"),
    ours.nuts_as_given("fisher", "NUTS, constant Fisher metric"),
    ours.hmc("mode", 4, "HMC, Fisher metric at the mode"),
    ours.nuts_as_given("mode", "NUTS, Fisher metric at the mode"),
    peers.blackjax_nuts("mode", "BlackJAX NUTS at the mode"),
    peers.blackjax_nuts("whitened"),
    peers.mams("whitened"),
    peers.numpyro_nuts("whitened"),
    peers.blackjax_nuts("whitened", "BlackJAX NUTS, low-rank", low_rank=True),
    peers.blackjax_nuts("fisher", "BlackJAX NUTS in Fisher coordinates"),
    *ours.low_rank("whitened"),
    peers.nutpie_nuts("whitened"),
)
COX_LONG = (
    ours.hmc("mode", 4, "HMC, Fisher metric at the mode"),
    peers.blackjax_nuts("mode", "BlackJAX NUTS at the mode"),
    peers.blackjax_nuts("whitened"),
)
VOLATILITY = (
    ours.hmc("fisher", 5, "HMC in banded Fisher coordinates", mass="diagonal"),
    peers.blackjax_nuts("centred"),
    peers.blackjax_nuts("noncentred", "BlackJAX NUTS, not centred"),
    ours.nuts("fisher", "NUTS in banded Fisher coordinates"),
    peers.mams("centred"),
    peers.numpyro_nuts("centred"),
    ours.nuts("centred"),
    ours.rmhmc("centred", 10, "RMHMC, banded Fisher metric"),
    peers.blackjax_nuts("centred", "BlackJAX NUTS, low-rank", low_rank=True),
    peers.blackjax_nuts("fisher", "BlackJAX NUTS in Fisher coordinates"),
    *ours.low_rank("centred"),
    peers.nutpie_nuts("centred"),
)
SCHOOLS = (
    ours.hierarchical_hmc("hierarchical", 25),
    ours.hierarchical_nuts("hierarchical"),
    *_all_nuts("plain"),
    peers.blackjax_nuts("plain", "BlackJAX NUTS, acceptance 0.99", target=0.99),
    ours.rmhmc("softabs", 25, "RMHMC, SoftAbs", solvers.newton(), target=0.95),
)
HORSESHOE = (
    ours.hierarchical_nuts("hierarchical"),
    ours.hierarchical_hmc("hierarchical", 60),
    *_all_nuts("noncentred"),
    peers.blackjax_nuts("centred", "BlackJAX NUTS, centred"),
)
NEURONS = (
    ours.hmc("constant", 4, "HMC, constant Fisher metric"),
    *_all_nuts("plain"),
    ours.rmhmc("fisher", 4, "RMHMC, Fisher metric"),
    ours.riemannian_nuts("fisher", "NUTS, Fisher metric"),
)
POSTERIORS: dict[str, Case] = {
    **{f"funnel_{d}": _funnel(d) for d in (2, 10, 100)},
    "cox": Case(lambda data_dir: cox.cox(cox.load(data_dir)), COX, needs_data=True),
    "cox_long": Case(
        lambda data_dir: cox.cox(cox.load(data_dir), "cox_long", 600), COX_LONG, needs_data=True
    ),
    "volatility": Case(lambda _: volatility.volatility(), VOLATILITY),
    "schools": Case(lambda _: hierarchies.eight_schools(), SCHOOLS),
    "horseshoe": Case(lambda _: hierarchies.horseshoe(), HORSESHOE),
    "neurons": Case(lambda _: neurons.fitzhugh_nagumo(), NEURONS),
}


def posteriors(names: Sequence[str], data_dir: Path | None) -> list[Entry]:
    """Those named.

    Raises:
        ValueError: for one that is not there.
    """
    check_choices("posteriors", names, POSTERIORS)
    cases: list[Any] = [POSTERIORS[name] for name in names]
    return [Entry(case.make(data_dir), case.contestants) for case in cases]
