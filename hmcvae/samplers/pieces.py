"""A run's transitions, cut into pieces: for its draws' place in memory, for a progress bar, and to be saved."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hmcvae.samplers.draws import TransitionCounts
from hmcvae.samplers.programs import zero_counts
from hmcvae.types import PyTree

# Draws that a device holds before they go to the host: as many as this many bytes hold, and no more than so many. It
# does not go with the length of the run, so that one program serves any.
CHUNK_BYTES, MOST_DRAWS = 2**23, 1024
# Seconds of a piece: where a bar moves, and where it is saved.
SHOWN, SAVED = 0.2, 2.0


class Piece(NamedTuple):
    """What is there after the draws up to `stop`; draws: those from `start`, in a longer record."""

    start: int
    stop: int
    state: Any
    counts: TransitionCounts
    draws: PyTree

    def taken(self) -> PyTree:
        """The draws as NumPy's own arrays [chain, draw, …]."""
        return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[:, : self.stop - self.start]), self.draws)


def capacity(record: PyTree) -> int:
    """How many draws of all the chains a device holds, of what one is."""
    size = sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(record))
    return int(np.clip(CHUNK_BYTES // max(size, 1), 1, MOST_DRAWS))


def in_pieces(
    run: Callable,
    state: Any,
    total: int,
    *,
    start: int = 0,
    counts: TransitionCounts | None = None,
    allocate: Callable[[], PyTree] | None = None,
    most: int | None = None,
    seconds: float | None = None,
    after: Callable[[Piece], object] = lambda piece: None,
) -> tuple[Any, TransitionCounts]:
    """Call run(state, draws, counts, start, stop) over start … total, and `after` with each piece once it is there.

    Each piece is dispatched before the last one is waited for, so the device never idles for the host.

    Args:
        allocate: makes the record of a piece's draws, if there are any.
        most: draws of a piece.
        seconds: grow pieces until they take about as long; None: as long as they can be.
    """
    tally: TransitionCounts = zero_counts() if counts is None else counts
    most = max(1, total - start) if most is None else most
    size, clock, last = most if seconds is None else 1, time.perf_counter(), None
    while start < total or last is not None:
        piece = None
        if start < total:
            stop = min(start + size, total)
            draws = None if allocate is None else allocate()
            state, draws, tally = run(state, draws, tally, start, stop)
            piece = Piece(start, stop, state, tally, draws)
            start = stop
        if last is not None:
            after(last)
            if seconds is not None:
                jax.block_until_ready(last.counts)
                elapsed, clock = time.perf_counter() - clock, time.perf_counter()
                size = min(2 * size, most) if elapsed < 0.75 * seconds else size
                size = max(1, size // 2) if elapsed > 2 * seconds else size
        last = piece
    return state, tally
