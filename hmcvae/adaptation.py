"""Warm-up: the step size by dual averaging, the mass matrix from the draws.

Pure functions of explicit states, pooled over the chains: one step size and one mass matrix serve all of them,
so that their mean acceptance probability drives the step size and the draws of all of them feed the
(co)variance. `hmcvae.sample` puts the pieces together; each is also of use alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

from hmcvae import metrics
from hmcvae.types import ArrayLike, Metric, PyTree, Scalar, Vector

# The form of an adapted mass matrix; None keeps the metric as it is.
Mass = Literal["diagonal", "dense"] | None


class DualAveragingState(NamedTuple):
    """Search for the step size whose acceptance probability is the target.

    log_step_size: log ε, to use in the next transition.
    log_step_size_average: log ε̄, to use after warm-up.
    error_average: H̄, the weighted mean of target - acceptance.
    count: m, updates so far.
    log_center: μ, the point to which log ε is drawn.
    """

    log_step_size: Scalar
    log_step_size_average: Scalar
    error_average: Scalar
    count: Int[Array, ""]
    log_center: Scalar


def dual_averaging_init(step_size: Any, dtype: Any = None) -> DualAveragingState:
    """The start of a search at ε0, drawn to μ = log(10 ε0): large steps are cheap, so they are tried first."""
    log_step_size = jnp.log(jnp.asarray(step_size, dtype))
    zero = jnp.zeros_like(log_step_size)
    return DualAveragingState(
        log_step_size, log_step_size, zero, jnp.zeros((), jnp.int32), jnp.log(10.0) + log_step_size
    )


def dual_averaging_update(
    state: DualAveragingState,
    acceptance_rate: ArrayLike,
    target: ArrayLike = 0.8,
    *,
    gamma: float = 0.05,
    t0: float = 10.0,
    kappa: float = 0.75,
) -> DualAveragingState:
    """One step of dual averaging (Hoffman & Gelman 2014, eq. 6, as in their algorithm 5).

        H̄_m = (1 - 1/(m + t₀)) H̄_{m-1} + (δ - α_m)/(m + t₀)
        log ε_m = μ - √m/γ · H̄_m
        log ε̄_m = m^{-κ} log ε_m + (1 - m^{-κ}) log ε̄_{m-1}

    Args:
        state: from `dual_averaging_init` or the last update.
        acceptance_rate: α_m, the mean over the chains; NaN counts as 0.
        target: δ.
        gamma, t0, kappa: the paper's constants and values.
    """
    dtype = state.log_step_size.dtype
    alpha = jnp.nan_to_num(jnp.asarray(acceptance_rate, dtype))
    count = state.count + 1
    m = count.astype(dtype)
    weight = 1 / (m + t0)
    error = (1 - weight) * state.error_average + weight * (jnp.asarray(target, dtype) - alpha)
    log_step_size = state.log_center - jnp.sqrt(m) / gamma * error
    eta = m**-kappa
    average = eta * log_step_size + (1 - eta) * state.log_step_size_average
    return DualAveragingState(log_step_size, average, error, count, state.log_center)


def reasonable_step_size(
    acceptance_fn: Callable[[Scalar], Scalar],
    step_size: Any,
    *,
    threshold: float = 0.5,
    max_changes: int = 60,
) -> Scalar:
    """Double or halve ε until the acceptance probability crosses ½ (Hoffman & Gelman 2014, algorithm 4).

    They look at one leapfrog step; here `acceptance_fn` says what is looked at.

    Args:
        acceptance_fn: ε -> acceptance probability, a mean over chains or not, with its randomness held fixed;
            NaN counts as 0, so that a step size that overflows is halved.
        step_size: ε to begin with.
        threshold: the ½.
        max_changes: doublings or halvings at most, so that a flat or an impossible density ends too.
    """
    first = jnp.asarray(step_size, jnp.result_type(step_size, jnp.float32))

    # (ε, whether ε grows, whether it goes on, count); acceptance_fn stands here once, so it is compiled once.
    def change(carry: tuple) -> tuple:
        epsilon, grows, _, count = carry
        is_accepting = jnp.asarray(acceptance_fn(epsilon)) > threshold  # False for NaN: too large
        grows = jnp.where(count == 0, is_accepting, grows)
        goes_on = is_accepting == grows
        ratio = jnp.where(grows, 2.0, 0.5).astype(epsilon.dtype)
        return jnp.where(goes_on, epsilon * ratio, epsilon), grows, goes_on, count + 1

    start = (first, jnp.asarray(True), jnp.asarray(True), 0)
    return lax.while_loop(lambda carry: carry[2] & (carry[3] < max_changes), change, start)[0]


class WelfordState(NamedTuple):
    """Running moments of draws.

    count: n.  mean: [d].  scatter: Σ (x - mean)² as [d], or Σ (x - mean)(x - mean)ᵀ as [d, d].
    """

    count: Int[Array, ""]
    mean: Vector
    scatter: Float[Array, "d *d"]


def welford_init(dimension: int, mass: Mass = "diagonal", dtype: Any = None) -> WelfordState:
    """No draws yet, towards variances (`"diagonal"`) or the covariance matrix (`"dense"`)."""
    shape = (dimension, dimension) if mass == "dense" else (dimension,)
    return WelfordState(jnp.zeros((), jnp.int32), jnp.zeros(dimension, dtype), jnp.zeros(shape, dtype))


def welford_update(state: WelfordState, draws: Float[Array, "n d"]) -> WelfordState:
    """Take in n draws at once, one of each chain (Chan, Golub & LeVeque 1983, eq. 1.5; Welford 1962 at n = 1)."""
    num_new = draws.shape[0]
    count = state.count + num_new
    mean = jnp.mean(draws, axis=0)
    deviations = draws - mean[None, :]
    shift = mean - state.mean
    weight = (state.count * (num_new / count)).astype(draws.dtype)
    if state.scatter.ndim == 2:
        scatter = deviations.T @ deviations + weight * jnp.outer(shift, shift)
    else:
        scatter = jnp.sum(deviations**2, axis=0) + weight * shift**2
    step = (num_new / count).astype(draws.dtype)
    return WelfordState(count, state.mean + step * shift, state.scatter + scatter)


def welford_covariance(state: WelfordState, *, regularise: bool = True) -> Float[Array, "d *d"]:
    """The sample (co)variance, shrunk as in Stan towards 10⁻³ I by five draws' worth:

    n/(n + 5) Σ̂ + 10⁻³ · 5/(n + 5) I
    """
    dtype = state.mean.dtype
    n = state.count.astype(dtype)
    covariance = state.scatter / jnp.maximum(n - 1, 1)
    if not regularise:
        return covariance
    target = jnp.ones_like(state.mean) if covariance.ndim == 1 else jnp.eye(state.mean.shape[0], dtype=dtype)
    return n / (n + 5) * covariance + 1e-3 * 5 / (n + 5) * target


def metric_from_covariance(covariance: Float[Array, "d *d"]) -> Metric:
    """The metric whose mass is the inverse of the posterior's variances [d] or covariance matrix [d, d]."""
    if covariance.ndim == 1:
        return metrics.diagonal(1 / covariance)
    mass = cho_solve(cho_factor(covariance, lower=True), jnp.eye(covariance.shape[0], dtype=covariance.dtype))
    return metrics.dense(0.5 * (mass + mass.T))


