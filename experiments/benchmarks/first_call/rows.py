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
    """seconds: of the call.  preparing: of them, those in which JAX traced, lowered, compiled or loaded.  compiling:
    of these, those of programs that were compiled, and not loaded from disk.  The medians of the rounds.  is_cached:
    with JAX's compilation cache on disk, empty at the first call, and constants out of the programs."""

    kind: str
    sampler: str
    is_cached: bool
    change: str
    seconds: float
    preparing: float
    compiling: float

    def to_json(self) -> dict:
        return asdict(self)


def rows_of(report: dict) -> list[CallRow]:
    return [CallRow(**row) for row in report["rows"]]
