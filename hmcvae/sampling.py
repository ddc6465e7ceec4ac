"""Many chains, many draws: warm-up, sampling and a progress bar.

The chains are a batch axis of one program. A run is a loop on the device whose bounds are arguments, so that
one compilation serves any number of pieces: the progress bar merely cuts the run, and the draws do not depend
on where.
"""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int
from tqdm import tqdm

from hmcvae import adaptation as adapt
from hmcvae._checks import check_count, check_positive, is_concrete
from hmcvae.metrics import Identity
from hmcvae.types import Metric, PRNGKey, PyTree, Scalar


class Tally(NamedTuple):
    """Counts over a number of transitions of all the chains; an algorithm that does not report a thing has 0.

    num_transitions; acceptance_rate: the mean acceptance probability; num_divergent: energy divergences;
    num_unconverged: failed implicit solves; num_irreversible: trajectories that could not be retraced.
    """

    num_transitions: Int[Array, ""]
    acceptance_rate: Scalar
    num_divergent: Int[Array, ""]
    num_unconverged: Int[Array, ""]
    num_irreversible: Int[Array, ""]


class Adaptation(NamedTuple):
    """What warm-up found: the step size and the metric that the draws were made with (the algorithm's own if
    there was no warm-up, None for an algorithm without a kernel to tune), and the warm-up's tally.
    """

    step_size: Any
    metric: Any
    warmup: Tally


class Samples(NamedTuple):
    """Draws, and all that is known about them; every leading pair of axes is (chain, draw).

    position: the pytree of the initial positions.
    logdensity: log p at each draw; None if the algorithm's state has none.
    info: the algorithm's info of each transition.
    tally: acceptance and failures counted over all the draws.
    adaptation: outcome of the warm-up.

    For positions that are one array, `np.asarray(samples)` is that array.
    """

    position: PyTree
    logdensity: Any
    info: Any
    tally: Tally
    adaptation: Adaptation

    @property
    def shape(self) -> tuple[int, ...]:
        """(chain, draw, …) of the positions if they are one array, (chain, draw) otherwise."""
        leaves = jax.tree.leaves(self.position)
        return leaves[0].shape if len(leaves) == 1 else leaves[0].shape[:2]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        leaves = jax.tree.leaves(self.position)
        if len(leaves) != 1:
            raise ValueError(f"positions of {len(leaves)} arrays are not one array; take them from .position")
        return np.array(leaves[0], dtype=dtype) if copy else np.asarray(leaves[0], dtype=dtype)


def sample(
    rng_key: PRNGKey,
    algorithm: Any,
    initial_positions: PyTree,
    *,
    num_samples: Any,
    num_warmup: Any = 0,
    target_acceptance: Any = 0.8,
    adapt_mass: Any = "auto",
    progress: bool = False,
) -> Samples:
    """Run chains side by side.

    Draw i of chain c uses a key made from (rng_key, c, i) alone: more draws continue the same chains, and a
    progress bar changes no bit. Programs are compiled once per algorithm and shapes, and kept with it.

    Args:
        rng_key: typed or uint32 key.
        algorithm: from `hmcvae.hmc` and its like; or anything with `init(position, rng_key)` and
            `step(rng_key, state)` whose state has a `position`, such as BlackJAX's. Without a `kernel` there
            is nothing to tune, and warm-up draws are only thrown away.
        initial_positions: pytree of positions with a leading chain axis; a 1-d array is so many chains of a scalar.
        num_samples: draws of each chain.
        num_warmup: transitions before them, to tune the step size and the mass (`hmcvae.adaptation`).
        target_acceptance: mean acceptance probability that the step size is tuned to.
        adapt_mass: "diagonal", "dense", or None to keep the metric; "auto" is "diagonal" for an algorithm with
            the identity metric, and otherwise None: a metric that was chosen is kept.
        progress: show a bar with the acceptance and the failures so far.

    Raises:
        ValueError: for counts below 1 (0 for num_warmup), a target outside (0, 1), an unknown adapt_mass or
            one for a metric that depends on the position, a vector of step sizes with a warm-up, positions
            without a common chain axis, and starts where the position or the log density is not finite.
    """
    num_samples = check_count("num_samples", num_samples, 1)
    num_warmup = check_count("num_warmup", num_warmup, 0)
    check_positive("target_acceptance", target_acceptance)
    if is_concrete(target_acceptance) and not target_acceptance < 1:
        raise ValueError(f"target_acceptance must lie between 0 and 1, got {target_acceptance!r}")
    if num_warmup and jnp.ndim(getattr(algorithm, "step_size", 0.0)):
        raise ValueError(f"warm-up tunes one number as step_size, got shape {jnp.shape(algorithm.step_size)}")
    mass = _resolve_mass(adapt_mass, getattr(algorithm, "metric", None))
    positions = _check_positions(initial_positions)
    num_chains = jax.tree.leaves(positions)[0].shape[0]
    warmup_keys, draw_keys, init_keys = (_chain_keys(rng_key, stage, num_chains) for stage in range(3))
    states = _start_chains(init_keys, algorithm, positions)
    transition, parameters = algorithm.step, ()
    if hasattr(algorithm, "kernel"):
        transition, parameters = algorithm.kernel, (algorithm.step_size, algorithm.metric)

    warmup = _zero_tally()
    if num_warmup and parameters:
        states, parameters, warmup = _tune(
            warmup_keys, transition, states, parameters, num_warmup, target_acceptance, mass, progress
        )
    programs = _programs(transition)
    draws = programs.allocate((draw_keys, parameters), states, num_samples)
    if num_warmup and not parameters:
        # The same program, so that it is compiled once: what it writes is overwritten by the draws.
        run = partial(programs.run, inputs=(warmup_keys, parameters))
        states, draws, warmup = _in_pieces(run, states, draws, num_warmup, progress, "warm-up")
    run = partial(programs.run, inputs=(draw_keys, parameters))
    _, draws, tally = _in_pieces(run, states, draws, num_samples, progress, "sampling")
    step_size, metric = parameters or (None, None)
    position, logdensity, info = draws
    return Samples(position, logdensity, info, tally, Adaptation(step_size, metric, warmup))


