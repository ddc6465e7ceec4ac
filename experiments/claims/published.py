"""The sentences about the nets of the literature: published_burda_longer, _static, _static_from and _equal,
published_vlae_equal, published_uha_long and published_cifar10_equal."""

from experiments.claims.check import PAGE, README, Claim, load
from experiments.claims.wording import fixed
from experiments.published.table import with_gap


def claims() -> list[Claim]:
    """All of them."""
    return [*_burda(), *_dynamics(), *_vlae(), *_uha(), *_cifar10()]


def _burda() -> list[Claim]:
    report = load("published_burda_longer")
    ours = report["rows"][-1]["log_likelihood"]["mean"]
    highest = max(row["log_likelihood"] for row in report["published"])
    above = fixed(ours - highest)
    static = load("published_burda_static")
    own, rivals = static["rows"][0], static["published"]
    reached = own["log_likelihood"]["mean"]
    theirs = {row["method"]: row["log_likelihood"] for row in rivals}
    iwae, again = (theirs[f"IWAE, K = 50{which}"] for which in ("", ", run again"))
    compared = load("published_burda_equal")
    equal = {row["name"]: row for row in compared["rows"]}
    bound, likelihood = (
        fixed(equal["recentred"][what]["mean"] - equal["vae"][what]["mean"])
        for what in ("bound", "log_likelihood")
    )
    assert len(equal) == 8  # as the page has it in words
    best = max(compared["rows"], key=lambda row: row["bound"]["mean"])
    assert best is max(compared["rows"], key=lambda row: row["log_likelihood"]["mean"]) is equal["recentred"]
    sentence = "has a log p(x) of {} after {} epochs, {} minutes on one core"
    return [
        Claim(README, "ends level with DAIS's highest figure: {} nats above", (above,)),
        Claim(PAGE, "highest, {}, after 500, and {} nats above it after 650", (fixed(highest), above)),
        Claim(
            README,
            sentence,
            (fixed(reached), f"{own['epochs']:.0f}", f"{own['epochs'] * own['seconds_per_epoch'] / 60:.0f}"),
        ),
        Claim(
            README,
            "above IWAE's {} with 50 samples, and an independent re-run's {}",
            (fixed(iwae), fixed(again)),
        ),
        Claim(
            PAGE,
            "log p(x) of eight methods, {} nats above the VAE in the bound and {} in log p(x), and neither",
            (bound, likelihood),
        ),
        Claim(
            PAGE,
            "IWAE with 50 samples had time for {} epochs, VLAE for {}:",
            tuple(f"{equal[name]['epochs']:.0f}" for name in ("iwae50", "vlae1")),
        ),
        Claim(PAGE, "Given {} seconds each (one seed", (f"{compared['config']['seconds']:.0f}",)),
        Claim(PAGE, "above IWAE's figure with 50 samples by {} nats", (fixed(reached - iwae),)),
    ]


def _dynamics() -> list[Claim]:
    report = load("published_burda_static_from")
    rows = {row["name"]: row for row in report["rows"]}
    first, second = (
        fixed(rows[f"amortised1{samples}"]["bound"]["mean"] - rows[f"recentred1{samples}"]["bound"]["mean"])
        for samples in ("", "_iw5")
    )
    before = with_gap(rows.pop("recentred1_iw5-before"))
    assert before is not None
    reached = [found["mean"] for found in map(with_gap, rows.values()) if found is not None]
    assert len(reached) == 4  # the gap was measured of all
    moved = fixed(max(abs(value - before["mean"]) for value in reached))
    seconds = f"{report['config']['seconds']:.0f}"
    images = (f"{report['config']['eval_images']}", f"{report['config']['ais_images']}")
    errors = [row["ais"]["gap_error"] for row in rows.values()]
    known = (fixed(min(errors)), fixed(max(errors)))
    return [
        Claim(README, "from that static model for the same {} seconds on one core", (seconds,)),
        Claim(README, "(one seed, {} test images; the gap on {}, known to {} to {} nats)", (*images, *known)),
        Claim(README, "are worth {} nats of the bound, with five samples of either {},", (first, second)),
        Claim(README, "no method has moved log p(x) by more than {} nats", (moved,)),
        Claim(PAGE, "Trained on from there for {} seconds each, four", (seconds,)),
        Claim(PAGE, "a bound {} nats above the Gaussian's that they start from", (first,)),
        Claim(PAGE, "and with five samples {} above its five", (second,)),
        Claim(PAGE, "stays within {} nats of where it was", (moved,)),
    ]


