"""The host loop around the epochs, which loses nothing."""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from hmcvae._checks import check_count, check_flag, check_function
from hmcvae._random import stream
from hmcvae.bounds import Bound
from hmcvae.training.checkpoints import Checkpoints
from hmcvae.training.devices import Devices
from hmcvae.training.epoch import make_epoch, make_monitor, make_part
from hmcvae.training.going_on import check_folders, check_identity, identity_of
from hmcvae.training.hosts import together
from hmcvae.training.inputs import (
    Preprocess,
    check_examples,
    check_likelihood,
    check_training,
    is_in_memory,
    keep_as_is,
)
from hmcvae.training.parts import Parts
from hmcvae.training.pixels import Pixels
from hmcvae.training.settings import Settings
from hmcvae.training.starting import check_optimizer, check_start
from hmcvae.training.state import StepMetrics, TrainState, init_state
from hmcvae.training.streams import Stream, go_to, make_stream_epoch, make_stream_part, where
from hmcvae.training.watch import Watch
from hmcvae.types import PyTree
from hmcvae.vae import num_examples

RunEpoch = Callable[[TrainState], tuple[TrainState, StepMetrics]]


def fit(
    bound: Bound,
    params: PyTree,
    data: PyTree | Iterable[PyTree],
    *,
    optimizer: optax.GradientTransformation,
    batch_size: int = Settings.batch_size,
    num_epochs: int = Settings.num_epochs,
    preprocess: Preprocess = keep_as_is,
    seed: int = Settings.seed,
    clip_norm: float = Settings.clip_norm,
    kl_warmup_epochs: int = Settings.kl_warmup_epochs,
    patience: int = Settings.patience,
    max_bad_steps: int = Settings.max_bad_steps,
    max_bad_share: float = Settings.max_bad_share,
    steps_per_epoch: int | None = None,
    validation: PyTree | None = None,
    validation_bound: Bound | None = None,
    checkpoints: Checkpoints | None = None,
    best: Checkpoints | None = None,
    resume: bool = False,
    resume_epoch: int | None = None,
    partial: Checkpoints | None = None,
    steps_per_part: int | None = None,
    after_part: Callable[[TrainState], object] | None = None,
    mesh: Mesh | None = None,
    shard_params: bool = False,
) -> Generator[tuple[TrainState, dict[str, float]], None, None]:
    """Train, yielding (state, record) after every epoch: the caller logs, draws and stops as it likes.

    Args:
        bound: what to maximise.
        params: {"vae": …, "bound": …} to start from.
        data: a pytree of arrays [n, …] (an array, a dictionary, a tuple), which is put on the device whole and shuffled
            there; or an iterable of batches [b, …], as a list is, in the order that they are to be taken in. An epoch
            begins it anew, or goes on with an iterator. Checkpoints hold where it stands, if it has `get_state` and
            `set_state` (as Grain's) or `state_dict` and `load_state_dict` (PyTorch's); else see `streams.Stream`.
        optimizer: any of Optax's; `training.adam` has the schedules of the presets.
        preprocess: `(rng_key, one example of the data) -> x`, pure, inside the jitted step; `training.Pixels` for
            images of whole numbers.
        batch_size, num_epochs, seed, clip_norm, kl_warmup_epochs, patience, max_bad_steps, max_bad_share: see
            `Settings`. batch_size is for data in memory: batches have a size of their own.
        steps_per_epoch: batches an epoch, of an iterable; by default all, where it has a length.
        validation: examples whose bound is monitored each epoch and, with patience, stops the run.
        validation_bound: what is monitored, by default what is trained; for a bound that is trained with few iterations
            of its implicit solves, the one that solves to tolerance.
        checkpoints: written before the first epoch (as epoch 0) and after every one, before the yield. The last one of
            a good epoch stays, whatever comes after it: no step was skipped, and the bound had not collapsed.
        best: where the state with the best validation bound is kept.
        resume: start from a checkpoint, and go on as if never stopped, with the same seed, batch size and data in
            memory. Without it the folders must hold no training's progress.
        resume_epoch: the checkpoint's epoch; None: the newest.
        partial, steps_per_part: where long epochs are saved after so many steps; resuming goes on from there. They are
            the same epochs, and it is emptied after each. The steps are rounded up to whole pieces of an epoch: 16 of
            them for batches; with data in memory the largest number of steps up to 16 that divides the epoch's.
        after_part: called with the state after every such save; it may raise to stop the run there.
        mesh, shard_params: the devices that share each batch, and whether they share the parameters too: see `Devices`.
            Data in memory are whole on each of them; batches are read by each process for its own devices.

    Yields:
        The state, and a record of the epoch: epoch, bound (training, mean over the steps taken), validation_bound,
        grad_norm, energy_error, unconverged, skipped_steps and clipped_steps (since the start), and seconds (of the
        epoch's own call: the first holds the compilation; monitoring and checkpoints are not in it).

    Raises:
        ValueError: see `Settings`, `check_training`, `check_start`, `Likelihood.check` and `Checkpoints.restore`; or
            for folders that hold a training's progress without `resume`, `resume` without `checkpoints`, `resume_epoch`
            without `resume`, `after_part` without `partial`, or an optimizer whose update needs more than gradients,
            state and parameters.
        LostProcessError: if another process of the training has stopped.
        NotFiniteError: after too many bad steps, see `Settings`; in mid-epoch, and it names the last good checkpoint.
            At the end, if no step of the last epoch could be taken.

    Warns:
        TrainingWarning: at the end, if the bound is far below what it was before.
    """
    resume = check_flag("resume", resume)
    settings = Settings(
        num_epochs, batch_size, clip_norm, kl_warmup_epochs, patience, max_bad_steps, max_bad_share, seed
    )
    devices = Devices(mesh, shard_params)
    num_batches = check_training(
        data, settings, preprocess, validation=validation, steps_per_epoch=steps_per_epoch
    )
    if resume and checkpoints is None:
        raise ValueError("resume needs checkpoints to start from, got None")
    if resume_epoch is not None and not resume:
        raise ValueError(f"resume_epoch is for resume=True, got {resume_epoch!r} without it")
    check_optimizer(optimizer)
    _check_parts(partial, steps_per_part, after_part)
    check_folders(resume, checkpoints=checkpoints, best=best, partial=partial)
    if is_in_memory(data):
        devices.check_batch(settings.batch_size)
    if not is_in_memory(data):
        data = Stream(data)
    first = _first_batch(data, preprocess)
    if first is not None:
        _check_model(bound, params, first, validation, preprocess)
    check_optimizer(optimizer, params)
    state = init_state(params, optimizer, settings.seed)
    saved: dict[str, Any] = {}
    identity = {} if checkpoints is None else identity_of(settings, data)
    if checkpoints is not None:
        if resume:
            state = checkpoints.restore(state, resume_epoch)
            saved = checkpoints.metadata(resume_epoch) or saved
            check_identity(saved.get("identity", {}), identity, checkpoints.folder)
            go_to(data, saved.get("data"))
        else:
            checkpoints.save(0, state, metadata={"data": where(data), "identity": identity})
    watch = Watch(settings, num_batches)
    watch.go_on(saved.get("watch"))
    state = devices.put_state(state)
    parts = None
    if partial is not None:
        parts = partial, steps_per_part or num_batches, after_part, devices.put_state
    run_epoch = _make_run_epoch(bound, optimizer, settings, preprocess, data, num_batches, devices, parts)
    monitor = _make_validate(validation_bound or bound, preprocess, validation, settings.seed, devices)
    with _written(checkpoints, best, partial):
        kept = checkpoints, best, partial
        yield from _epochs(state, run_epoch, monitor, settings, watch, data, *kept, identity)


