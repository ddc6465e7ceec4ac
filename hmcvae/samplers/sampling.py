"""Many chains, many draws: warm-up, sampling and a progress bar.

The chains are a batch axis of one program. A run is a loop on the device whose bounds are arguments, so that
one compilation serves any number of pieces: the progress bar merely cuts the run, and the draws do not depend
on where.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

from hmcvae._checks import (
    check_count,
    check_flag,
    check_function,
    check_key,
    check_positive,
    check_real,
    is_concrete,
)
from hmcvae._digest import digest
from hmcvae._sharding import check_mesh, explicit_mesh, move_to, place, using_mesh, with_axes
from hmcvae.metrics import Identity, check_is_metric, check_metric, from_tensor
from hmcvae.samplers import adaptation as adapt
from hmcvae.samplers.base import SamplingAlgorithm, as_chains, with_geometry
from hmcvae.samplers.data import OpenInit, OpenKernel, with_data
from hmcvae.samplers.draws import Samples
from hmcvae.samplers.health import check_finite, list_of, warn_of_rounding, warn_of_trouble
from hmcvae.samplers.keeping import in_words, kept
from hmcvae.samplers.programs import initialiser
from hmcvae.samplers.run_folder import RunFolder
from hmcvae.samplers.running import run_chains
from hmcvae.samplers.stages import Plan, chain_keys
from hmcvae.samplers.stored import Store
from hmcvae.types import PRNGKey, PyTree

MOST_TRANSITIONS = 2**31 - 2**20  # they are counted in 32 bits


def sample(
    rng_key: Any,
    algorithm: Any,
    initial_positions: PyTree,
    *,
    num_samples: Any,
    num_warmup: Any = 0,
    target_acceptance: Any = 0.8,
    adapt_mass: Any = "auto",
    thin: Any = 1,
    record: Any = None,
    folder: Any = None,
    resume: bool = False,
    mesh: Any = None,
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
    Programs are compiled once per density, settings and shapes, and live as long as the density: other keys, starts,
    step sizes and numbers of draws compile nothing (past two million numbers, a slice of them). A run without warm-up,
    such as one that goes on, has a program of its own. Nor do other data of the same shapes compile anything, where the
    density carries them along:

        density = jax.tree_util.Partial(log_density, data)       # log_density(data, position)

    The arrays among the arguments of a `Partial` of a plain function are then arguments of the programs, which live as
    long as that function; they are traced, so shapes and branches must not depend on their numbers. Other arguments
    must be numbers or text (another of them compiles anew), and the metric must not depend on the position; else the
    density is compiled for its data, like one that closes over them, one made by `transforms.over`, or a lambda that is
    written anew. Densities must be pure, as for `jax.jit`: of a global, an attribute or an array in place that is
    changed later, a function that was sampled before sees nothing. To keep programs on disk for other processes, set
    `JAX_COMPILATION_CACHE_DIR=DIR` and `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0` in the environment before JAX is
    imported (`experiments.bench_first_call`).

    Args:
        rng_key: typed or uint32 key.
        algorithm: from `hmcvae.hmc` and its like; or anything with `init(position, rng_key)` and
            `step(rng_key, state)` whose state has a `position`, such as BlackJAX's. Without a `kernel` there
            is nothing to tune, and warm-up draws are only thrown away.
        initial_positions: pytree of positions with a leading chain axis; a 1-d array is so many chains of a scalar.
        num_samples: draws of each chain.
        num_warmup: transitions before them, to tune the step size and the mass (`samplers.adaptation`); of a vector of
            step sizes a common factor. Where they are
            too few to find a step size near the target, the one that is left is accepted at half of it at least, and
            `samples.adaptation.is_adapted` is False.
        target_acceptance: mean acceptance probability that the step size is tuned to.
        adapt_mass: what the mass is estimated by; None keeps the metric. "diagonal", "dense": the inverse of the
            draws' (co)variance. "diagonal_fisher", "low_rank": draws and gradients together
            (`samplers.fisher_masses`), a diagonal, or one and a few directions (`metrics.low_rank`). "hierarchical":
            for a metric of `metrics.hierarchical` with log-linear masses (`samplers.hierarchical`). "auto" is
            "diagonal" for an algorithm with the identity metric and one step size, and otherwise None: a metric that
            was chosen is kept.
        thin: transitions a draw, of which the last is kept with its info; counts are of all of them. E-BFMI
            is not known of such draws: it is a figure of successive transitions.
        record: `state -> what is kept` of a chain's state in place of its position, any pytree of arrays: for chains
            too large to be kept whole. `samples.position` is then that, and `samples.end` where the chains stand.
        folder: where draws are written as they come, a few seconds' worth at a time, so that memory does not grow with
            their number; the arrays of the result are NumPy's, left on disk. `load_samples(folder)` reads them while
            the run goes on, and after it.
        resume: go on with the run in folder, if there is one, from its last piece, warm-up included: the draws are
            those of a run that was never stopped, bit for bit. A larger num_samples than before appends draws.
        mesh: devices that share the chains, which must be a multiple of them. The draws of each chain are those of one
            device, to rounding: XLA may add up in another order for another number of chains, and a warm-up feels it.
        progress: show a bar with the acceptance and the failures so far; needs the package `tqdm`.

    Warns:
        SamplingWarning: once a run, for divergences, chains that never moved, a log density that never changed, more
            than one transition in 20 that failed to solve or to retrace, or whose tree (`nuts`) was cut off at its
            largest depth, chains that disagree (R̂ > 1.1, in runs of 100 draws and more), 1,000 draws and more that are
            worth fewer than 40, energies that hardly change (E-BFMI < 0.2), and a warm-up that has not adapted, or in
            which no chain moved; and before it for a log density whose rounding error exceeds 1. Silent inside `jit`.

    Raises:
        ValueError: for counts below 1 (0 for num_warmup), a target outside (0, 1), an unknown adapt_mass or
            one for a metric that depends on the position or together with a vector of step sizes, something that is no
            key, positions without a common chain axis, starts where the position, the log density or the metric is not
            finite or the metric not positive definite; a progress bar or a folder inside `jit`; a folder that holds
            another run (another kernel, key, start, or a density of other values where the chains stand), or more draws
            than are asked for, or that another process writes to, and resume without one.
        OSError: if draws cannot be written; those before them stay.
    """
    _check_algorithm(algorithm)
    progress, resume = check_flag("progress", progress), check_flag("resume", resume)
    num_samples = check_count("num_samples", num_samples, 1)
    num_warmup = check_count("num_warmup", num_warmup, 0)
    if is_concrete(target_acceptance):
        check_real("target_acceptance", target_acceptance, 0, 1, is_open=True)
    mass = _resolve_mass(adapt_mass, algorithm)
    thin = check_count("thin", thin, 1)
    if record is not None:
        check_function("record", record, "state -> what is kept of it")
        if getattr(record, "__hash__", None) is None:
            raise ValueError(f"record must have a hash, as functions do, got {record!r}")
    if max(num_samples * thin, num_warmup) > MOST_TRANSITIONS:
        raise ValueError(
            f"a chain takes at most {MOST_TRANSITIONS} transitions, got num_samples = {num_samples}, thin = {thin} and "
            f"num_warmup = {num_warmup}"
        )
    if folder is not None and not isinstance(folder, (str, Path)):
        raise ValueError(f"folder must be a path, got {folder!r}")
    if resume and folder is None:
        raise ValueError("resume needs the folder of a run to go on with, got None")
    rng_key, positions = check_key(rng_key), _check_positions(initial_positions)
    mesh = check_mesh(mesh)
    explicit = explicit_mesh((rng_key, positions)) if mesh is None else None
    auto = mesh if explicit is None else with_axes(AxisType.Auto, explicit)
    plan = Plan(num_samples, num_warmup, target_acceptance, mass, thin, record, progress, mesh, auto)
    if mesh is not None:
        _check_chains(positions, mesh)
        positions = place(positions, mesh, PartitionSpec(mesh.axis_names))
        algorithm = with_data(algorithm, lambda data: place(data, mesh, PartitionSpec()))
    if auto is None:
        samples = _run(rng_key, algorithm, positions, plan, folder, resume)
    else:
        # Loops over chains and keys do not yet go through Explicit axes: the same devices with Auto ones, and back.
        with using_mesh(auto):
            rng_key, positions = move_to((rng_key, positions), auto)
            algorithm = with_data(algorithm, lambda data: move_to(data, auto))
            samples = _run(rng_key, algorithm, positions, plan, folder, resume)
        samples = samples if explicit is None else move_to(samples, explicit)
    warn_of_trouble(samples, num_warmup, target_acceptance)
    return samples


