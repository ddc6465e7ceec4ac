"""The sentences about speed: the benchmarks of bounds, convolutions, integrators, Riemannian HMC and training."""

import numpy as np

from experiments.claims.check import PAGE, README, Claim, load
from experiments.claims.wording import ratio


def claims() -> list[Claim]:
    """All of them."""
    return [*_bounds(), *_convolutions(), *_leapfrog(), *_riemannian(), *_training()]


def _bounds() -> list[Claim]:
    rows = {r["model"]: r for r in load("bench_bounds")["rows"]}
    peer, rhvi = rows["RHVAE"]["seconds"], rows["RHVI"]["seconds"]
    amortised, fisher = (peer / rows[f"{name} recentred"]["seconds"] for name in ("amortised", "Fisher"))
    over_hvi, over_peer = f"{rows['RHVI']['over_hvi']:.0f}", ratio(rhvi / peer)
    return [
        Claim(
            PAGE,
            "the frozen Fisher metric {} × HVI, which is {} × the sum of the metric alone and the steps alone; the "
            "amortised metric {} ×.",
            (
                ratio(rows["Fisher"]["over_hvi"]),
                f"{rows['Fisher']['over_parts']:.2f}",
                f"{rows['amortised']['over_hvi']:.2f}",
            ),
        ),
        Claim(
            PAGE,
            "takes {} × the time of our amortised, recentred bound and {} × that of the Fisher one.",
            (ratio(amortised), ratio(fisher)),
        ),
        Claim(
            PAGE,
            "takes {} × RHVAE's time and {} × HVI's: {} × its necessary parts",
            (over_peer, over_hvi, f"{rows['RHVI']['over_parts']:.2f}"),
        ),
        Claim(PAGE, "(21 s against {} s)", (f"{peer:.0f}",)),
        Claim(README, "costs {} times as much as HVI on a CPU", (over_hvi,)),
        Claim(README, "with the amortised metric is {} × faster than pythae's RHVAE's", (ratio(amortised),)),
        Claim(README, "the decoder's own everywhere, {} × slower", (over_peer,)),
    ]


def _convolutions() -> list[Claim]:
    ratios = [row["ratio"] for row in load("bench_convolutions")["rows"]]
    return [
        Claim(
            PAGE,
            "training steps of three presets {} to {} × as fast",
            (ratio(min(ratios)), ratio(max(ratios))),
        )
    ]


def _leapfrog() -> list[Claim]:
    rows = load("bench_integrators")["rows"]
    speeds, costs = ([r[key] for r in rows] for key in ("blackjax_over_ours", "ours_over_gradient"))
    return [
        Claim(
            PAGE,
            "between {} × and {} × BlackJAX's rate (median {} ×), and within 1.15 × of the gradient's own cost in {} "
            "of {} cases",
            (
                f"{min(speeds):.2f}",
                f"{max(speeds):.2f}",
                f"{np.median(speeds):.1f}",
                str(sum(cost <= 1.15 for cost in costs)),
                str(len(costs)),
            ),
        ),
        Claim(PAGE, "whose gradient is four multiplications, costs {} ×", (f"{max(costs):.2f}",)),
    ]


def _riemannian() -> list[Claim]:
    made = load("bench_riemannian")
    found = {
        (r["contestant"], r["dtype"], r["chains"]): r["seconds_over_ours"] for r in made["against_blackjax"]
    }

    def faster(own: str) -> list[str]:
        """Than BlackJAX: of one chain and of 64 in float32, then in float64."""
        cases = [(dtype, chains) for dtype in ("float32", "float64") for chains in (1, 64)]
        return [
            ratio(found["blackjax", *case] / found[own, *case]) for case in cases if (own, *case) in found
        ]

    checked, unchecked, loose = faster("ours"), faster("unchecked"), faster("loose")
    prices = [1 / value for (name, *_), value in found.items() if name == "unchecked"]
    rates = {r["contestant"]: r["ess_per_cpu_second"] for r in made["against_mici"]["rows"]}
    over_mici = [ratio(rates[name] / rates["mici"]) for name in ("ours", "unchecked")]
    floors = [r["over_floor"] for r in made["floor"]]
    return [
        Claim(
            PAGE,
            "`rmhmc` as it comes, every step taken back, is {} × (one chain) and {} × (64 chains) BlackJAX's `rmhmc` "
            "in float32, {} × and {} × in float64",
            tuple(checked),
        ),
        Claim(PAGE, "without the way back, {}, {}, {} and {} ×", tuple(unchecked)),
        Claim(PAGE, "with solves about as loose as BlackJAX's, {} × and {} ×.", tuple(loose)),
        Claim(PAGE, "The way back costs {} to {} × the time.", (f"{min(prices):.1f}", f"{max(prices):.1f}")),
        Claim(PAGE, "it is {} × mici's implicit leapfrog", (over_mici[0],)),
        Claim(
            PAGE, "({} × without the way back, which mici takes too, for each implicit part)", (over_mici[1],)
        ),
        Claim(
            PAGE, "A step costs {} to {} × the sum of its parts", (f"{min(floors):.2f}", f"{max(floors):.2f}")
        ),
        Claim(
            README, "`rmhmc` is {} to {} × BlackJAX's in float32 and {} to {} × in float64", tuple(checked)
        ),
        Claim(README, "without that, {} to {} × and {} to {} ×", tuple(unchecked)),
    ]


def _training() -> list[Claim]:
    rows = load("bench_training")["rows"]

    def over(model: str, cores: int, key: str, variant: str) -> str:
        own = [
            r[key]
            for r in rows
            if (r["library"], r["model"], r["num_cores"], r["variant"]) == ("pythae", model, cores, variant)
        ]
        (value,) = own
        return ratio(value)

    models = (("VAE", ""), ("HVI", ""), ("HVI", "second-order terms added"))
    clock, cpu, one = (
        [over(model, cores, key, variant) for model, variant in models]
        for cores, key in ((2, "seconds_over_ours"), (2, "cpu_seconds_over_ours"), (1, "seconds_over_ours"))
    )
    return [
        Claim(PAGE, "an epoch of our VAE is {} × faster than theirs", (clock[0],)),
        Claim(PAGE, "with three leapfrog steps {} × faster than their HVAE", (clock[1],)),
        Claim(PAGE, "and {} × faster than their HVAE with the terms put in", (clock[2],)),
        Claim(PAGE, "the factors are {}, {} and {}; on a single core {}, {} and {}.", (*cpu, *one)),
        Claim(
            README,
            "an epoch of the VAE is {} ×, of HVI {} × faster than pythae's (on one core {} and {} ×)",
            (*clock[:2], *one[:2]),
        ),
    ]
