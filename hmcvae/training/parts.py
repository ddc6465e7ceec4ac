"""Epochs that are too long to be lost: they are run and saved in parts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hmcvae.training.checkpoints import Checkpoints
from hmcvae.training.epoch import no_metrics
from hmcvae.training.hosts import together
from hmcvae.training.state import StepMetrics, TrainState
from hmcvae.training.stored import AnotherTreeError
from hmcvae.training.streams import Stream, go_to, where
from hmcvae.types import PyTree


class Parts:
    """An epoch in parts of about num_steps steps, `state -> (state, metrics [num_batches])`; one that was left is gone
    on with.

    Args:
        part: from `make_part`, or `make_stream_part`.
        examples: what it takes: all of them, or a `Stream`.
        kept: where it is saved, with the state, the metrics so far and the step that is next.
        after: called with the state after each save.
        place: puts a state that was saved on its devices.
    """

    def __init__(
        self,
        part: Callable[..., tuple],
        examples: PyTree | Stream,
        num_batches: int,
        kept: Checkpoints,
        num_steps: int,
        after: Callable[[TrainState], object] | None,
        place: Callable[[TrainState], TrainState],
    ):
        self._part, self._examples, self._kept = part, examples, kept
        self._num_batches, self._num_steps, self._after, self._place = num_batches, num_steps, after, place

    def __call__(self, state: TrainState) -> tuple[TrainState, StepMetrics]:
        state, metrics, begin = self._begun(state)
        while True:
            end = begin + self._num_steps
            state, metrics, done, is_over = together(
                lambda now=(state, metrics, begin, end): self._part(*now, self._examples)
            )
            if bool(is_over):
                return state, metrics
            begin = int(done)
            self._kept.save(
                begin, self._tree(state, metrics, begin), metadata={"data": where(self._examples)}
            )
            if self._after is not None:
                self._after(state)

    def _begun(self, state: TrainState) -> tuple[TrainState, StepMetrics, int]:
        """The state, the metrics and the next step of this epoch: those that were saved, where there are any."""
        # As NumPy's arrays, which every process and device can take.
        fresh = state, jax.tree.map(np.asarray, no_metrics((self._num_batches,))), 0
        if not self._kept.epochs():
            return fresh
        found = self._restored(fresh)
        own, next_step = found["state"], int(found["next_step"])
        is_same_run = np.array_equal(own.rng_key, state.rng_key) and int(own.epoch) == int(state.epoch)
        if not is_same_run or int(own.step) != int(state.step) + next_step:
            return fresh
        go_to(self._examples, (self._kept.metadata() or {}).get("data"))
        return self._place(own), jax.tree.map(np.asarray, found["metrics"]), next_step

    def _restored(self, fresh: tuple[TrainState, StepMetrics, int]) -> dict[str, Any]:
        try:
            return self._kept.restore(self._tree(*fresh))
        except AnotherTreeError as error:
            if not all(name.startswith("metrics.") for name in error.names):
                raise
            raise ValueError(
                f"the part of an epoch that is saved in {self._kept.folder} is not of one of {self._num_batches} steps "
                f"({error.differences[0]}): batch_size, or the number of training examples, was another. Give those "
                "again, or move the folder away to begin the epoch anew"
            ) from error

    @staticmethod
    def _tree(state: TrainState, metrics: StepMetrics, next_step: Any) -> dict[str, Any]:
        return {"state": state, "metrics": metrics, "next_step": jnp.asarray(next_step, jnp.int32)}
