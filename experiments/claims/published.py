"""The sentences about the nets of the literature: published_burda_longer, _static and _equal."""

from experiments.claims.check import PAGE, README, Claim, load
from experiments.claims.wording import fixed


def claims() -> list[Claim]:
    """All of them."""
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