class Schedule(NamedTuple):
    """What each warm-up transition does; three bool arrays [num_warmup].

    collects: its draws feed the covariance.
    ends_window: after it the mass is set and the covariance starts afresh.
    restarts: before it a reasonable step size is sought and dual averaging starts afresh.
    """

    collects: np.ndarray
    ends_window: np.ndarray
    restarts: np.ndarray


def step_size_schedule(num_warmup: int) -> Schedule:
    """The step size alone, from the first transition to the last."""
    collects, ends, restarts = (np.zeros(num_warmup, bool) for _ in range(3))
    restarts[:1] = True
    return Schedule(collects, ends, restarts)


def window_schedule(num_warmup: int, *, initial: int = 75, window: int = 25, final: int = 50) -> Schedule:
    """Stan's three stages (reference manual, "HMC algorithm parameters: automatic parameter tuning").

    First the step size alone, to reach the typical set; then windows of draws for the mass, each twice as long
    as the one before, the last one stretched to the end of its stage; at last the step size alone. A warm-up
    too short for the given lengths splits 15 : 75 : 10; one under 20 transitions adapts the step size alone.
    """
    schedule = step_size_schedule(num_warmup)
    if num_warmup < 20:
        return schedule
    if initial + window + final > num_warmup:
        initial, final = int(0.15 * num_warmup), int(0.1 * num_warmup)
        window = num_warmup - initial - final
    start, stop = initial, num_warmup - final
    schedule.collects[start:stop] = True
    while start < stop:
        # A window is stretched when the next, twice as long, would not fit behind it.
        end = start + window if start + 3 * window <= stop else stop
        schedule.ends_window[end - 1] = True
        schedule.restarts[end : end + 1] = True
        start, window = end, 2 * window
    return schedule


