"""What the kernels share: a chain's state, an algorithm, where a transition sets out, and what is checked before.

H(z, v) = -log p(z) + ½ log |G(z)| + ½ vᵀ G(z)⁻¹ v
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from hmcvae import integrators, metrics
from hmcvae._checks import check_flag, check_function, check_plain, check_positive, is_concrete
from hmcvae._numerics import all_finite
from hmcvae._random import normal
from hmcvae._ravel import ravel_pytree
from hmcvae.integrators import IntegratorState
from hmcvae.integrators.explicit import check_euclidean
from hmcvae.samplers.data import OpenInit, OpenKernel, carried
from hmcvae.samplers.keeping import shared, start_key
from hmcvae.types import LogDensityFn, Metric, PRNGKey, PyTree, Scalar, Vector

# (logdensity_fn, metric) -> step, and a step is (state, step_size) -> (state, SolverInfo).
IntegratorFn = Callable[[LogDensityFn, Metric], Callable]


class HMCState(NamedTuple):
    """Where a chain stands.

    position: z, a pytree of float arrays as the user gave it.
    logdensity: log p(z), in the position's dtype.
    logdensity_grad: ∇ log p(z), the position's pytree; carried, so that L leapfrog steps cost L gradients.
    geometry: what a metric that depends on the position keeps of z, so that it is built once; () for others.
    """

    position: PyTree
    logdensity: Scalar
    logdensity_grad: PyTree
    geometry: Any = ()


class SamplingAlgorithm(NamedTuple):
    """A Markov kernel by BlackJAX's conventions, and what warm-up needs to tune it.

    init: `(position, rng_key=None) -> HMCState`; of `mmala` an `MMALAState`, here and below.
    step: `(rng_key, state) -> (HMCState, info)`, with the kernel's own kind of info (`HMCInfo`, `NUTSInfo`, …).
    kernel: `(rng_key, state, step_size, metric) -> (HMCState, info)`, of which step is the case with
    step_size: ε as given, and
    metric: as given.
    common: `rng_key -> x`, where all the chains of a transition share something that is drawn; `sample` then draws x
        once and gives it to each chain's kernel as a fifth argument. None: they share nothing.
    settings: all that the kernel was made of beside the density, its name first; a stored run goes on with equal ones.
    """

    init: Callable
    step: Callable
    kernel: Callable
    step_size: Any
    metric: Metric
    common: Callable | None = None
    settings: tuple = ()


class Settings(NamedTuple):
    """The arguments that kernels over an integrator have in common, checked; see `hmc`."""

    step_size: Any
    divergence_threshold: Any
    check_reversibility: bool | None
    reversibility_tolerance: Any

    def checks(self, take_step: Any, metric: Metric) -> bool:
        """Whether steps are taken back: as was asked for, or where the integrator is implicit."""
        if self.check_reversibility is not None:
            return self.check_reversibility
        return getattr(take_step, "is_implicit", metric.is_position_dependent)

    def tolerance(self, dtype: Any) -> Any:
        """Largest error of a way back that passes."""
        given = self.reversibility_tolerance
        return jnp.finfo(dtype).eps ** 0.5 if given is None else given


def check_settings(
    logdensity_fn: Any,
    metric: Any,
    integrator: Any,
    step_size: Any,
    divergence_threshold: Any,
    check_reversibility: Any,
    reversibility_tolerance: Any,
) -> Settings:
    """The settings, or ValueError for arguments that no kernel over an integrator can take."""
    check_function("logdensity_fn", logdensity_fn, "position -> log p(position)")
    step_size = check_positive("step_size", step_size, is_array=True)
    divergence_threshold = check_positive("divergence_threshold", divergence_threshold)
    reversibility_tolerance = check_positive(
        "reversibility_tolerance", reversibility_tolerance, optional=True
    )
    metrics.check_is_metric(metric)
    _check_integrator(integrator)
    if integrator is integrators.leapfrog:  # the default: told before anything is compiled
        check_euclidean("leapfrog", metric)
    if check_reversibility is not None:
        check_reversibility = check_flag("check_reversibility", check_reversibility)
    return Settings(step_size, divergence_threshold, check_reversibility, reversibility_tolerance)


def as_algorithm(
    logdensity_fn: LogDensityFn,
    make_init: Callable[[LogDensityFn], Callable],
    make_kernel: Callable[[LogDensityFn], Callable],
    key: tuple,
    step_size: Any,
    metric: Metric,
    common: Callable | None = None,
) -> SamplingAlgorithm:
    """The algorithm of a kernel; `make_kernel` holds neither a density nor a metric.

    What is built anew of the same density and an equal `key`, which is all that the kernel depends on beside its
    arguments, has the same kernel, and so compiles nothing. Of a density that carries its data along that is the
    function which they are given to; not where the metric depends on the position: it may hold the same data.
    """
    init_key = (key[0], *start_key(metric, step_size))
    parts = None if metric.is_position_dependent else carried(logdensity_fn)
    if parts is None:
        init = shared(logdensity_fn, init_key, lambda: make_init(logdensity_fn))
        kernel = shared(logdensity_fn, key, lambda: make_kernel(logdensity_fn))
    else:
        density = parts.density

        def open_init(position: PyTree, rng_key: Any, data: list) -> Any:
            return make_init(density(data))(position, rng_key)

        def open_kernel(
            rng_key: PRNGKey, state: Any, step_size: Any, metric: Metric, data: list, *once: Any
        ) -> Any:
            return make_kernel(density(data))(rng_key, state, step_size, metric, *once)

        own_init = shared(parts.function, (*init_key, parts.identity), lambda: open_init)
        init = OpenInit(own_init, parts.data)
        own_kernel = shared(parts.function, (*key, parts.identity), lambda: open_kernel)
        kernel = OpenKernel(own_kernel, parts.data, parts.numbers)

    def step(rng_key: PRNGKey, state: Any) -> tuple[Any, Any]:
        if not hasattr(state, "position"):
            raise ValueError(
                f"step takes (rng_key, state), the state from init or step, got {type(state).__name__}"
            )
        return kernel(rng_key, state, step_size, metric)

    return SamplingAlgorithm(init, step, kernel, step_size, metric, common, key)


def _check_integrator(integrator: Any) -> None:
    is_step = isinstance(integrator, integrators.Step)
    if is_step or not callable(integrator):
        raise ValueError(
            "integrator must build a step, (logdensity_fn, metric) -> step, such as integrators.leapfrog; "
            f"got {'a step' if is_step else repr(integrator)}"
        )


def set_out(rng_key: PRNGKey, state: HMCState, metric: Metric) -> IntegratorState:
    """The start of a trajectory: the chain's state with a momentum v ~ N(0, G(z))."""
    z = ravel_pytree(state.position)[0]
    noise = normal(rng_key, z.shape, z.dtype)
    momentum = metric.carried_factor(z, state.geometry).sqrt_matvec(noise)
    return IntegratorState(
        z, momentum, state.logdensity, ravel_pytree(state.logdensity_grad)[0], state.geometry
    )


