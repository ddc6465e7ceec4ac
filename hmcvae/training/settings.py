"""What a training loop is told, checked when it is made."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib

from hmcvae._checks import check_choice, check_count, check_positive, check_real, check_seed
from hmcvae.types import PyTree

SCHEDULES = ("constant", "cosine", "burda")


@dataclass(frozen=True)
class Settings:
    """How long to train, on how many examples a step, and when to stop.

    Attributes:
        num_epochs: passes over the training examples.
        batch_size: examples a step; what the last whole batch leaves over sits out that epoch (others each time).
        clip_norm: gradients are scaled down to this global norm; 0 turns it off.
        kl_warmup_epochs: the weight of everything but log p(x | z) rises from 0 to 1 over this many epochs; 0: off.
        patience: stop after so many epochs without a better validation bound; 0 turns it off.
        max_bad_steps: stop with an error, in mid-epoch, when so many steps in a row could not be taken: their loss,
            gradient or new parameters were not finite.
        max_bad_share: stop likewise when more than this share of an epoch's steps could not be taken (of the last few
            epochs', where one has few steps: never before max_bad_steps of them); 1 turns it off.
        seed: of parameters, order, preprocessing and draws.

    Raises:
        ValueError: for a value outside its range.
    """

    num_epochs: int = 30
    batch_size: int = 200
    clip_norm: float = 0.0
    kl_warmup_epochs: int = 0
    patience: int = 0
    max_bad_steps: int = 20
    max_bad_share: float = 0.2
    seed: int = 0

    def __post_init__(self):
        whole = {"num_epochs": 1, "batch_size": 1, "kl_warmup_epochs": 0, "patience": 0, "max_bad_steps": 1}
        values: dict[str, Any] = {
            name: check_count(name, getattr(self, name), low) for name, low in whole.items()
        }
        values["seed"] = check_seed("seed", self.seed)
        check_positive("max_bad_share", self.max_bad_share)
        values["max_bad_share"] = check_real("max_bad_share", self.max_bad_share, 0, 1)
        values["clip_norm"] = check_real("clip_norm", self.clip_norm, 0)
        for name, value in values.items():  # NumPy's numbers as Python's: they are written to JSON
            object.__setattr__(self, name, value)

    def max_skipped(self, num_batches: int) -> tuple[int, int]:
        """(n, k): more than n bad steps in k epochs are too many; k > 1 where max_bad_steps are more than one epoch's
        share."""
        num_epochs = max(1, math.ceil(self.max_bad_steps / (self.max_bad_share * num_batches)))
        return max(self.max_bad_steps, math.floor(self.max_bad_share * num_epochs * num_batches)), num_epochs


def check_learning_rate(learning_rate: Any, schedule: Any) -> float:
    """The rate as a Python float.

    Raises:
        ValueError: unless it is positive and finite in single precision, in which the device works, and the schedule is
            one of SCHEDULES.
    """
    largest = float(np.finfo(np.float32).max)
    rate = check_real("learning_rate", learning_rate, 0, largest, is_open=True)
    check_choice("schedule", schedule, SCHEDULES)
    return rate


def adam(learning_rate: float, schedule: str, num_steps: int) -> optax.GradientTransformation:
    """Adam, with a schedule over a run of num_steps steps.

    Args:
        learning_rate: at its highest.
        schedule: "constant"; "cosine" to zero; or "burda": falling by 10^(-1/7) over eight stages of 3^i epochs
            (Burda et al. 2016, section 5), scaled to num_steps.
        num_steps: of the whole run.

    Raises:
        ValueError: for a value outside its range.
    """
    return optax.adam(_scheduled(learning_rate, schedule, num_steps))


def muon(learning_rate: float, schedule: str, num_steps: int) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024): of each leaf of two axes the momentum's nearest orthogonal matrix, M (MᵀM)^(-1/2), by
    five Newton-Schulz steps, times √max(1, outputs / inputs); a leaf of four is a convolution's kernel, the matrix from
    its patches to its maps. NAdam with the same rate for all else. With a schedule over a run of num_steps steps.

    On a dense net with 100 images a step, rates near 1e-2 are what 1e-3 to 5e-3 are to Adam; a step costs ten to
    fifteen products of each matrix with itself more.

    Args:
        learning_rate, schedule, num_steps: as of `adam`.

    Raises:
        ValueError: for a value outside its range.
    """
    rate = _scheduled(learning_rate, schedule, num_steps)
    return optax.contrib.muon(rate, muon_weight_dimension_numbers=_matrices)


def _matrices(params: PyTree) -> PyTree:
    """Which axes of each leaf are a matrix's inputs and output; None: it is no matrix."""

    def axes(leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        if np.ndim(leaf) not in (2, 4):
            return None
        last = np.ndim(leaf) - 1
        return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last)

    return jax.tree.map(axes, params)


def _scheduled(learning_rate: float, schedule: str, num_steps: int) -> Any:
    rate: Any = check_learning_rate(learning_rate, schedule)
    num_steps = check_count("num_steps", num_steps, 1)
    if schedule == "cosine":
        return optax.cosine_decay_schedule(rate, num_steps)
    if schedule == "burda":
        ends = [(3**stage - 1) // 2 for stage in range(1, 9)]
        boundaries: dict[int, float] = {}
        for end in ends[:-1]:  # in a short run several stages end before one step
            step = -(-num_steps * end // ends[-1])
            boundaries[step] = boundaries.get(step, 1.0) * 10 ** (-1 / 7)
        return optax.piecewise_constant_schedule(rate, boundaries)
    return rate
