"""Many chains, many draws: warm-up, sampling and a progress bar.

The chains are a batch axis of one program. A run is a loop on the device whose bounds are arguments, so that
one compilation serves any number of pieces: the progress bar merely cuts the run, and the draws do not depend
on where.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Array

from hmcvae._checks import check_count, check_flag, check_key, check_real, is_concrete
from hmcvae._sharding import explicit_mesh, move_to, using_mesh, with_axes
from hmcvae.metrics import Identity, check_metric, from_tensor
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers.draws import Adaptation, Samples, TransitionCounts
from hmcvae.samplers.health import check_finite, list_of, warn_of_rounding, warn_of_trouble
from hmcvae.samplers.programs import drawing_programs, initialiser, kept, tuning_programs, zero_counts
from hmcvae.types import Metric, PRNGKey, PyTree


def sample(
    rng_key: Any,
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

    Draw i of chain c uses a key made from (rng_key, c, i) alone: with the same key and starts, a longer run begins with
    the draws of a shorter one, and a progress bar changes no bit. To go on from the end of a run, give a new key, the
    last draws and what warm-up found (the same key would replay the randomness of the run):

        found = samples.adaptation
        tuned = algorithm._replace(step_size=found.step_size, metric=found.metric)
        more = sample(new_key, tuned, samples.last, num_samples=…)
        both = concatenate(samples, more)

    (Of samples that were pickled the metric may be missing, with its functions: make it anew.)
    Programs are compiled once per algorithm and shapes, and live as long as the algorithm.

    Args:
        rng_key: typed or uint32 key.
        algorithm: from `hmcvae.hmc` and its like; or anything with `init(position, rng_key)` and
            `step(rng_key, state)` whose state has a `position`, such as BlackJAX's. Without a `kernel` there
            is nothing to tune, and warm-up draws are only thrown away.
        initial_positions: pytree of positions with a leading chain axis; a 1-d array is so many chains of a scalar.
        num_samples: draws of each chain.
        num_warmup: transitions before them, to tune the step size and the mass (`samplers.adaptation`). Where they are
            too few to find a step size near the target, the one that is left is accepted at half of it at least, and
            `samples.adaptation.is_adapted` is False.
        target_acceptance: mean acceptance probability that the step size is tuned to.
        adapt_mass: "diagonal", "dense", or None to keep the metric; "auto" is "diagonal" for an algorithm with
            the identity metric, and otherwise None: a metric that was chosen is kept.
        progress: show a bar with the acceptance and the failures so far; needs the package `tqdm`.

    Warns:
        SamplingWarning: once a run, for divergences, chains that never moved, more than one transition in 20 that
            failed to solve or to retrace, or whose tree (`nuts`) was cut off at its largest depth, chains that disagree
            (R̂ > 1.1, in runs of 100 draws and more), and a warm-up
            that has not adapted; and before it for a log density whose rounding error exceeds 1. Silent inside `jit`.

    Raises:
        ValueError: for counts below 1 (0 for num_warmup), a target outside (0, 1), an unknown adapt_mass or
            one for a metric that depends on the position, a vector of step sizes with a warm-up, something that is no
            key, positions without a common chain axis, starts where the position, the log density or the metric is not
            finite or the metric not positive definite, and a progress bar inside `jit`.
    """
    _check_algorithm(algorithm)
    progress = check_flag("progress", progress)
    num_samples = check_count("num_samples", num_samples, 1)
    num_warmup = check_count("num_warmup", num_warmup, 0)
    if is_concrete(target_acceptance):
        check_real("target_acceptance", target_acceptance, 0, 1, is_open=True)
    if num_warmup and jnp.ndim(getattr(algorithm, "step_size", 0.0)):
        raise ValueError(f"warm-up tunes one number as step_size, got shape {jnp.shape(algorithm.step_size)}")
    mass = _resolve_mass(adapt_mass, getattr(algorithm, "metric", None))
    rng_key, positions = check_key(rng_key), _check_positions(initial_positions)
    options = num_samples, num_warmup, target_acceptance, mass, progress
    mesh = explicit_mesh((rng_key, positions))
    if mesh is None:
        samples = _run(rng_key, algorithm, positions, None, *options)
    else:
        # Loops over chains and keys do not yet go through Explicit axes: the same devices with Auto ones, and back.
        auto = with_axes(AxisType.Auto, mesh)
        with using_mesh(auto):
            rng_key, positions = move_to((rng_key, positions), auto)
            samples = _run(rng_key, algorithm, positions, auto, *options)
        samples = move_to(samples, mesh)
    warn_of_trouble(samples, num_warmup, target_acceptance)
    return samples