class AdaptationState(NamedTuple):
    """What warm-up has learned: the step size, the draws' moments (None if the mass is kept) and the metric."""

    step_size: DualAveragingState
    moments: WelfordState | None
    metric: Metric


def adaptation_init(
    step_size: Any, metric: Metric, position: Vector, mass: Any = "diagonal"
) -> AdaptationState:
    """Begin from a step size and a metric; a mass that is to be adapted begins at the metric's own tensor.

    Raises:
        ValueError: if `mass` is not "diagonal", "dense" or None, or not None though the metric depends on the
            position.
    """
    check_mass(mass, metric)
    dual = dual_averaging_init(step_size, position.dtype)
    if mass is None:
        return AdaptationState(dual, None, metric)
    tensor = metric.tensor(position)
    start = metrics.dense(tensor) if mass == "dense" else metrics.diagonal(jnp.diagonal(tensor))
    return AdaptationState(dual, welford_init(position.shape[0], mass, position.dtype), start)


def adaptation_update(
    state: AdaptationState,
    acceptance_rate: ArrayLike,
    positions: Float[Array, "chain d"],
    collects: Any,
    ends_window: Any,
    target: ArrayLike = 0.8,
) -> AdaptationState:
    """Learn from one transition of all the chains; `collects` and `ends_window` come from the schedule."""
    dual = dual_averaging_update(state.step_size, acceptance_rate, target)
    if state.moments is None:
        return state._replace(step_size=dual)
    updated = welford_update(state.moments, positions)
    moments = jax.tree.map(lambda new, old: jnp.where(collects, new, old), updated, state.moments)

    def set_mass() -> tuple[WelfordState, Metric]:
        metric = metric_from_covariance(welford_covariance(moments))
        is_finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(metric)]).all()
        metric = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), metric, state.metric)
        return jax.tree.map(jnp.zeros_like, moments), metric

    moments, metric = lax.cond(ends_window, set_mass, lambda: (moments, state.metric))
    return AdaptationState(dual, moments, metric)


def warmup_transition(
    kernel: Callable,
    rng_keys: Array,
    states: Any,
    learned: AdaptationState,
    flags: Schedule,
    target: ArrayLike = 0.8,
) -> tuple[tuple[Any, AdaptationState], Any]:
    """One transition of all the chains, and what is learned from it.

    Args:
        kernel: `(rng_key, state, step_size, metric) -> (state, info)`, of one chain.
        rng_keys: a key for each chain.
        states: the chains' states, stacked.
        learned: from `adaptation_init` or the last transition.
        flags: this transition's entries of the schedule.
        target: acceptance probability.

    Returns:
        ((states, learned), info), info with a leading chain axis.
    """
    advance = partial(jax.vmap(kernel, (0, 0, None, None)), rng_keys, states)

    def restart(dual: DualAveragingState) -> DualAveragingState:
        def acceptance(step_size: Scalar) -> Scalar:
            return jnp.mean(advance(step_size, learned.metric)[1].acceptance_rate)

        return dual_averaging_init(reasonable_step_size(acceptance, jnp.exp(dual.log_step_size_average)))

    dual = lax.cond(flags.restarts, restart, lambda same: same, learned.step_size)
    states, info = advance(jnp.exp(dual.log_step_size), learned.metric)
    rate = jnp.mean(info.acceptance_rate)
    learned = learned._replace(step_size=dual)
    positions = ravel_chains(states.position)
    learned = adaptation_update(learned, rate, positions, flags.collects, flags.ends_window, target)
    return (states, learned), info


def ravel_chains(positions: PyTree) -> Float[Array, "chain d"]:
    """Each chain's position as a row."""
    return jax.vmap(lambda position: ravel_pytree(position)[0])(positions)


def check_mass(mass: Any, metric: Any) -> None:
    """Raise ValueError unless `mass` names a form that can replace the metric."""
    if mass not in ("diagonal", "dense", None):
        raise ValueError(f'the adapted mass must be "diagonal", "dense" or None, got {mass!r}')
    if mass is not None and getattr(metric, "is_position_dependent", False):
        raise ValueError(
            f"a metric that depends on the position has no mass to adapt, got {mass!r} for {type(metric).__name__}"
        )