def _epochs(
    state: TrainState,
    run_epoch: RunEpoch,
    monitor: Callable[[PyTree], Array] | None,
    settings: Settings,
    watch: Watch,
    data: PyTree | Stream,
    checkpoints: Checkpoints | None,
    best: Checkpoints | None,
    partial: Checkpoints | None,
    identity: dict[str, Any],
) -> Generator[tuple[TrainState, dict[str, float]], None, None]:
    while int(state.epoch) < settings.num_epochs and not _is_out_of_patience(state, settings):
        num_skipped, start = int(state.num_skipped), time.perf_counter()
        state, metrics = together(functools.partial(run_epoch, state))
        record = _record(state, metrics) | {"seconds": time.perf_counter() - start}
        first = float(np.asarray(metrics.bound).ravel()[0])
        skipped = int(state.num_skipped) - num_skipped
        is_good = watch.see(state, record["bound"], first, skipped, checkpoints)
        if monitor is not None:
            current = monitor(state.params)
            record["validation_bound"] = float(current)
            if float(state.best_bound) < float(current) < np.inf:
                state = state._replace(best_bound=current.astype(jnp.float32), best_epoch=state.epoch)
                if best is not None:
                    best.save(int(state.epoch), state)
        if checkpoints is not None:
            metadata = {"data": where(data), "watch": watch.seen(), "identity": identity}
            checkpoints.save(int(state.epoch), state, is_good=is_good, metadata=metadata)
        if partial is not None:
            if checkpoints is not None:
                checkpoints.wait()  # before what could stand in for it goes
            partial.clear()
        yield state, record
    watch.close(checkpoints)


