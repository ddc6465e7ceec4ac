"""An even choice among many."""

import numpy as np
from jaxtyping import Int


def evenly(length: int, count: int = 0) -> Int[np.ndarray, " n"]:
    """Indices of `count` of `length` entries, in order and evenly spread, the first and the last among them: some data
    sets are sorted by class. All of them where count is 0, or more than there are."""
    return np.linspace(0, length - 1, min(count or length, length)).astype(int)