def _run(
    rng_key: PRNGKey,
    algorithm: Any,
    positions: PyTree,
    mesh: Any,
    num_samples: int,
    num_warmup: int,
    target: Any,
    mass: adapt.Mass,
    progress: bool,
) -> Samples:
    num_chains = jax.tree.leaves(positions)[0].shape[0]
    warmup_keys, draw_keys, init_keys = (_chain_keys(rng_key, stage, num_chains) for stage in range(3))
    states = _start_chains(init_keys, algorithm, positions)
    if progress and not is_concrete(states):
        raise ValueError("inside jit there is no progress to show: leave progress=False there")
    transition, parameters = algorithm.step, ()
    if hasattr(algorithm, "kernel"):
        transition, parameters = algorithm.kernel, (algorithm.step_size, algorithm.metric)
    if mesh is not None:
        parameters = move_to(parameters, mesh)

    warmup, is_adapted = zero_counts(), None
    if num_warmup and parameters:
        states, parameters, warmup, is_adapted = _tune(
            warmup_keys, transition, states, parameters, num_warmup, target, mass, progress
        )
    programs, arrays = drawing_programs(transition, parameters)
    draws = programs.allocate((draw_keys, arrays), states, num_samples)
    if num_warmup and not parameters:
        # The same program, so that it is compiled once: what it writes is overwritten by the draws.
        run = partial(programs.run, inputs=(warmup_keys, arrays))
        states, draws, warmup = _in_pieces(run, states, draws, num_warmup, progress, "warm-up")
    run = partial(programs.run, inputs=(draw_keys, arrays))
    _, draws, counts = _in_pieces(run, states, draws, num_samples, progress, "sampling")
    step_size, metric = parameters or (None, None)
    position, logdensity, info = draws
    return Samples(position, logdensity, info, counts, Adaptation(step_size, metric, warmup, is_adapted))


def _resolve_mass(adapt_mass: Any, metric: Any) -> Any:
    """The form of mass to adapt; None if there is nothing to tune."""
    if isinstance(adapt_mass, str) and adapt_mass == "auto":
        return "diagonal" if isinstance(metric, Identity) else None
    adapt.check_mass(adapt_mass, metric)
    return None if metric is None else adapt_mass


def _check_algorithm(algorithm: Any) -> None:
    """Raise ValueError for what cannot draw: None, a constructor that was not called."""
    if not (hasattr(algorithm, "init") and hasattr(algorithm, "step")):
        came = repr(algorithm)
        if callable(algorithm):
            came = f"the function {getattr(algorithm, '__name__', came)}, which makes one when it is called"
        raise ValueError(f"algorithm must have init and step, as hmcvae.hmc(…) makes it, got {came}")


def _check_positions(positions: PyTree) -> PyTree:
    """The positions as arrays, or ValueError unless they are finite and share a chain axis."""
    positions = jax.tree.map(jnp.asarray, positions)
    shapes = [leaf.shape for leaf in jax.tree.leaves(positions)]
    if len({shape[:1] for shape in shapes}) != 1 or shapes[0][:1] in ((), (0,)):
        raise ValueError(f"initial_positions must share one leading chain axis, got shapes {shapes}")
    check_finite("initial position", positions)
    return positions


def _start_chains(rng_keys: Array, algorithm: Any, positions: PyTree) -> Any:
    """The states of all the chains, or ValueError for starts from which no chain can move."""
    try:
        states = initialiser(algorithm.init)(positions, rng_keys)
    except Exception as error:
        shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(positions)]
        error.add_note(
            f"initial_positions has a leading chain axis; each chain's position has shape {shapes}"
        )
        raise
    if not hasattr(states, "position"):
        raise ValueError(f"the algorithm's state must have a position, got {type(states).__name__}")
    logdensity = getattr(states, "logdensity", None)
    check_finite("logdensity at the initial position", logdensity)
    check_finite("gradient of the logdensity there", getattr(states, "logdensity_grad", None))
    _check_metrics(algorithm, states)
    warn_of_rounding(logdensity)
    return states