def leave_out_momentum(state: IntegratorState, unravel: Callable[[Vector], PyTree]) -> HMCState:
    """The chain's state at a point of a trajectory."""
    return HMCState(unravel(state.position), state.logdensity, unravel(state.logdensity_grad), state.geometry)


def is_sound(state: IntegratorState, energy_error: Scalar) -> Bool[Array, ""]:
    """Whether all that decides is finite: a finite density whose gradient is not would stick the chain for good."""
    return jnp.isfinite(energy_error) & all_finite(state.position, state.logdensity_grad)


def init_state(logdensity_fn: LogDensityFn, step_size: Any, metric: Metric, position: PyTree) -> HMCState:
    """The state at a position, which is checked."""
    z, unravel = ravel(position)
    check_dimension(metric, step_size, z)
    check_finite("initial position", position)
    logdensity, gradient = jax.value_and_grad(flatten(logdensity_fn, unravel))(z)
    check_finite("logdensity at the initial position", logdensity)
    check_finite("gradient of the logdensity at the initial position", gradient)
    if metric.is_position_dependent:
        metrics.check_metric(metric, z)
    return HMCState(unravel(z), logdensity, unravel(gradient), metric.carry(z))


def with_geometry(states: Any, geometry: Any) -> Any:
    """The states with what a metric keeps of their positions; unchanged where an algorithm's states keep nothing."""
    return states._replace(geometry=geometry) if hasattr(states, "geometry") else states


