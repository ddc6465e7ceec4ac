"""What the benchmark of first calls finds."""

from dataclasses import asdict, dataclass

# The first call, and what is another in each of those after it.
CHANGES = {
    "first": "the first",
    "key": "another key and start",
    "samples": "one draw more",
    "warmup": "one transition of warm-up more",
    "again": "the algorithm built anew, of the same density",
    "data": "other data of the same shape",
    "process": "the first, in a new process",
}


@dataclass(frozen=True)
class CallRow:
    """seconds: of the call.  compiling: of them, those in which JAX traced, lowered or compiled.  The medians of the
    rounds.  is_cached: with JAX's compilation cache on disk, empty at the first call."""

    kind: str
    sampler: str
    is_cached: bool
    change: str
    seconds: float
    compiling: float

    def to_json(self) -> dict:
        return asdict(self)


def rows_of(report: dict) -> list[CallRow]:
    return [CallRow(**row) for row in report["rows"]]
