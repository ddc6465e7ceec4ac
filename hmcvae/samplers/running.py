"""A run of chains from its start, or from where it was left, to its samples."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from hmcvae._sharding import move_to, place
from hmcvae.samplers.bars import Bar
from hmcvae.samplers.data import opened
from hmcvae.samplers.draws import Adaptation, Samples, TransitionCounts
from hmcvae.samplers.pieces import SAVED, SHOWN, Piece, capacity, in_pieces
from hmcvae.samplers.programs import zero_counts
from hmcvae.samplers.run_folder import RunFolder
from hmcvae.samplers.stages import (
    Drawing,
    Moving,
    Plan,
    Stages,
    Tuned,
    chain_keys,
    common_key_of,
    stages_of,
)
from hmcvae.types import PRNGKey, PyTree


def run_chains(
    rng_key: PRNGKey,
    algorithm: Any,
    states: Any,
    plan: Plan,
    folder: RunFolder | None,
) -> Samples:
    """The samples of chains that stand at `states`."""
    num_chains = jax.tree.leaves(states)[0].shape[0]
    transition, parameters, common, data = algorithm.step, (), None, ()
    if hasattr(algorithm, "kernel"):
        (transition, data), parameters = opened(algorithm.kernel), (algorithm.step_size, algorithm.metric)
        common = getattr(algorithm, "common", None)
    if plan.around is not None:
        parameters = move_to(parameters, plan.around)
    keys = [
        (chain_keys(rng_key, stage, num_chains), None if common is None else common_key_of(rng_key, stage))
        for stage in range(2)
    ]
    if plan.mesh is not None:
        spread, whole = PartitionSpec(plan.mesh.axis_names), PartitionSpec()
        keys = [(place(own, plan.mesh, spread), place(one, plan.mesh, whole)) for own, one in keys]
    warming, drawing = (Moving(transition, common, data, *own) for own in keys)
    begin = Tuned(states, parameters, zero_counts(), None)
    stages = stages_of(warming, drawing, begin, plan) if plan.num_warmup and parameters else None
    if plan.record is not None or folder is not None:  # what is wrong with it is told before the warm-up
        record = (drawing.drawing(begin, plan) if stages is None else stages.drawing(begin)).record
        _check_record(record)
        if folder is not None:
            folder.describe(record)
    if stages is not None:
        tuned = _tune(stages, begin, plan, folder)
        return _draw(stages.drawing(tuned), tuned, plan, folder)
    tuned = _throw_away(warming.drawing(begin, plan), begin, plan, folder) if plan.num_warmup else begin
    return _draw(drawing.drawing(tuned, plan), tuned, plan, folder)


def _tune(stages: Stages, begin: Tuned, plan: Plan, folder: RunFolder | None) -> Tuned:
    """The warm-up, or what is left of it."""
    state = (begin.states, stages.learned)
    if folder is not None and folder.stage == "draws":
        return folder.restored(stages.as_tuned(state, zero_counts()))
    state, counts = _warm_up(stages.run, state, plan, folder, allocate=stages.allocate, most=plan.num_warmup)
    draws = None if stages.allocate is None else stages.allocate()
    (_, learned), _, _ = stages.run(state, draws, zero_counts(), plan.num_warmup, plan.num_warmup + 1)
    return stages.as_tuned((state[0], learned), counts)


def _warm_up(
    run: Callable, state: Any, plan: Plan, folder: RunFolder | None, **options: Any
) -> tuple[Any, TransitionCounts]:
    """The warm-up's transitions, or those that are left, shown and saved; options: of `in_pieces`."""
    start, counts = 0, zero_counts()
    if folder is not None:
        start, (state, counts) = folder.begun("warm-up", (state, counts))
    with Bar(plan.progress, "warm-up", plan.num_warmup, start) as bar:

        def after(piece: Piece) -> None:
            bar.show(piece.stop, piece.counts)
            if folder is not None:
                folder.save("warm-up", piece.stop, (piece.state, piece.counts))

        return in_pieces(
            run,
            state,
            plan.num_warmup,
            start=start,
            counts=counts,
            seconds=_seconds(plan, folder),
            after=after,
            **options,
        )


def _throw_away(drawing: Drawing, begin: Tuned, plan: Plan, folder: RunFolder | None) -> Tuned:
    """Warm-up draws of an algorithm that has nothing to tune, by the program of the draws, so that it is compiled
    once."""
    if folder is not None and folder.stage == "draws":
        return folder.restored(begin)
    most = plan.num_warmup if drawing.is_traced else capacity(drawing.record)
    states, counts = _warm_up(
        drawing.run, begin.states, plan, folder, allocate=lambda: drawing.allocate(most), most=most
    )
    return begin._replace(states=states, warmup=counts)


def _draw(drawing: Drawing, tuned: Tuned, plan: Plan, folder: RunFolder | None) -> Samples:
    is_whole = drawing.is_traced
    most = plan.num_samples if is_whole else capacity(drawing.record)
    start, states, counts = 0, tuned.states, zero_counts()
    taken: list[Piece] = []
    kept: list[PyTree] = []
    if folder is not None:
        if folder.stage == "draws":
            start, (tuned, counts) = folder.begun("draws", (tuned, counts))
            states = tuned.states
        else:
            folder.save("draws", 0, (tuned, counts))
    with Bar(plan.progress, "sampling", plan.num_samples, start) as bar:

        def after(piece: Piece) -> None:
            if is_whole:
                taken.append(piece)
                return
            bar.show(piece.stop, piece.counts)
            if folder is None:
                taken[:] = [piece]  # for where its draws lie
                kept.append(piece.taken())
            else:
                folder.append(piece.taken(), piece.start)
                folder.save("draws", piece.stop, (tuned._replace(states=piece.state), piece.counts))

        states, counts = in_pieces(
            partial(drawing.run, thin=plan.thin),
            states,
            plan.num_samples,
            start=start,
            counts=counts,
            allocate=lambda: drawing.allocate(most),
            most=most,
            seconds=_seconds(plan, folder),
            after=after,
        )
    if is_whole:
        draws = taken[0].draws
    elif folder is None:
        draws = jax.tree.map(_joined, taken[0].draws, *kept)
    else:
        draws = folder.draws(drawing.record, plan.num_samples)
    position, logdensity, info = draws
    step_size, metric = tuned.parameters or (None, None)
    adaptation = Adaptation(step_size, metric, tuned.warmup, tuned.is_adapted, tuned.has_moved)
    return Samples(position, logdensity, info, counts, adaptation, states.position)


def _check_record(record: PyTree) -> None:
    for leaf in jax.tree.leaves(record):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                "record must return arrays of numbers, got random keys: jax.random.key_data makes numbers"
            )


def _seconds(plan: Plan, folder: Any) -> float | None:
    # A save waits for the disk: a bar does not make it more frequent.
    return SAVED if folder is not None else SHOWN if plan.progress else None


def _joined(like: Array, *parts: np.ndarray) -> Array:
    """All the draws as one array of JAX, on the devices that the pieces were on."""
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return jax.device_put(whole, like.sharding if isinstance(like.sharding, NamedSharding) else None)
