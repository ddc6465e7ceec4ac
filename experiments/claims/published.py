"""The sentences about the nets of the literature: published_burda_longer."""

from experiments.claims.check import PAGE, README, Claim, load
from experiments.claims.wording import fixed


def claims() -> list[Claim]:
    """All of them."""
    report = load("published_burda_longer")
    ours = report["rows"][-1]["log_likelihood"]["mean"]
    highest = max(row["log_likelihood"] for row in report["published"])
    above = fixed(ours - highest)
    return [
        Claim(README, "ends level with DAIS's highest figure: {} nats above", (above,)),
        Claim(PAGE, "highest, {}, after 500, and {} nats above it after 650", (fixed(highest), above)),
    ]
