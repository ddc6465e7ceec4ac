"""Batches that come from the host one by one, where a training stands in them, and epochs of them."""

import base64
import copy
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from hmcvae.bounds import Bound
from hmcvae.training.devices import Devices
from hmcvae.training.epoch import MAX_PIECE, ONE_DEVICE, epoch_keys, make_step, no_metrics
from hmcvae.training.hosts import texts_from_all
from hmcvae.training.inputs import Preprocess, check_examples, keep_as_is
from hmcvae.training.settings import Settings
from hmcvae.training.state import StepMetrics, TrainState, undo_overflow
from hmcvae.types import PyTree
from hmcvae.vae import num_examples

# How iterators say where they stand, and are sent there: Grain's names, and PyTorch's.
STATE_METHODS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))
# Batches are handed to the device this far ahead of its steps, at most.
AHEAD = 4


class Stream:
    """The batches of an iterable, epoch by epoch.

    An iterator goes on from epoch to epoch; any other iterable begins anew. Where it stands (`position`) is the state
    of what has one, by `STATE_METHODS`: the iterable itself, or its iterator. Of what has none it is the number of
    batches that were taken of the epoch: an iterable is read again up to there, and is taken to give the same ones; an
    iterator cannot be sent back, and goes on from where it is.
    """

    def __init__(self, data: Iterable[PyTree]):
        self._data = data
        self._source: Iterator[PyTree] | None = None
        self._num_taken = 0
        self._waiting: list[PyTree] = []

    def first(self) -> PyTree | None:
        """The first batch, which is still to come; None if there is none."""
        has_state = _methods(self._data) is not None
        before = copy.deepcopy(_state(self._data))  # some give the very object that they go on changing
        source = iter(self._data)
        batch = next(source, None)
        if has_state:
            _set_state(self._data, before)
        elif source is self._data and batch is not None:
            self._waiting, self._source = [batch], source
        return batch

    def take(self) -> PyTree | None:
        """The next batch of the epoch; None if there is none."""
        if self._source is None:
            self._source = iter(self._data)
        batch = self._waiting.pop() if self._waiting else next(self._source, None)
        self._num_taken += batch is not None
        return batch

    def end_epoch(self) -> None:
        self._source, self._num_taken = None, 0
        if _methods(self._data) is not None:
            # A loader with a state of its own says at its end that all is taken: what is saved is the next beginning.
            self._source = iter(self._data)

    def position(self) -> dict[str, Any]:
        """Where it stands, in values that JSON can hold.

        Raises:
            ValueError: for a state of the data that is made of anything but numbers, text, bytes, arrays, lists and
                dictionaries.
        """
        holder = self._holder()
        state = None if holder is None else _as_json(_state(holder))
        return {"num_taken": self._num_taken, "state": state}

    def go_to(self, position: dict[str, Any]) -> None:
        """Stand where `position` says.

        Raises:
            ValueError: if the data have no state to be set, or fewer batches than were taken.
        """
        self._source, self._num_taken = None, int(position["num_taken"])
        is_iterator = isinstance(self._data, Iterator) and not hasattr(self._data, "__len__")
        if position["state"] is not None:
            if _methods(self._data) is None:
                self._source = iter(self._data)
            holder = self._holder()
            if holder is None:
                names = " or ".join(f"{get} and {put}" for get, put in STATE_METHODS)
                raise ValueError(
                    f"the checkpoint holds a state of the data: expected data with {names}, got "
                    f"{type(self._data).__name__}"
                )
            self._waiting = []
            _set_state(holder, _from_json(position["state"]))
        elif self._num_taken and not is_iterator:
            self._source = iter(self._data)
            for index in range(self._num_taken):
                if next(self._source, None) is None:
                    raise ValueError(
                        f"{self._num_taken} batches of the epoch were taken before, got data that end after {index}"
                    )

    def _holder(self) -> Any:
        """What has a state, if anything does."""
        return next((own for own in (self._data, self._source) if _methods(own) is not None), None)


def where(data: Any) -> list[dict[str, Any]] | None:
    """Where each process's stream stands; None for data in memory."""
    if not isinstance(data, Stream):
        return None
    return [json.loads(text) for text in texts_from_all(json.dumps(data.position()))]


def go_to(data: Any, positions: list[dict[str, Any]] | None) -> None:
    """Send each process's stream to where it stood; nothing for data in memory, or where none was saved.

    Raises:
        ValueError: see `Stream.go_to`; or if there were more processes, or fewer.
    """
    if positions is None or not isinstance(data, Stream):
        return
    if len(positions) != jax.process_count():
        raise ValueError(
            f"the checkpoint is of a stream that {len(positions)} processes have read, each its own part: expected as "
            f"many, got {jax.process_count()}"
        )
    data.go_to(positions[jax.process_index()])


def _methods(source: Any) -> tuple[str, str] | None:
    """The names by which its state is had and set."""
    return next(
        (pair for pair in STATE_METHODS if all(callable(getattr(source, n, None)) for n in pair)), None
    )


def _state(source: Any) -> Any:
    names = _methods(source)
    return None if names is None else getattr(source, names[0])()


def _set_state(source: Any, state: Any) -> None:
    names = _methods(source)
    assert names is not None, "it has given its state"
    getattr(source, names[1])(state)