def _run(
    rng_key: PRNGKey, algorithm: Any, positions: PyTree, plan: Plan, folder: Path | str | None, resume: bool
) -> Samples:
    keys = chain_keys(rng_key, 2, jax.tree.leaves(positions)[0].shape[0])
    states = _start_chains(keys, algorithm, positions)
    if (plan.progress or folder is not None) and not is_concrete(states):
        what = "progress to show: leave progress=False" if plan.progress else "folder to write to: leave it"
        raise ValueError(f"inside jit there is no {what} there")
    if folder is None:
        return run_chains(rng_key, algorithm, states, plan, None)
    store = Store(folder)
    identity = _identity(rng_key, algorithm, positions, plan)
    with store.locked():
        own = RunFolder(store, identity, resume, lambda z: initialiser(algorithm.init)(z, keys))
        own.check(plan.num_samples)
        return run_chains(rng_key, algorithm, states, plan, own)


def _identity(rng_key: PRNGKey, algorithm: Any, positions: PyTree, plan: Plan) -> dict:
    """What the draws depend on, as far as it can be told: not the density itself (`RunFolder` looks at its values)."""
    settings = getattr(algorithm, "settings", ())
    return {
        "rng_key": digest(jax.random.key_data(rng_key)),
        "initial_positions": digest(positions),
        "algorithm": f"{settings[0]}{in_words(settings[1:])}" if settings else None,
        "step_size": _rounded(getattr(algorithm, "step_size", None)),
        "metric": digest(getattr(algorithm, "metric", None)),
        "data": _data_digest(algorithm),
        "num_warmup": plan.num_warmup,
        "target_acceptance": _rounded(plan.target) if plan.num_warmup else None,
        "adapt_mass": plan.mass,
        "thin": plan.thin,
        "record": getattr(plan.record, "__qualname__", plan.record and type(plan.record).__name__),
    }