def ravel(position: PyTree) -> tuple[Vector, Callable[[Vector], PyTree]]:
    """The position as one vector [d], and the way back; no leaf stays weakly typed."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(position)]
    kinds = sorted({str(leaf.dtype) for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)})
    if kinds or sum(leaf.size for leaf in leaves) == 0:
        raise ValueError(
            f"the position must hold at least one number and only floating-point arrays, "
            f"got {', '.join(kinds) or 'an empty pytree'}"
        )
    return ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), position))


def as_chains(positions: PyTree) -> PyTree:
    """Positions of many chains as arrays, or ValueError unless they share one leading axis."""
    check_plain("initial_positions", positions)
    has_lists = isinstance(positions, (list, tuple)) and not all(map(np.ndim, jax.tree.leaves(positions)))
    positions = jax.tree.map(jnp.asarray, positions)
    shapes = [leaf.shape for leaf in jax.tree.leaves(positions)]
    expected = "initial_positions must be arrays that share one leading chain axis, of at least one chain"
    if has_lists:
        raise ValueError(f"{expected}, got numbers in lists: make an array of them, jnp.asarray(…)")
    if len({shape[:1] for shape in shapes}) != 1 or shapes[0][:1] in ((), (0,)):
        raise ValueError(f"{expected}, got {f'shapes {shapes}' if shapes else 'none'}")
    return positions


def flatten(logdensity_fn: LogDensityFn, unravel: Callable[[Vector], PyTree]) -> LogDensityFn:
    """The log density of the ravelled position, a scalar in the position's dtype."""

    def flat(z: Vector) -> Scalar:
        value = logdensity_fn(unravel(z))
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(value)]
        if [leaf.shape for leaf in leaves] != [()] or jnp.iscomplexobj(leaves[0]):
            came = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves) or "nothing"
            raise ValueError(f"logdensity_fn must return one real scalar, got {came}")
        return leaves[0].astype(z.dtype)

    return flat


def check_dimension(metric: Metric, step_size: Any, z: Vector) -> None:
    """Raise ValueError unless metric and step size are for positions of z's dimension; computes nothing."""
    metrics.check_is_metric(metric)
    d = z.shape[0]
    if jnp.shape(step_size) not in ((), (d,)):
        raise ValueError(f"step_size must be a number or have shape ({d},), got shape {jnp.shape(step_size)}")
    expected = f"metric must fit the position's dimension d = {d}"
    try:
        shape = jax.eval_shape(metric.tensor, z).shape
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{expected}, got {type(metric).__name__}, which fails there: {error} "
            f"(a metric takes the ravelled position, a vector [{d}]; see jax.flatten_util.ravel_pytree)"
        ) from error
    if shape != (d, d):
        raise ValueError(f"{expected}, got {type(metric).__name__} with a tensor of shape {shape}")


def check_finite(name: str, value: PyTree) -> None:
    """Raise ValueError for a start from which no chain can move; traced values pass unseen."""
    for leaf in jax.tree.leaves(value):
        # NumPy, since inside `jit` jax.numpy traces even what is done to constants.
        if is_concrete(leaf) and not np.all(np.isfinite(np.asarray(leaf))):
            raise ValueError(f"the {name} must be finite, got {leaf}")
