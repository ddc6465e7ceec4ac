"""The sentences by hand about where_geometry_wins, below its tables and in which_sampler."""

from experiments.claims.check import Claim, load
from experiments.samplers.geometry.summary import Summary
from experiments.samplers.geometry.tables import by_posterior

FIELDS, WHICH = "experiments/results/where_geometry_wins.md", "experiments/results/which_sampler.md"
MODE, PRIOR = "HMC, Fisher metric at the mode", "BlackJAX NUTS"


def claims() -> list[Claim]:
    """All of them."""
    found = {
        name: {s.contestant: s for s in own}
        for name, own in by_posterior(load("where_geometry_wins")).items()
    }
    return [*_cox(found["cox"], found["cox_long"]), *_others(found["horseshoe"], found["volatility"])]


def _cox(short: dict[str, Summary], long: dict[str, Summary]) -> list[Claim]:
    ours, theirs = long[MODE], long["BlackJAX NUTS at the mode"]
    prior = long[PRIOR]
    gradients = f"{ours.gradients:.0f}", f"{theirs.gradients:.0f}"
    mean = short["HMC, constant Fisher metric"]
    return [
        Claim(
            FIELDS,
            "at the mode takes {} s per min ESS, BlackJAX's no-U-turn sampler in the coordinates of the prior {}",
            (f"{short[MODE].seconds:.3f}", f"{short[PRIOR].seconds:.3f}"),
        ),
        Claim(
            FIELDS, "With 600 draws HMC there has R̂ of {} at most in all three runs", (f"{ours.rhat:.2f}",)
        ),
        Claim(
            FIELDS,
            "at {} gradients and {} s per min ESS; BlackJAX's no-U-turn sampler in the same coordinates, which mixes "
            "as well, takes {} gradients and {} s, in those of the prior {} and {}",
            (
                *(gradients[0], f"{ours.seconds:.2f}", gradients[1], f"{theirs.seconds:.2f}"),
                *(f"{prior.gradients:.0f}", f"{prior.seconds:.2f}"),
            ),
        ),
        Claim(
            WHICH,
            "{} gradients an effective draw where the rates of the prior's mean take {} and BlackJAX's NUTS {}; in "
            "chains long enough to be called right, {} where BlackJAX's NUTS in the same coordinates takes {}",
            (*(f"{s.gradients:.0f}" for s in (short[MODE], mean, short[PRIOR])), *gradients),
        ),
    ]


def _others(horseshoe: dict[str, Summary], volatility: dict[str, Summary]) -> list[Claim]:
    share = horseshoe["HMC, hierarchical metric"].seconds / horseshoe["BlackJAX NUTS"].seconds
    ours, theirs = volatility["HMC in banded Fisher coordinates"], volatility["BlackJAX NUTS, not centred"]
    return [
        Claim(FIELDS, "takes {} of the seconds of the best of the others", (f"{share:.2f}",)),
        Claim(WHICH, "On a horseshoe regression it takes {} of the seconds", (f"{share:.2f}",)),
        Claim(
            WHICH,
            "nearly standard normal: {} s per min ESS, the nearest other (BlackJAX's NUTS on the innovations, not "
            "centred) {}",
            (f"{ours.seconds:.4f}", f"{theirs.seconds:.4f}"),
        ),
    ]
