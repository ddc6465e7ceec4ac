"""The methods of `experiments.study`: a name for each, to be trained against one VAE's decoder."""

import dataclasses
from collections.abc import Sequence

from experiments.configs import (
    Elbo,
    Fisher,
    FullCovariance,
    Hierarchical,
    Hvi,
    MeanField,
    Method,
    Rhvi,
    SketchedFisher,
)

AS_TRAINED = "Gaussian, as the VAE was trained"


def _whitened(posterior: MeanField | FullCovariance | Fisher, **changes) -> Hvi:
    """Dynamics in whitened coordinates, where a quarter of a period is π/2: four steps of about 0.4."""
    return Hvi(posterior, initial_step_size=0.3, **changes)


def _hierarchical(**changes) -> Hierarchical:
    """Likewise, with masses that depend on the position."""
    return Hierarchical(_TWICE, initial_step_size=0.3, **changes)


def _riemannian(num_iterations: int = 4, **changes) -> Rhvi:
    """Smaller steps: the implicit solves must converge."""
    return Rhvi(initial_step_size=0.15, num_iterations=num_iterations, **changes)


_PLAIN, _ONCE, _TWICE = (FullCovariance(num_centre_steps=n) for n in range(3))
_FISHER = Fisher(num_centre_steps=1)

METHODS: dict[str, Method] = {
    AS_TRAINED: Elbo(),
    "Gaussian": Elbo(),
    "Gaussian, full covariance": Elbo(_PLAIN),
    "Gaussian, full covariance, recentred": Elbo(_ONCE),
    "Gaussian, full covariance, recentred twice": Elbo(_TWICE),
    "Gaussian, Fisher, recentred": Elbo(_FISHER),
    "HVI-1": Hvi(num_steps=1),
    "HVI-4": Hvi(),
    "HVI-8": Hvi(num_steps=8),
    "HVI 4 x 1": Hvi(num_transitions=4, num_steps=1),
    "HVI 4 x 1, annealed": Hvi(num_transitions=4, num_steps=1, annealed=True),
    "HVI-4, per-example masses": _whitened(MeanField()),
    "amortised-4": _whitened(_PLAIN),
    "amortised-4, recentred": _whitened(_ONCE),
    "amortised-4, recentred, distilled": _whitened(FullCovariance(num_centre_steps=1, distillation=1.0)),
    "amortised-1, recentred twice": _whitened(_TWICE, num_steps=1),
    "amortised-2, recentred twice": _whitened(_TWICE, num_steps=2),
    "amortised-4, recentred twice": _whitened(_TWICE),
    "amortised-4, recentred twice, distilled": _whitened(
        FullCovariance(num_centre_steps=2, distillation=1.0)
    ),
    "amortised-4, rank 4, recentred twice": _whitened(FullCovariance(num_centre_steps=2, rank=4)),
    "amortised-4, random rank 4, recentred twice": _whitened(
        FullCovariance(num_centre_steps=2, rank=4, random_directions=True)
    ),
    "diagonal-4, rank 4, recentred": _whitened(MeanField(num_centre_steps=1, rank=4)),
    "diagonal-4, random rank 4, recentred": _whitened(
        MeanField(num_centre_steps=1, rank=4, random_directions=True)
    ),
    "amortised-8, recentred twice": _whitened(_TWICE, num_steps=8),
    "amortised 2 x 2, recentred twice": _whitened(_TWICE, num_transitions=2, num_steps=2),
    "amortised 4 x 1, recentred twice, annealed": _whitened(
        _TWICE, num_transitions=4, num_steps=1, annealed=True
    ),
    "sketched-4, recentred": _whitened(SketchedFisher(num_centre_steps=1)),
    "Fisher-4": _whitened(Fisher()),
    "Fisher-4, recentred": _whitened(_FISHER),
    "Fisher-4, recentred twice": _whitened(Fisher(num_centre_steps=2)),
    "HVI-4, hierarchical masses": Hierarchical(),
    "HVI-4, hierarchical masses of a network": Hierarchical(mass_hidden=100),
    "amortised-4, recentred twice, hierarchical masses": _hierarchical(),
    "amortised-4, recentred twice, hierarchical masses of a network": _hierarchical(mass_hidden=100),
    "RHVI-2, recentred": _riemannian(num_steps=2),
    "RHVI-4, recentred": _riemannian(num_steps=4),
    "RHVI-2, recentred, solved to tolerance": _riemannian(num_steps=2, num_iterations=0),
    # The same code and number of parameters less one, with a metric that does not depend on the position.
    "RHVI-2, recentred, position dependence 0": _riemannian(num_steps=2, position_dependence=0.0),
    "RHVI-2, recentred, position dependence 1": _riemannian(num_steps=2, position_dependence=1.0),
}

# Families whose transitions and steps a grid varies.
FAMILIES: dict[str, Hvi | Rhvi] = {
    "HVI": Hvi(),
    "amortised, recentred twice": _whitened(_TWICE),
    "Fisher, recentred": _whitened(_FISHER),
    "RHVI, recentred": _riemannian(),
}


def grid(families: Sequence[str], transitions: Sequence[int], steps: Sequence[int]) -> dict[str, Method]:
    """The methods of a grid over T and L, named "FAMILY, T x L"."""
    return {
        f"{family}, {T} x {L}": dataclasses.replace(FAMILIES[family], num_transitions=T, num_steps=L)
        for family in families
        for T in transitions
        for L in steps
    }
