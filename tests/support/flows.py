"""States of integrators, as vectors."""

import numpy as np


def stack(state) -> np.ndarray:
    """(position, momentum) as one float64 vector."""
    return np.concatenate([np.asarray(state[0], float), np.asarray(state[1], float)])
