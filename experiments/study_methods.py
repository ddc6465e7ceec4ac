"""The methods of `experiments.study`: a name, and how each differs from the plain VAE whose decoder is studied."""

from collections.abc import Sequence

AS_TRAINED = "Gaussian, as the VAE was trained"

# Of dynamics in whitened coordinates, where a quarter of a period is π/2: four steps of about 0.4.
_WHITENED = {"method": "whitened", "initial_step_size": 0.3}
_TWICE = _WHITENED | {"num_recentrings": 2}
_FISHER = _WHITENED | {"metric": "fisher"}
# Smaller: the implicit solves must converge.
_RIEMANNIAN = {"method": "rhvi", "metric": "fisher", "initial_step_size": 0.15, "num_iterations": 4}

# name: how it differs from the preset's plain VAE.
METHODS: dict[str, dict] = {
    AS_TRAINED: {"method": "vae"},
    "Gaussian": {"method": "vae"},
    "Gaussian, full covariance": {"method": "whitened", "num_transitions": 0, "num_recentrings": 0},
    "Gaussian, full covariance, recentred": {"method": "whitened", "num_transitions": 0},
    "Gaussian, full covariance, recentred twice": _TWICE | {"num_transitions": 0},
    "Gaussian, Fisher, recentred": _FISHER | {"num_transitions": 0},
    "HVI-1": {"method": "hvi", "num_steps": 1},
    "HVI-4": {"method": "hvi"},
    "HVI-8": {"method": "hvi", "num_steps": 8},
    "HVI 4 x 1": {"method": "hvi", "num_transitions": 4, "num_steps": 1},
    "HVI 4 x 1, annealed": {"method": "hvi", "num_transitions": 4, "num_steps": 1, "annealed": True},
    "HVI-4, masses of each datum": _WHITENED | {"metric": "diagonal", "num_recentrings": 0},
    "amortised-4": _WHITENED | {"num_recentrings": 0},
    "amortised-4, recentred": _WHITENED,
    "amortised-4, recentred, distilled": _WHITENED | {"distillation": 1.0},
    "amortised-1, recentred twice": _TWICE | {"num_steps": 1},
    "amortised-2, recentred twice": _TWICE | {"num_steps": 2},
    "amortised-4, recentred twice": _TWICE,
    "amortised-4, recentred twice, distilled": _TWICE | {"distillation": 1.0},
    "amortised-4, rank 4, recentred twice": _TWICE | {"rank": 4},
    "amortised-4, random rank 4, recentred twice": _TWICE | {"rank": 4, "random_directions": True},
    "diagonal-4, rank 4, recentred": _WHITENED | {"metric": "diagonal", "rank": 4},
    "diagonal-4, random rank 4, recentred": _WHITENED
    | {"metric": "diagonal", "rank": 4, "random_directions": True},
    "amortised-8, recentred twice": _TWICE | {"num_steps": 8},
    "amortised 2 x 2, recentred twice": _TWICE | {"num_transitions": 2, "num_steps": 2},
    "amortised 4 x 1, recentred twice, annealed": _TWICE
    | {"num_transitions": 4, "num_steps": 1, "annealed": True},
    "sketched-4, recentred": _WHITENED | {"metric": "sketched"},
    "Fisher-4": _FISHER | {"num_recentrings": 0},
    "Fisher-4, recentred": _FISHER,
    "Fisher-4, recentred twice": _FISHER | {"num_recentrings": 2},
    "RHVI-2, recentred": _RIEMANNIAN | {"num_steps": 2},
    "RHVI-4, recentred": _RIEMANNIAN | {"num_steps": 4},
    "RHVI-2, recentred, solved to tolerance": _RIEMANNIAN | {"num_steps": 2, "num_iterations": 0},
    # The same code and number of parameters less one, with a metric that does not go with the position.
    "RHVI-2, recentred, share 0": _RIEMANNIAN | {"num_steps": 2, "position_dependence": 0.0},
    "RHVI-2, recentred, share 1": _RIEMANNIAN | {"num_steps": 2, "position_dependence": 1.0},
}

# Families whose transitions and steps a grid varies: name, and how it differs from the plain VAE.
FAMILIES: dict[str, dict] = {
    "HVI": {"method": "hvi"},
    "amortised, recentred twice": _TWICE,
    "Fisher, recentred": _FISHER,
    "RHVI, recentred": _RIEMANNIAN,
}


def grid(families: Sequence[str], transitions: Sequence[int], steps: Sequence[int]) -> dict[str, dict]:
    """The methods of a grid over T and L: "FAMILY, T x L", and how each differs from the plain VAE."""
    return {
        f"{family}, {T} x {L}": FAMILIES[family] | {"num_transitions": T, "num_steps": L}
        for family in families
        for T in transitions
        for L in steps
    }
