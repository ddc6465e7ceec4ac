"""What the benchmark of the bounds finds: rows that go into its JSON and come back from it."""

from dataclasses import dataclass

from experiments.benchmarks.training import records
from experiments.benchmarks.training.records import Known


@dataclass(frozen=True)
class Row:
    """A bound. seconds, cpu_seconds: of an epoch, medians.  rounds: seconds of each.

    over_hvi: seconds over HVI's.  over_parts: over those of its necessary parts; None where it is no sum.
    rhvae_over_it: the peer's seconds over its own; None where that was not measured.  gflop: of an epoch.
    temporary_mib: memory that the program works in; None for a peer's.
    """

    model: str
    library: str
    seconds: float
    cpu_seconds: float
    rounds: list[float]
    over_hvi: float
    over_parts: float | None
    rhvae_over_it: float | None
    gflop: float
    temporary_mib: float | None

    @property
    def name(self) -> str:
        return self.model if self.library == "hmcvae" else f"{self.library} {self.model}"


def parts(seconds: dict[str, float]) -> dict[str, float]:
    """For the bounds that are sums: the seconds of their necessary parts, from bounds of their own."""
    metric = seconds["Fisher Gaussian"] - seconds["VAE"]
    return {
        "amortised": seconds["HVI"] + seconds["full Gaussian"] - seconds["VAE"],
        "Fisher": seconds["HVI"] + metric,
        "RHVI": seconds["RHVI's parts"],
    }


def make_rows(measured: list[records.Row], known: Known) -> list[Row]:
    """Seconds, ratios, XLA's count of operations and temporary memory."""
    taken = {(row.library, row.model): row.seconds or 0.0 for row in measured}
    ours = {model: seconds for (library, model), seconds in taken.items() if library == "hmcvae"}
    peer, sums = taken.get(("pythae", "RHVAE")), parts(ours)
    rows = []
    for row in measured:
        facts, seconds = known[row.library][row.model], taken[row.library, row.model]
        rows.append(
            Row(
                model=row.model,
                library=row.library,
                seconds=seconds,
                cpu_seconds=row.cpu_seconds or 0.0,
                rounds=row.rounds,
                over_hvi=seconds / ours["HVI"],
                over_parts=seconds / sums[row.model] if row.model in sums else None,
                rhvae_over_it=peer / seconds if peer else None,
                gflop=(facts.flops or 0.0) / 1e9,
                temporary_mib=facts.temporary_bytes / 2**20 if facts.temporary_bytes else None,
            )
        )
    return rows


def from_json(report: dict) -> list[Row]:
    return [Row(**row) for row in report["rows"]]