def _resolve_mass(adapt_mass: Any, metric: Any) -> Any:
    """The form of mass to adapt; None if there is nothing to tune."""
    if isinstance(adapt_mass, str) and adapt_mass == "auto":
        return "diagonal" if isinstance(metric, Identity) else None
    adapt.check_mass(adapt_mass, metric)
    return None if metric is None else adapt_mass


def _check_positions(positions: PyTree) -> PyTree:
    """The positions as arrays, or ValueError unless they are finite and share a chain axis."""
    positions = jax.tree.map(jnp.asarray, positions)
    shapes = [leaf.shape for leaf in jax.tree.leaves(positions)]
    if len({shape[:1] for shape in shapes}) != 1 or shapes[0][:1] in ((), (0,)):
        raise ValueError(f"initial_positions must share one leading chain axis, got shapes {shapes}")
    _check_finite("initial position", positions)
    return positions


def _start_chains(rng_keys: Array, algorithm: Any, positions: PyTree) -> Any:
    """The states of all the chains, or ValueError for starts from which no chain can move."""
    try:
        states = _initialiser(algorithm.init)(positions, rng_keys)
    except Exception as error:
        shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(positions)]
        error.add_note(
            f"initial_positions has a leading chain axis; each chain's position has shape {shapes}"
        )
        raise
    if not hasattr(states, "position"):
        raise ValueError(f"the algorithm's state must have a position, got {type(states).__name__}")
    _check_finite("logdensity at the initial position", getattr(states, "logdensity", None))
    _check_finite("gradient of the logdensity there", getattr(states, "logdensity_grad", None))
    return states