@contextlib.contextmanager
def _written(*kept: Checkpoints | None) -> Iterator[None]:
    """However the block ends, what was being written is written then: an exit of the program would not wait for it."""
    own = [each for each in kept if each is not None]
    try:
        yield
    except BaseException:
        for each in own:
            with contextlib.suppress(OSError):  # what stopped the run is told
                each.wait()
        raise
    for each in own:
        each.wait()


def _first_batch(data: PyTree | Stream, preprocess: Preprocess) -> PyTree | None:
    """What the model is checked on: the data, or the first batch of an iterable; None if it has none."""
    if not isinstance(data, Stream):
        return data
    first = data.first()
    if first is not None:
        check_examples(first, preprocess, "training")
    return first


def _check_parts(kept: Checkpoints | None, steps_per_part: int | None, after_part: Any) -> None:
    if after_part is not None:
        check_function("after_part", after_part, "state -> None")
        if kept is None:
            raise ValueError("after_part is called after each save of a part: it needs partial, got None")
    if steps_per_part is not None:
        check_count("steps_per_part", steps_per_part, 1)
    if (kept is None) != (steps_per_part is None):
        raise ValueError(
            f"partial and steps_per_part go together, got {kept!r} and steps_per_part = {steps_per_part!r}"
        )


def _check_model(bound: Bound, params: PyTree, first: Any, validation: Any, preprocess: Preprocess) -> None:
    """Check the model and the data, or the first batch of them."""
    # The data first, with which the nets are tried; what is no bound is told below.
    if isinstance(bound, Bound):
        if isinstance(preprocess, Pixels):
            preprocess.check_spread(jax.tree.leaves(first)[0], "training")
        check_likelihood(bound.vae, first, preprocess, "training examples")
        if validation is not None:
            check_likelihood(bound.vae, validation, preprocess, "validation examples")
    check_start(bound, params, first, preprocess)


def _make_run_epoch(
    bound: Bound,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    preprocess: Preprocess,
    data: PyTree | Stream,
    num_batches: int,
    devices: Devices,
    parts: tuple | None,
) -> RunEpoch:
    made = bound, optimizer, settings, preprocess, devices
    is_stream = isinstance(data, Stream)
    examples = data if is_stream else devices.put_examples(data)
    if parts is not None:
        return Parts(
            make_stream_part(*made) if is_stream else make_part(*made), examples, num_batches, *parts
        )
    if is_stream:
        stream_epoch = make_stream_epoch(*made)
        return lambda state: stream_epoch(state, data, num_batches)
    epoch = make_epoch(*made)
    return lambda state: epoch(state, examples)


def _make_validate(
    bound: Bound, preprocess: Preprocess, validation: PyTree | None, seed: int, devices: Devices
) -> Callable[[PyTree], Array] | None:
    if validation is None or num_examples(validation) == 0:
        return None
    monitor, key = make_monitor(bound, preprocess, devices=devices), stream(seed, "validation")
    on_device = devices.put_examples(validation)
    return lambda params: monitor(params, key, on_device)


def _is_out_of_patience(state: TrainState, settings: Settings) -> bool:
    # Warm-up maximises something else than the bound that is waited for.
    waited = int(state.epoch) - max(int(state.best_epoch), settings.kl_warmup_epochs)
    return settings.patience > 0 and waited >= settings.patience


def _record(state: TrainState, metrics: StepMetrics) -> dict[str, float]:
    """The epoch's means over the steps that were taken; NaN when none was."""
    taken = np.asarray(metrics.is_taken)

    def mean(values: Array) -> float:
        chosen = np.asarray(values, np.float64)[taken]
        return float(chosen.mean()) if len(chosen) else float("nan")

    return {
        "epoch": int(state.epoch),
        "bound": mean(metrics.bound),
        "grad_norm": mean(metrics.grad_norm),
        "energy_error": mean(metrics.energy_error),
        "unconverged": mean(metrics.unconverged),
        "skipped_steps": int(state.num_skipped),
        "clipped_steps": int(state.num_clipped),
    }