def _data_digest(algorithm: Any) -> str | None:
    """Of the data and the numbers that the density carries along, if it does."""
    kernel = getattr(algorithm, "kernel", None)
    if not isinstance(kernel, OpenKernel):
        return None

    def plain(leaf: Array) -> Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    numbers = np.frombuffer(" ".join(kernel.numbers).encode(), np.uint8)
    return digest([*(plain(leaf) for leaf in kernel.data), numbers])


def _rounded(number: Any) -> Any:
    """As JSON, the same in any precision; a digest of an array."""
    return digest(number) if number is None or jnp.ndim(number) else float(np.float32(number))


def _check_chains(positions: PyTree, mesh: Any) -> None:
    num_chains = jax.tree.leaves(positions)[0].shape[0]
    if num_chains % mesh.size:
        raise ValueError(
            f"the {mesh.size} devices of the mesh need a multiple of as many chains, got {num_chains}"
        )


def _resolve_mass(adapt_mass: Any, algorithm: Any) -> Any:
    """The form of mass to adapt; None if there is nothing to tune."""
    metric, shape = getattr(algorithm, "metric", None), np.shape(getattr(algorithm, "step_size", 1.0))
    if isinstance(adapt_mass, str) and adapt_mass == "auto":
        return "diagonal" if isinstance(metric, Identity) and not shape else None
    adapt.check_mass(adapt_mass, metric, "adapt_mass", ("auto",))
    if adapt_mass is not None and shape:
        raise ValueError(
            f"step sizes of each coordinate, of shape {shape}, are masses of another form: adapt_mass must be None or "
            f'"auto" with them, got {adapt_mass!r}'
        )
    return None if metric is None else adapt_mass