def _check_metrics(algorithm: Any, states: Any) -> None:
    """Raise ValueError for chains that start where the metric is not positive definite, or not symmetric."""
    metric = getattr(algorithm, "metric", None)
    if not getattr(metric, "is_position_dependent", False) or not is_concrete(states):
        return
    arrays, structure = jax.tree.flatten(metric)

    def make(_: Callable) -> Callable:
        def look(arrays: PyTree, positions: PyTree) -> tuple[Array, Array, Array]:
            metric = jax.tree.unflatten(structure, arrays)
            z = adapt.ravel_chains(positions)
            return jax.vmap(lambda z: metric.factor(z).log_det)(z), z[0], metric.tensor(z[0])

        return jax.jit(look)

    log_dets, z, tensor = kept(algorithm.init, ("metric", structure), make)(arrays, states.position)
    check_metric(from_tensor(lambda _: tensor), z)
    is_definite = np.isfinite(np.asarray(log_dets).astype(np.float64))
    if not is_definite.all():
        raise ValueError(
            "the metric must be finite and positive definite at the initial position, it is not in chains "
            f"{list_of(~is_definite)} (its log-determinant is not finite)"
        )


def _chain_keys(rng_key: PRNGKey, stage: int, num_chains: int) -> Array:
    """One key for each chain, from which those of its transitions are made; by stage: warm-up, draws, init."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(rng_key, stage), jnp.arange(num_chains))


def _tune(
    chain_keys: Array,
    kernel: Callable,
    states: Any,
    parameters: tuple[Any, Metric],
    num_warmup: int,
    target: Any,
    mass: adapt.Mass,
    progress: bool,
) -> tuple[Any, tuple[Any, Metric], TransitionCounts, Array]:
    """Run the warm-up: the chains' states after it, the tuned (step_size, metric), its counts, and whether the step
    size is adapted."""
    step_size, metric = parameters
    programs, arrays = tuning_programs(kernel, mass, metric)
    schedule = adapt.window_schedule if mass else adapt.step_size_schedule
    inputs = (chain_keys, schedule(num_warmup), jnp.asarray(target))
    carry = (states, programs.begin(states, step_size, arrays))
    run = partial(programs.run, inputs=inputs)
    carry, _, counts = _in_pieces(run, carry, None, num_warmup, progress, "warm-up")
    (_, learned), _, _ = run(carry, None, zero_counts(), num_warmup, num_warmup + 1)
    tuned = jnp.exp(learned.step_size.log_step_size_average)
    # Where no step size was accepted, not even a tiny one, there is nothing better than the one that was given.
    tuned = jnp.where(learned.is_working, tuned, jnp.asarray(step_size, tuned.dtype))
    metric = learned.metric if mass else jax.tree.unflatten(programs.structure, learned.metric)
    return carry[0], (tuned, metric), counts, learned.is_adapted


def _in_pieces(
    run: Callable, state: Any, draws: PyTree, total: int, progress: bool, label: str
) -> tuple[Any, PyTree, TransitionCounts]:
    """Call run(state, draws, counts, start, stop) over 0 … total: at once, or cut into pieces for a bar.

    Each piece is dispatched before the last one is waited for, so the device never idles for the bar; pieces
    grow until they take about a fifth of a second.
    """
    if not progress:
        return run(state, draws, zero_counts(), 0, total)
    counts, start, size, clock = zero_counts(), 0, 1, time.perf_counter()
    with _import_tqdm()(total=total, desc=label, unit="draw") as bar:
        while start < total:
            last, stop = counts, min(start + size, total)
            state, draws, counts = run(state, draws, counts, start, stop)
            _show(bar, start, last)
            elapsed, clock = time.perf_counter() - clock, time.perf_counter()
            size = 2 * size if elapsed < 0.15 else max(1, size // 2) if elapsed > 0.4 else size
            start = stop
        _show(bar, total, counts)
    return state, draws, counts


def _import_tqdm() -> Any:
    """Only a bar needs it."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    return tqdm


def _show(bar: Any, done: int, counts: TransitionCounts) -> None:
    """Wait for the counts and put it on the bar."""
    shown = {"acceptance": f"{float(counts.acceptance_rate):.2f}", "divergences": int(counts.num_divergent)}
    if int(counts.num_unconverged):
        shown["failed solves"] = int(counts.num_unconverged)
    if int(counts.num_irreversible):
        shown["irreversible"] = int(counts.num_irreversible)
    if int(counts.num_max_depth):
        shown["cut off"] = int(counts.num_max_depth)
    bar.set_postfix(shown, refresh=False)
    bar.update(done - bar.n)
