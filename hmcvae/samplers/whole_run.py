"""Warm-up and draws of one kernel as one program.

The kernel stands in it once, and compilers take their time for the kernel: as two programs a first call took half as
long again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from hmcvae._sharding import vary_as
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers.draws import TransitionCounts
from hmcvae.samplers.keeping import kept
from hmcvae.samplers.programs import (
    Packing,
    Programs,
    Tuning,
    count,
    drawn_once,
    in_place,
    record_of,
    recorder,
    write_draw,
)
from hmcvae.types import Metric, PyTree, Scalar


class Inputs(NamedTuple):
    """schedule, num_warmup, target: of the warm-up.  units: what a tuned number is multiplied by, if by anything.
    data: that the kernel takes after the metric, none or one.  step_size: of the draws.  is_drawing: else it is a
    warm-up."""

    chain_keys: Array
    common_key: Any
    schedule: adapt.Schedule
    num_warmup: Any
    target: Any
    units: Any
    data: tuple
    step_size: Any
    is_drawing: Any


class WholeRun(NamedTuple):
    """Both run the same program, with `Inputs`; its state is (the chains' states, what has been learned), as packed by
    `Packing`. A warm-up writes into the first row of its record, and leaves nothing of use there."""

    tuning: Tuning
    drawing: Programs


def whole_run(
    kernel: Callable, mass: adapt.Mass, metric: Metric, record: Callable | None, common: Callable | None
) -> tuple[WholeRun, PyTree]:
    """The program, and the metric's arrays; the arguments are those of `tuning_programs` and `drawing_programs`."""
    arrays, structure = jax.tree.flatten(metric)
    make = partial(_whole_run, Packing(mass, structure), record, common)
    return kept(kernel, ("whole", mass, structure, record, common), make), arrays


def _whole_run(
    packing: Packing, record: Callable | None, common: Callable | None, kernel: Callable
) -> WholeRun:
    def advance(
        inputs: Inputs, keys: Array, index: Any, states: Any, step_size: Any, metric: Metric
    ) -> tuple:
        more = (*inputs.data, *drawn_once(common, inputs.common_key, index))
        in_axes = (0, 0) + (None,) * (2 + len(more))
        return jax.vmap(kernel, in_axes)(keys, states, step_size, metric, *more)

    def first_draw(inputs: Inputs, state: tuple, index: Any) -> tuple[Any, Any]:
        states, learned = state
        parameters = inputs.step_size, packing.metric_of(learned)
        return advance(inputs, inputs.chain_keys, index, states, *parameters)

    shapes, allocate = recorder(first_draw, record)

    @in_place
    def run(
        state: Any,
        draws: PyTree,
        counts: TransitionCounts,
        start: Any,
        stop: Any,
        thin: Any,
        inputs: Inputs,
    ) -> tuple:
        is_drawing = inputs.is_drawing
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes(inputs, state))

        def stage(index: Any, carry: tuple) -> tuple:
            states, learned, *extra = carry
            bounds = start * thin, stop * thin, thin
            go = partial(_go, advance, record, inputs, bounds, empty, index)
            # One row more than there are transitions, at least: the look at what they have found.
            task = adapt.Task(
                jax.tree.map(lambda flag: flag[index], inputs.schedule),
                inputs.target,
                index == inputs.num_warmup,
                inputs.chain_keys.shape[0],
                is_drawing=is_drawing,
            )
            (states, learned), extra = adapt.in_turns(go, states, packing.unpack(learned), tuple(extra), task)
            return states, packing.pack(learned), *extra

        # Of a warm-up a stage is a transition; all the draws are one.
        carry = vary_as((*state, draws, counts), state, inputs)
        stages = jnp.where(is_drawing, 0, start), jnp.where(is_drawing, 1, stop)
        states, learned, draws, counts = lax.fori_loop(*stages, stage, carry)
        return (states, learned), draws, counts

    return WholeRun(packing.tuning(run), Programs(shapes, allocate, run))


def _go(
    advance: Callable,
    record: Callable | None,
    inputs: Inputs,
    draws_bounds: tuple,
    empty: tuple,
    stage: Any,
    looks: Any,
    look: Any,
    states: Any,
    step_size: Scalar,
    metric: Metric,
    extra: tuple,
) -> tuple:
    """One look or one transition of the warm-up, or all the draws; for `in_turns`, `extra` is (draws, counts)."""
    is_drawing, (first, last, thin), (unrecorded, _, info) = inputs.is_drawing, draws_bounds, empty
    tuned = step_size if inputs.units is None else step_size * inputs.units
    step_size = jnp.where(is_drawing, inputs.step_size, tuned)
    # A look's keys are folded out of those of its transition, a transition's out of the chain's.
    keys = lax.cond(looks, lambda: adapt.transition_keys(inputs.chain_keys, stage), lambda: inputs.chain_keys)
    shift = jnp.where(looks, adapt.FIRST_LOOK + look - stage, 0)

    def one(index: Any, carry: tuple) -> tuple:
        states, _, draws, counts = carry
        own = adapt.transition_keys(keys, index + shift)
        states, info = advance(inputs, own, index, states, step_size, metric)
        # Of draws that are thinned out the last one stays; those of a warm-up go where nobody looks.
        row = jnp.where(is_drawing, (index - first) // thin, 0)
        made = record_of(None, states, info)
        if record is not None:  # it may be dear
            made = (lax.cond(is_drawing, jax.vmap(record), lambda _: unrecorded, states), *made[1:])
        draws = jax.tree.map(partial(write_draw, index=row), draws, made)
        return states, info, draws, count(counts, info, inputs.chain_keys.shape[0])

    bounds = jnp.where(is_drawing, first, stage), jnp.where(is_drawing, last, stage + 1)
    states, info, draws, counted = lax.fori_loop(
        *bounds, one, vary_as((states, info, *extra), states, inputs)
    )
    counts = jax.tree.map(lambda old, new: jnp.where(looks, old, new), extra[1], counted)
    return states, info, (draws, counts)
