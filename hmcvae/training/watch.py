"""Tells good epochs from bad ones, and stops a run that has too many bad steps."""

import warnings
from collections import deque
from typing import Any

import numpy as np

from hmcvae.training.checkpoints import Checkpoints
from hmcvae.training.settings import Settings
from hmcvae.training.state import TrainState

# An epoch whose bound falls by so many times its size is no good one, though all of its steps were finite.
COLLAPSE = 10.0


class TrainingWarning(UserWarning):
    """A training that ended, and is not what it seems; the message says what was seen and what helps."""


class NotFiniteError(RuntimeError):
    """Too many steps could not be taken: their loss, gradient or new parameters were not finite."""


class Watch:
    """What was seen of a run's epochs so far."""

    def __init__(self, settings: Settings, num_batches: int):
        self._settings, self._num_batches = settings, num_batches
        self._limit, num_epochs = settings.max_skipped(num_batches)
        self._skipped: deque[int] = deque(maxlen=num_epochs)
        self._highest = -np.inf
        self._last: tuple[int, float, bool] | None = None
        self._has_stepped = True

    def seen(self) -> dict[str, Any]:
        """What it goes by, in values that JSON can hold."""
        return {"skipped": list(self._skipped), "highest": float(self._highest)}

    def go_on(self, seen: dict[str, Any] | None) -> None:
        """From what another one had seen, of a run that is resumed."""
        if seen is not None:
            self._skipped.extend(seen["skipped"])
            self._highest = float(seen["highest"])

    def see(
        self,
        state: TrainState,
        bound: float,
        first: float,
        num_skipped: int,
        checkpoints: Checkpoints | None,
    ) -> bool:
        """Whether the epoch was a good one; first: the bound of its first step, with the parameters from before it.

        Raises:
            NotFiniteError: if the run is to be stopped.
        """
        self._skipped.append(num_skipped)
        self._has_stepped = int(state.num_skipped) < int(state.step)
        too_many = self._too_many(state)
        if too_many:
            raise NotFiniteError(
                f"{too_many} up to epoch {int(state.epoch)} had a loss, gradient or new parameters that are not "
                f"finite, {int(state.num_skipped)} of {int(state.step)} since the start. "
                + _advice(self._has_stepped)
                + _way_back(checkpoints)
            )
        if np.isfinite(first):
            self._highest = max(self._highest, first)
        floor = (
            self._highest - COLLAPSE * max(1.0, abs(self._highest)) if np.isfinite(self._highest) else -np.inf
        )
        self._highest = max(self._highest, bound) if np.isfinite(bound) else self._highest
        self._last = int(state.epoch), bound, not bound > floor
        return num_skipped == 0 and bool(np.isfinite(bound)) and bound > floor

    def _too_many(self, state: TrainState) -> str:
        """What there is too much of, in words; empty where the run may go on."""
        if int(state.bad_run) >= self._settings.max_bad_steps:
            return f"{int(state.bad_run)} steps in a row"
        if sum(self._skipped) > self._limit:
            total = len(self._skipped) * self._num_batches
            share = self._settings.max_bad_share
            return f"{sum(self._skipped)} of {total} steps (max_bad_share = {share:g})"
        return ""

    def close(self, checkpoints: Checkpoints | None) -> None:
        """At the end of a run.

        Warns:
            TrainingWarning: if its bound has collapsed.

        Raises:
            NotFiniteError: if no step of the last epoch was taken.
        """
        if self._last is None:
            return
        epoch, bound, has_collapsed = self._last
        if np.isnan(bound):
            raise NotFiniteError(
                f"no step of the last epoch, {epoch}, had a finite loss, gradient and new parameters. "
                + _advice(self._has_stepped)
                + _way_back(checkpoints)
            )
        if has_collapsed:
            warnings.warn(
                f"the training ended at a bound of {bound:.4g}, far below the {self._highest:.4g} that it had before: "
                "try a lower learning_rate, or clip_norm" + _way_back(checkpoints),
                TrainingWarning,
                stacklevel=3,
            )


def _advice(has_stepped: bool) -> str:
    """What to do about steps that could not be taken."""
    if has_stepped:
        return (
            "Try a lower learning_rate, clip_norm (5 is a usual value) or a smaller step size of the dynamics"
        )
    return (
        "No step at all could be taken, so it is not the learning_rate: see which examples have a bound and a gradient "
        "that are finite with the initial parameters; smaller inputs, another activation of the nets, a smaller step "
        "size of the dynamics or float64 may help"
    )


def _way_back(checkpoints: Checkpoints | None) -> str:
    """What is kept from before, in words."""
    good = None if checkpoints is None else checkpoints.last_good()
    if good is None:
        return ""
    return f"; the last good checkpoint is kept, of epoch {good}: go on from it with resume_epoch={good}"