def _as_json(state: Any) -> list:
    """[kind, value]: bytes, arrays and tuples come back as such, which JSON alone would not give."""
    if isinstance(state, bytes):
        return ["bytes", base64.b64encode(state).decode()]
    if isinstance(state, (np.ndarray, np.generic)) and state.dtype.kind in "biuf":
        array = np.asarray(state)
        return ["array", [array.dtype.str, list(array.shape), base64.b64encode(array.tobytes()).decode()]]
    if isinstance(state, dict):
        return ["dict", [[_as_json(name), _as_json(value)] for name, value in state.items()]]
    if isinstance(state, (list, tuple)) and type(state) in (list, tuple):
        return [type(state).__name__, [_as_json(value) for value in state]]
    if state is None or isinstance(state, (bool, int, float, str)):
        return ["value", state]
    raise ValueError(
        "the state of the data must be made of numbers, text, bytes, arrays, lists and dictionaries to be saved, got "
        f"{type(state).__name__}"
    )


def _from_json(stored: list) -> Any:
    kind, value = stored
    if kind == "bytes":
        return base64.b64decode(value)
    if kind == "array":
        dtype, shape, data = value
        return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
    if kind == "dict":
        return {_from_json(name): _from_json(own) for name, own in value}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_from_json(own) for own in value)
    return value


def make_stream_part(
    bound: Bound,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    preprocess: Preprocess = keep_as_is,
    devices: Devices = ONE_DEVICE,
) -> Callable[..., tuple[TrainState, StepMetrics, int, bool]]:
    """`make_part` over a `Stream` in place of examples, key for key: `(state, metrics [num_batches], begin, end,
    stream) -> (state, metrics, end, is_over)`.

    Raises (when it is called):
        ValueError: if there are fewer batches, or one of them is not what `preprocess` takes.
    """
    take_step = make_step(bound, optimizer, settings, preprocess, devices)

    @jax.jit
    def step(
        state: TrainState, batch: PyTree, keys: Key[Array, " n"], index: Any
    ) -> tuple[TrainState, StepMetrics]:
        return take_step(state, batch, keys[index], len(keys))

    undo = jax.jit(undo_overflow)

    def take_piece(state: TrainState, stream: Stream, keys: Key[Array, " n"], indices: range) -> tuple:
        before, piece = state, []
        for index in indices:
            batch = _next_batch(stream, preprocess, state, index, len(keys))
            state, one = step(state, devices.put_batch(batch), keys, index)
            piece.append(one)
            if len(piece) > AHEAD:  # else a fast source fills the memory with batches that wait
                jax.block_until_ready(piece[-1 - AHEAD])
        return undo(before, state, jax.tree.map(lambda *values: jnp.stack(values), *piece))

    def part(state: TrainState, metrics: StepMetrics, begin: int, end: int, stream: Stream) -> tuple:
        num_batches = len(metrics.is_taken)
        _, keys = epoch_keys(state, num_batches)
        limit, _ = settings.max_skipped(num_batches)
        # Of this epoch: those of the steps before `begin` are in the metrics.
        first_skipped = int(state.num_skipped) - (begin - int(np.sum(metrics.is_taken)))
        # Whole pieces, as in a whole epoch: what is undone is undone by the piece.
        end = min(-(-end // MAX_PIECE) * MAX_PIECE, num_batches)
        index, is_bad, found = begin, False, []
        while index < end and not is_bad:
            indices = range(index, min(index + MAX_PIECE, end))
            state, own = take_piece(state, stream, keys, indices)
            found.append(own)
            index = indices.stop
            is_bad = int(state.bad_run) >= settings.max_bad_steps
            is_bad |= int(state.num_skipped) - first_skipped > limit
        whole = _with_new(metrics, found, begin, index)
        is_over = is_bad or index == num_batches
        if is_over:
            stream.end_epoch()
            state = state._replace(epoch=state.epoch + 1)
        return state, whole, index, is_over

    return part


def _next_batch(
    stream: Stream, preprocess: Preprocess, state: TrainState, index: int, num_batches: int
) -> PyTree:
    # The state is looked at only for a message: to read it would wait for the device.
    batch = stream.take()
    if batch is None:
        raise ValueError(
            f"the data ended in epoch {int(state.epoch) + 1}, after {index} of {num_batches} batches: give an iterable "
            "that begins anew, or a smaller steps_per_epoch"
        )
    check_examples(batch, preprocess, "training")
    if num_examples(batch) == 0:
        raise ValueError(f"batch {index} of epoch {int(state.epoch) + 1} must have examples, got none")
    return batch


def _with_new(metrics: StepMetrics, found: list[StepMetrics], begin: int, end: int) -> StepMetrics:
    """The metrics of an epoch, with those of the steps begin … end - 1 that were found in pieces."""
    new = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    return jax.tree.map(
        lambda old, own: jnp.asarray(np.concatenate([old[:begin], own, old[end:]])), metrics, new
    )


def make_stream_epoch(
    bound: Bound,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    preprocess: Preprocess = keep_as_is,
    devices: Devices = ONE_DEVICE,
) -> Callable[[TrainState, Iterable[PyTree] | Stream, int], tuple[TrainState, StepMetrics]]:
    """An epoch `(state, batches, num_batches) -> (state, metrics [num_batches])` over batches [b, …] that come from the
    host, in their own order; else as `make_epoch`, key for key.

    Raises (when it is called):
        ValueError: if there are fewer batches, or one of them is not what `preprocess` takes.
    """
    part = make_stream_part(bound, optimizer, settings, preprocess, devices)

    def epoch(
        state: TrainState, batches: Iterable[PyTree] | Stream, num_batches: int
    ) -> tuple[TrainState, StepMetrics]:
        stream = batches if isinstance(batches, Stream) else Stream(batches)
        state, metrics, _, _ = part(state, no_metrics((num_batches,)), 0, num_batches, stream)
        return state, metrics

    return epoch