def _vlae() -> list[Claim]:
    other = load("published_vlae_equal")
    own_bounds = {row["name"]: row["bound"]["mean"] for row in other["rows"]}
    above_vae = {name: fixed(value - own_bounds["vae"]) for name, value in own_bounds.items()}
    assert len(own_bounds) == 5  # as the page has it in words
    assert max(own_bounds, key=own_bounds.__getitem__) == "recentred_iw5"
    vlae = next(row["log_likelihood"] for row in other["published"] if row["method"].startswith("VLAE"))
    return [
        Claim(
            PAGE,
            "784-500-500-50 ReLU, dynamic binarization, {} seconds each",
            (f"{other['config']['seconds']:.0f}",),
        ),
        Claim(
            PAGE,
            "highest bound of five methods, {} nats above the VAE's, and the recentred Gaussian alone has one {} nats",
            (above_vae["recentred_iw5"], above_vae["recentred"]),
        ),
        Claim(
            PAGE,
            "samples of the plain encoder {}, four leapfrog steps from the recentred Gaussian {}, behind",
            (above_vae["iwae5"], above_vae["amortised"]),
        ),
        Claim(PAGE, "and its published {} takes far longer", (fixed(vlae),)),
    ]


def _uha() -> list[Claim]:
    report = load("published_uha_long")
    (own,) = report["rows"]
    theirs = {row["method"]: row for row in report["published"]}
    reached = with_gap(own)
    assert reached is not None
    value, best = reached["mean"], theirs["UHA, 64 densities"]
    named = [theirs[name]["log_likelihood"] for name in ("UHA, 16 densities", "IWAE, K = 64")]
    # As the page has it in words: level with these, by less than the gap's error.
    assert len(set(named)) == 1
    assert max(abs(value - theirs) for theirs in named) < own["ais"]["gap_error"]
    minutes = f"{own['epochs'] * own['seconds_per_epoch'] / 60:.0f}"
    return [
        Claim(PAGE, "after {} epochs, {} minutes", (f"{own['epochs']:.0f}", minutes)),
        Claim(
            PAGE,
            "a log p(x) of {} as bound plus gap (known to {})",
            (fixed(value), fixed(own["ais"]["gap_error"])),
        ),
        Claim(README, "it has {} after {} epochs, level with", (fixed(value), f"{own['epochs']:.0f}")),
        Claim(
            README,
            "their 64 have {}, and a gap of {} nats where ours is {}",
            (
                fixed(best["log_likelihood"]),
                fixed(best["log_likelihood"] - best["bound"], 1),
                fixed(own["ais"]["gap"]["mean"]),
            ),
        ),
        Claim(PAGE, "samples, both {}; UHA's", (fixed(named[0]),)),
        Claim(PAGE, "64 densities, {}, is not reached", (fixed(best["log_likelihood"]),)),
        Claim(
            PAGE,
            "the bound here is {}, theirs {}, and the gap {}, theirs {}",
            (
                fixed(own["bound"]["mean"]),
                fixed(best["bound"]),
                fixed(own["ais"]["gap"]["mean"]),
                fixed(best["log_likelihood"] - best["bound"], 1),
            ),
        ),
    ]


def _cifar10() -> list[Claim]:
    colour = load("published_cifar10_equal")
    bits = {row["name"]: (fixed(row["bits"]["bound"], 3), f"{row['epochs']:.0f}") for row in colour["rows"]}
    return [
        Claim(
            PAGE,
            "{} images, {} seconds each, one seed) the recentred Gaussian has a",
            (f"{colour['rows'][0]['num_train']:,}", f"{colour['config']['seconds']:.0f}"),
        ),
        Claim(
            PAGE,
            "bound of {} bits per dimension after {} epochs, the VAE {} after {}, five importance samples {} after {}:",
            (*bits["recentred"], *bits["vae"], *bits["iwae5"]),
        ),
    ]