def _check_algorithm(algorithm: Any) -> None:
    """Raise ValueError for what cannot draw: None, a constructor that was not called."""
    if not (hasattr(algorithm, "init") and hasattr(algorithm, "step")):
        came = repr(algorithm)
        if callable(algorithm):
            came = f"the function {getattr(algorithm, '__name__', came)}"
        raise ValueError(
            f"algorithm must have init and step, as what hmcvae.nuts(logdensity_fn, step_size) returns, got {came}"
        )
    if isinstance(algorithm, SamplingAlgorithm):  # `_replace` looks at nothing
        check_positive("step_size", algorithm.step_size, is_array=True)
        check_is_metric(algorithm.metric)


def _check_positions(positions: PyTree) -> PyTree:
    """The positions as arrays, or ValueError unless they are finite and share a chain axis."""
    positions = as_chains(positions)
    check_finite("initial position", positions)
    return positions


def _start_chains(rng_keys: Array, algorithm: Any, positions: PyTree) -> Any:
    """The states of all the chains, or ValueError for starts from which no chain can move."""
    try:
        states = initialiser(algorithm.init)(positions, rng_keys)
    except Exception as error:
        error.add_note(_about_starts(error, algorithm, positions))
        raise
    if not hasattr(states, "position"):
        raise ValueError(f"the algorithm's state must have a position, got {type(states).__name__}")
    logdensity = getattr(states, "logdensity", None)
    check_finite("logdensity at the initial position", logdensity)
    check_finite("gradient of the logdensity there", getattr(states, "logdensity_grad", None))
    states = _look_at_metric(algorithm, states)
    warn_of_rounding(logdensity)
    return states


def _about_starts(error: Exception, algorithm: Any, positions: PyTree) -> str:
    """What may have gone wrong where a density fails at the starts."""
    leaves = jax.tree.leaves(positions)
    shapes = [leaf.shape[1:] for leaf in leaves]
    note = (
        f"initial_positions has a leading chain axis: {leaves[0].shape[0]} chains, of which each has a position of "
        f"{'shape ' + str(shapes[0]) if len(shapes) == 1 else 'shapes ' + str(shapes)}"
    )
    if isinstance(algorithm.init, OpenInit) and isinstance(
        error, (jax.errors.ConcretizationTypeError, TypeError)
    ):
        note += (
            "; arrays among the arguments of a Partial are traced, so that shapes and branches must not depend on "
            "their numbers: those of a function that closes over NumPy arrays may"
        )
    return note


def _look_at_metric(algorithm: Any, states: Any) -> Any:
    """The states with what the algorithm's own metric keeps of them: `init` may be that of another, in whose place
    `_replace` has put this one. ValueError for chains that start where it is not positive definite or symmetric."""
    metric = getattr(algorithm, "metric", None)
    if not getattr(metric, "is_position_dependent", False):
        return states
    arrays, structure = jax.tree.flatten(metric)
    is_looked_at = getattr(metric, "has_small_tensor", True)

    def look(arrays: PyTree, positions: PyTree) -> tuple[Any, Array, Array, Array | None]:
        metric = jax.tree.unflatten(structure, arrays)
        z = adapt.ravel_chains(positions)
        carried = jax.vmap(metric.carry)(z)
        log_dets = jax.vmap(lambda z, carried: metric.carried_factor(z, carried).log_det)(z, carried)
        return carried, log_dets, z[0], metric.tensor(z[0]) if is_looked_at else None

    if not is_concrete(states):
        return with_geometry(states, look(arrays, states.position)[0])
    program = kept(algorithm.init, ("metric", structure), lambda _: jax.jit(look))
    carried, log_dets, z, tensor = program(arrays, states.position)
    if tensor is not None:
        check_metric(from_tensor(lambda _: tensor), z)
    is_definite = np.isfinite(np.asarray(log_dets).astype(np.float64))
    if not is_definite.all():
        raise ValueError(
            "the metric must be finite and positive definite at the initial position, it is not in chains "
            f"{list_of(~is_definite)} (its log-determinant is not finite)"
        )
    return with_geometry(states, carried)