def _check_finite(name: str, values: PyTree) -> None:
    for leaf in jax.tree.leaves(values):
        if not is_concrete(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        finite = np.isfinite(np.asarray(leaf)).reshape(leaf.shape[0], -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"the {name} must be finite, it is not in chains {np.flatnonzero(~finite).tolist()}"
            )


@lru_cache(maxsize=64)
def _initialiser(init: Callable) -> Callable:
    return jax.jit(jax.vmap(init))


def _chain_keys(rng_key: PRNGKey, stage: int, num_chains: int) -> Array:
    """One key for each chain, from which those of its transitions are made; by stage: warm-up, draws, init."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(rng_key, stage), jnp.arange(num_chains))


def _transition_keys(chain_keys: Array, index: Any) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(chain_keys, index)


class _Programs(NamedTuple):
    allocate: Callable
    run: Callable


@lru_cache(maxsize=64)
def _programs(transition: Callable) -> _Programs:
    """The compiled functions that draw with one transition `(rng_key, state, *parameters) -> (state, info)`."""

    def advance(inputs: tuple, states: Any, index: Any) -> tuple[Any, Any]:
        chain_keys, parameters = inputs
        keys = _transition_keys(chain_keys, index)
        return jax.vmap(transition, (0, 0) + (None,) * len(parameters))(keys, states, *parameters)

    @partial(jax.jit, static_argnums=2)
    def allocate(inputs: tuple, states: Any, num_draws: int) -> PyTree:
        records = jax.eval_shape(lambda: _record(*advance(inputs, states, 0)))
        return jax.tree.map(lambda a: jnp.zeros((a.shape[0], num_draws, *a.shape[1:]), a.dtype), records)

    return _Programs(allocate, _looped(advance))


@lru_cache(maxsize=64)
def _tuning_programs(kernel: Callable, mass: adapt.Mass) -> _Programs:
    """The same for the warm-up of one kernel, whose state is (states, what has been learned)."""

    def advance(inputs: tuple, carry: tuple, index: Any) -> tuple[Any, Any]:
        chain_keys, schedule, target = inputs
        states, learned = carry
        keys = _transition_keys(chain_keys, index)
        flags = jax.tree.map(lambda flag: jnp.asarray(flag)[index], schedule)
        return adapt.warmup_transition(kernel, keys, states, learned, flags, target)

    @jax.jit
    def begin(states: Any, step_size: Any, metric: Any) -> adapt.AdaptationState:
        return adapt.adaptation_init(step_size, metric, adapt.ravel_chains(states.position)[0], mass)

    return _Programs(begin, _looped(advance))


def _looped(advance: Callable) -> Callable:
    """Transitions start … stop - 1 as one program; the draws, if any, are written in place.

    In place means no second, transposed copy of them: they stand as [chain, draw, ...] from the outset.
    """

    @partial(jax.jit, donate_argnames="draws")
    def run(state: Any, draws: PyTree, tally: Tally, start: Any, stop: Any, inputs: tuple) -> tuple:
        def body(index: Any, carry: tuple) -> tuple:
            state, draws, tally = carry
            state, info = advance(inputs, state, index)
            if draws is not None:
                write = partial(lax.dynamic_update_index_in_dim, index=index, axis=1)
                draws = jax.tree.map(write, draws, _record(state, info))
            return state, draws, _count(tally, info)

        return lax.fori_loop(start, stop, body, (state, draws, tally))

    return run


def _tune(
    chain_keys: Array,
    kernel: Callable,
    states: Any,
    parameters: tuple[Any, Metric],
    num_warmup: int,
    target: Any,
    mass: adapt.Mass,
    progress: bool,
) -> tuple[Any, tuple[Any, Metric], Tally]:
    """Run the warm-up: the chains' states after it, the tuned (step_size, metric), and its tally."""
    programs = _tuning_programs(kernel, mass)
    schedule = adapt.window_schedule if mass else adapt.step_size_schedule
    inputs = (chain_keys, schedule(num_warmup), jnp.asarray(target))
    carry = (states, programs.allocate(states, *parameters))
    run = partial(programs.run, inputs=inputs)
    (states, learned), _, tally = _in_pieces(run, carry, None, num_warmup, progress, "warm-up")
    return states, (jnp.exp(learned.step_size.log_step_size_average), learned.metric), tally


def _in_pieces(
    run: Callable, state: Any, draws: PyTree, total: int, progress: bool, label: str
) -> tuple[Any, PyTree, Tally]:
    """Call run(state, draws, tally, start, stop) over 0 … total: at once, or cut into pieces for a bar.

    Each piece is dispatched before the last one is waited for, so the device never idles for the bar; pieces
    grow until they take about a fifth of a second.
    """
    if not progress:
        return run(state, draws, _zero_tally(), 0, total)
    tally, start, size, clock = _zero_tally(), 0, 1, time.perf_counter()
    with tqdm(total=total, desc=label, unit="draw") as bar:
        while start < total:
            last, stop = tally, min(start + size, total)
            state, draws, tally = run(state, draws, tally, start, stop)
            _show(bar, start, last)
            elapsed, clock = time.perf_counter() - clock, time.perf_counter()
            size = 2 * size if elapsed < 0.15 else max(1, size // 2) if elapsed > 0.4 else size
            start = stop
        _show(bar, total, tally)
    return state, draws, tally


def _show(bar: Any, done: int, tally: Tally) -> None:
    """Wait for the tally and put it on the bar."""
    shown = {"acceptance": f"{float(tally.acceptance_rate):.2f}", "divergences": int(tally.num_divergent)}
    if int(tally.num_unconverged):
        shown["failed solves"] = int(tally.num_unconverged)
    if int(tally.num_irreversible):
        shown["irreversible"] = int(tally.num_irreversible)
    bar.set_postfix(shown, refresh=False)
    bar.update(done - bar.n)


def _record(state: Any, info: Any) -> tuple[PyTree, Any, Any]:
    return state.position, getattr(state, "logdensity", None), info


def _zero_tally() -> Tally:
    zero = jnp.zeros((), jnp.int32)
    return Tally(zero, jnp.zeros((), jnp.float32), zero, zero, zero)


def _count(tally: Tally, info: Any) -> Tally:
    """Add one transition of every chain."""
    rates = getattr(info, "acceptance_rate", jnp.full(1, jnp.nan))
    num_new = jax.tree.leaves(info)[0].shape[0]
    total = tally.num_transitions + num_new
    shift = (jnp.mean(rates).astype(jnp.float32) - tally.acceptance_rate) * (num_new / total).astype(
        jnp.float32
    )

    def failed(holder: Any, name: str, bad: bool) -> Int[Array, ""]:
        flags = getattr(holder, name, None)
        return jnp.zeros((), jnp.int32) if flags is None else jnp.sum(flags == bad, dtype=jnp.int32)

    return Tally(
        total,
        tally.acceptance_rate + shift,
        tally.num_divergent + failed(info, "is_divergent", True),
        tally.num_unconverged + failed(getattr(info, "solver", None), "converged", False),
        tally.num_irreversible + failed(info, "is_reversible", False),
    )
