"""Warm-up: the step size by dual averaging, the mass matrix from the draws.

Pure functions of explicit states, pooled over the chains: one step size and one mass matrix serve all of them,
so that their mean acceptance probability drives the step size and the draws of all of them feed the
(co)variance. `hmcvae.sample` puts the pieces together; each is also of use alone.

All of it is computed in float32 at least, whatever the dtype of the positions; step sizes are kept as logarithms, and
moments in units of the draws' own size, so that no scale that the dtype can hold is too large or too small.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Int

from hmcvae import metrics
from hmcvae._checks import check_count, check_positive, check_real, is_concrete
from hmcvae._numerics import all_finite
from hmcvae._ravel import ravel_pytree
from hmcvae._sharding import vary_as
from hmcvae.types import ArrayLike, Metric, PyTree, Scalar, Vector

# The form of an adapted mass matrix; None keeps the metric as it is.
Mass = Literal["diagonal", "dense"] | None
# Doublings or halvings of a step size: more than lie between the smallest and the largest number of float32.
MAX_CHANGES = 260
# Of the last look at the step size: transitions that it rests on; the length of a last stage that needs none, and of
# one that is too short to have found anything.
NUM_LOOKS, LONG_STAGE, SHORT_STAGE = 16, 50, 10
# Folded into a transition's key for the first look, so that none has a key that the transition itself splits off.
FIRST_LOOK = 1_819_242_347


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
    """The start of a search at ε0, drawn to μ = log(10 ε0): large steps are cheap, so they are tried first.

    Raises:
        ValueError: unless step_size is one positive number.
    """
    step_size = check_positive("step_size", step_size)
    if jnp.ndim(step_size):
        raise ValueError(f"step_size must be one number, got shape {jnp.shape(step_size)}")
    return _dual_averaging_at(jnp.log(jnp.asarray(step_size, dtype)))


def _dual_averaging_at(log_step_size: Scalar) -> DualAveragingState:
    zero = jnp.zeros_like(log_step_size)
    return DualAveragingState(
        log_step_size, log_step_size, zero, zero.astype(jnp.int32), float(np.log(10.0)) + log_step_size
    )


def dual_averaging_update(
    state: DualAveragingState,
    acceptance_rate: ArrayLike,
    target: ArrayLike = 0.8,
    *,
    gamma: Any = 0.05,
    t0: Any = 10.0,
    kappa: Any = 0.75,
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

    Raises:
        ValueError: for a target outside (0, 1), or constants that are not numbers of a sensible sign.
    """
    _check_probability("target", target)
    gamma, t0 = check_real("gamma", gamma, 0, is_open=True), check_real("t0", t0, 0)
    kappa = check_real("kappa", kappa, 0, 1)
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
    threshold: Any = 0.5,
    max_changes: Any = MAX_CHANGES,
) -> Scalar:
    """Double or halve ε until the acceptance probability crosses ½ (Hoffman & Gelman 2014, algorithm 4).

    They look at one leapfrog step; here `acceptance_fn` says what is looked at.

    Args:
        acceptance_fn: ε -> acceptance probability, a mean over chains or not, with its randomness held fixed;
            NaN counts as 0, so that a step size that overflows is halved.
        step_size: ε to begin with.
        threshold: the ½.
        max_changes: doublings or halvings at most, so that a flat or an impossible density ends too; enough for
            all that float32 can hold.

    Raises:
        ValueError: for a step size that is not positive, a threshold outside (0, 1), or a negative count.
    """
    check_positive("step_size", step_size)
    _check_probability("threshold", threshold)
    max_changes = check_count("max_changes", max_changes, 0)
    first = jnp.asarray(step_size, jnp.result_type(step_size, jnp.float32))
    return _search(acceptance_fn, first, threshold, max_changes=max_changes).step_size


class _Search(NamedTuple):
    """step_size: ε to look at next.  rate: acceptance probability of the last one.  grows: whether ε is doubled.
    has_crossed: the threshold.  has_left: the range of the dtype.  count: doublings or halvings so far."""

    step_size: Scalar
    rate: Scalar
    grows: Bool[Array, ""]
    has_crossed: Bool[Array, ""]
    has_left: Bool[Array, ""]
    count: Int[Array, ""]


def _search(
    acceptance_fn: Callable[[Scalar], Scalar],
    first: Scalar,
    threshold: ArrayLike,
    *,
    max_changes: int = MAX_CHANGES,
    may_grow: ArrayLike = True,
    dtype: Any = None,
) -> _Search:
    """Double or halve ε from `first` until its acceptance probability crosses the threshold.

    Where ε may not grow, a first ε that accepts is kept. `dtype` is that of the positions, whose range ε may not leave.
    """
    smallest, largest = _log_limits(dtype or first.dtype)

    def change(search: _Search) -> _Search:
        # acceptance_fn stands here once, so it is compiled once.
        rate = jnp.asarray(acceptance_fn(search.step_size), first.dtype)
        is_accepting = rate > threshold  # False for NaN: too large
        grows = jnp.where(search.count == 0, is_accepting & may_grow, search.grows)
        has_crossed = is_accepting != grows
        following = search.step_size * jnp.where(grows, 2.0, 0.5).astype(first.dtype)
        has_left = ~((jnp.log(following) > smallest) & (jnp.log(following) < largest))
        step_size = jnp.where(has_crossed | has_left, search.step_size, following)
        return _Search(step_size, rate, grows, has_crossed, has_left, search.count + 1)

    no = jnp.asarray(False)
    start = _Search(first, jnp.zeros_like(first), no, no, no, jnp.zeros((), jnp.int32))
    start = vary_as(start, first, jax.eval_shape(acceptance_fn, first))
    return lax.while_loop(
        lambda search: ~(search.has_crossed | search.has_left) & (search.count < max_changes), change, start
    )


def _log_limits(dtype: Any) -> tuple[float, float]:
    """The logarithms between which a dtype has room for a step size, and for what it is multiplied with."""
    info = jnp.finfo(dtype)
    return 0.9 * float(np.log(float(info.tiny))), 0.9 * float(np.log(float(info.max)))


class WelfordState(NamedTuple):
    """Running moments of draws, in units of their own size.

    count: n.  unit: u [d], powers of two above every |x| so far; 0 before the first.
    mean: [d].  scatter: Σ (x - mean)² / u² as [d], or Σ (x - mean)(x - mean)ᵀ / u uᵀ as [d, d].
    """

    count: Int[Array, ""]
    unit: Vector
    mean: Vector
    scatter: Float[Array, "d *d"]


def welford_init(dimension: Any, mass: Any = "diagonal", dtype: Any = None) -> WelfordState:
    """No draws yet, towards variances (`"diagonal"`) or the covariance matrix (`"dense"`).

    Raises:
        ValueError: for a dimension below 1, or another form of mass.
    """
    dimension = check_count("dimension", dimension, 1)
    if mass not in ("diagonal", "dense"):
        raise ValueError(f'the moments must be "diagonal" or "dense", got {mass!r}')
    shape = (dimension, dimension) if mass == "dense" else (dimension,)
    zero = jnp.zeros(dimension, dtype)
    return WelfordState(jnp.zeros((), jnp.int32), zero, zero, jnp.zeros(shape, dtype))


def welford_update(state: WelfordState, draws: Float[Array, "n d"]) -> WelfordState:
    """Take in n draws at once, one of each chain (Chan, Golub & LeVeque 1983, eq. 1.5; Welford 1962 at n = 1)."""
    dtype = state.mean.dtype
    draws = draws.astype(dtype)
    # A change of the unit is a product with a power of two: no digit is lost.
    unit = jnp.maximum(state.unit, _power_of_two(draws))
    divisor = jnp.where(unit > 0, unit, 1)
    shrink = state.unit / divisor
    num_new = draws.shape[0]
    count = state.count + num_new
    draws = draws / divisor[None, :]
    mean, old_mean = jnp.mean(draws, axis=0), state.mean / divisor
    deviations = draws - mean[None, :]
    shift = mean - old_mean
    weight = (state.count * (num_new / count)).astype(dtype)
    if state.scatter.ndim == 2:
        old_scatter = state.scatter * jnp.outer(shrink, shrink)
        scatter = deviations.T @ deviations + weight * jnp.outer(shift, shift)
    else:
        old_scatter = state.scatter * shrink**2
        scatter = jnp.sum(deviations**2, axis=0) + weight * shift**2
    step = (num_new / count).astype(dtype)
    return WelfordState(count, unit, (old_mean + step * shift) * divisor, old_scatter + scatter)


def _power_of_two(draws: Float[Array, "n d"]) -> Vector:
    """The smallest powers of two above every |x| of a coordinate; 0 where all are 0, NaN where one is not finite."""
    size = jnp.max(jnp.abs(draws), axis=0)
    unit = jnp.where(size > 0, jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1]), 0)
    return jnp.where(jnp.isfinite(draws).all(axis=0), unit, jnp.nan)


def welford_covariance(state: WelfordState, *, regularise: bool = True) -> Float[Array, "d *d"]:
    """The sample (co)variance, shrunk as in Stan towards 10⁻³ I by five draws' worth:

    n/(n + 5) Σ̂ + 10⁻³ · 5/(n + 5) I
    """
    dtype = state.mean.dtype
    n = state.count.astype(dtype)
    covariance = state.scatter / jnp.maximum(n - 1, 1)
    is_dense = covariance.ndim == 2
    # One unit after the other: their product may be beyond the dtype where the covariance is not.
    left, right = (state.unit[:, None], state.unit[None, :]) if is_dense else (state.unit, state.unit)
    covariance = covariance * left * right
    if not regularise:
        return covariance
    target = jnp.eye(state.mean.shape[0], dtype=dtype) if is_dense else jnp.ones_like(state.mean)
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


def step_size_schedule(num_warmup: Any) -> Schedule:
    """The step size alone, from the first transition to the last.

    Raises:
        ValueError: for a negative count.
    """
    num_warmup = check_count("num_warmup", num_warmup, 0)
    collects, ends, restarts = (np.zeros(num_warmup, bool) for _ in range(3))
    restarts[:1] = True
    return Schedule(collects, ends, restarts)


def window_schedule(num_warmup: Any, *, initial: Any = 75, window: Any = 25, final: Any = 50) -> Schedule:
    """Stan's three stages (reference manual, "HMC algorithm parameters: automatic parameter tuning").

    First the step size alone, to reach the typical set; then windows of draws for the mass, each twice as long
    as the one before, the last one stretched to the end of its stage; at last the step size alone. A warm-up
    too short for the given lengths splits 15 : 75 : 10, with ten transitions at least for the last stage: a step size
    is not found in fewer. One under 20 transitions adapts the step size alone.

    Raises:
        ValueError: for a negative count, or a window without transitions.
    """
    schedule = step_size_schedule(num_warmup)
    num_warmup = len(schedule.restarts)
    initial, final = check_count("initial", initial, 0), check_count("final", final, 0)
    window = check_count("window", window, 1)
    if num_warmup < 20:
        return schedule
    if initial + window + final > num_warmup:
        initial, final = int(0.15 * num_warmup), max(10, int(0.1 * num_warmup))
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
    """What warm-up has learned: the step size, the draws' moments (None if the mass is kept) and the metric.

    is_working: whether `settle` found the averaged step size, or a smaller one, to be accepted.
    is_adapted: whether it found the acceptance probability at the averaged one near the target.
    """

    step_size: DualAveragingState
    moments: WelfordState | None
    metric: Metric
    is_working: Bool[Array, ""]
    is_adapted: Bool[Array, ""]


def adaptation_init(
    step_size: Any, metric: Metric, position: Vector, mass: Any = "diagonal"
) -> AdaptationState:
    """Begin from a step size and a metric; a mass that is to be adapted begins at the metric's own tensor.

    Raises:
        ValueError: if `mass` is not "diagonal", "dense" or None, or not None though the metric depends on the
            position.
    """
    check_mass(mass, metric)
    dtype = jnp.promote_types(position.dtype, jnp.float32)
    dual = dual_averaging_init(step_size, dtype)
    no = jnp.asarray(False)
    if mass is None:
        return AdaptationState(dual, None, metric, no, no)
    tensor = metric.tensor(position).astype(dtype)
    start = metrics.dense(tensor) if mass == "dense" else metrics.diagonal(jnp.diagonal(tensor))
    return AdaptationState(dual, welford_init(position.shape[0], mass, dtype), start, no, no)


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
    # Where everything is accepted, or nothing, ε runs away: it stays where the positions' dtype can follow.
    smallest, largest = _log_limits(positions.dtype)
    dual = dual._replace(
        log_step_size=jnp.clip(dual.log_step_size, smallest, largest),
        log_step_size_average=jnp.clip(dual.log_step_size_average, smallest, largest),
    )
    if state.moments is None:
        return state._replace(step_size=dual)
    updated = welford_update(state.moments, positions)
    moments = jax.tree.map(lambda new, old: jnp.where(collects, new, old), updated, state.moments)

    def set_mass() -> tuple[WelfordState, Metric]:
        metric = metric_from_covariance(welford_covariance(moments))
        is_usable = _fits(metric, positions.dtype)
        metric = jax.tree.map(lambda new, old: jnp.where(is_usable, new, old), metric, state.metric)
        return jax.tree.map(jnp.zeros_like, moments), metric

    moments, metric = lax.cond(ends_window, set_mass, lambda: (moments, state.metric))
    return state._replace(step_size=dual, moments=moments, metric=metric)


def _fits(metric: Any, dtype: Any) -> Bool[Array, ""]:
    """Whether masses and their reciprocals are finite and not 0 in the positions' dtype."""
    info = jnp.finfo(dtype)
    smallest = max(4 * float(info.tiny), 4 / float(info.max))
    mass = jnp.diagonal(metric.mass) if metric.mass.ndim == 2 else metric.mass
    is_inside = (mass > smallest) & (mass < 1 / smallest)
    return is_inside.all() & all_finite(*jax.tree.leaves(metric))


def warmup_transition(
    kernel: Callable,
    rng_keys: Array,
    states: Any,
    learned: AdaptationState,
    flags: Schedule,
    target: ArrayLike = 0.8,
    settles: ArrayLike = False,
) -> tuple[tuple[Any, AdaptationState], Any]:
    """One transition of all the chains, and what is learned from it.

    Args:
        kernel: `(rng_key, state, step_size, metric) -> (state, info)`, of one chain.
        rng_keys: a key for each chain.
        states: the chains' states, stacked.
        learned: from `adaptation_init` or the last transition.
        flags: this transition's entries of the schedule.
        target: acceptance probability.
        settles: call once more with True, and flags that are all False, after the last transition. Then the averaged
            step size is looked at with fresh randomness, unless a long last stage vouches for it, and halved until
            half of the target is accepted; nothing else is learned.

    Returns:
        ((states, learned), info), info with a leading chain axis.
    """
    learned = vary_as(learned, rng_keys, states)
    dual, is_working, is_adapted = _reconsider(
        kernel, rng_keys, states, learned, flags.restarts, target, settles
    )
    states, info = jax.vmap(kernel, (0, 0, None, None))(
        rng_keys, states, jnp.exp(dual.log_step_size), learned.metric
    )
    learned = learned._replace(step_size=dual, is_working=is_working, is_adapted=is_adapted)
    positions = ravel_chains(states.position)
    updated = adaptation_update(
        learned, _mean_rate(info), positions, flags.collects, flags.ends_window, target
    )
    dual = jax.tree.map(lambda old, new: jnp.where(settles, old, new), dual, updated.step_size)
    return (states, updated._replace(step_size=dual)), info


def _reconsider(
    kernel: Callable,
    rng_keys: Array,
    states: Any,
    learned: AdaptationState,
    restarts: ArrayLike,
    target: ArrayLike,
    settles: ArrayLike,
) -> tuple[DualAveragingState, Bool[Array, ""], Bool[Array, ""]]:
    """(the state of the step size, whether its average is accepted, whether near the target) before a transition.

    A restart looks for a reasonable step size, upwards or downwards; the last look goes downwards alone.
    """
    target = jnp.asarray(target, jnp.float32)
    least, most = 0.5 * target, 1 - 0.02 * (1 - target)
    num_looks = jnp.where(settles, -(-NUM_LOOKS // rng_keys.shape[0]), 1)

    def acceptance(step_size: Scalar) -> Scalar:
        def look(index: Any, total: Scalar) -> Scalar:
            keys = jax.vmap(jax.random.fold_in, (0, None))(rng_keys, FIRST_LOOK + index)
            info = jax.vmap(kernel, (0, 0, None, None))(keys, states, step_size, learned.metric)[1]
            return total + _mean_rate(info).astype(total.dtype)

        zero = vary_as(jnp.zeros_like(step_size), rng_keys, states, step_size)
        return lax.fori_loop(0, num_looks, look, zero) / num_looks

    def search(dual: DualAveragingState) -> tuple:
        found = _search(
            acceptance,
            jnp.exp(dual.log_step_size_average),
            jnp.where(settles, least, 0.5),
            may_grow=~jnp.asarray(settles),
            dtype=jnp.result_type(*(leaf for leaf in jax.tree.leaves(states.position) if leaf.size)),
        )
        # A search that ended without an answer leaves ε where it was.
        log_found = jnp.where(found.has_crossed, jnp.log(found.step_size), dual.log_step_size_average)
        is_adapted = (
            found.has_crossed & (found.count == 1) & (found.rate < most) & (dual.count >= SHORT_STAGE)
        )
        return _dual_averaging_at(log_found), found.has_crossed, is_adapted

    dual = learned.step_size
    m = dual.count.astype(dual.error_average.dtype)
    # The mean acceptance probability since the last restart is δ - H̄ (m + t₀)/m.
    mean_rate = target - dual.error_average * (m + 10) / jnp.maximum(m, 1)
    is_known = (m >= LONG_STAGE) & (mean_rate > least) & (mean_rate < most)
    known = vary_as((jnp.asarray(True), jnp.asarray(True)), dual)
    return lax.cond(jnp.asarray(restarts) | (settles & ~is_known), search, lambda dual: (dual, *known), dual)


def _mean_rate(info: Any) -> Scalar:
    """The mean acceptance probability over the chains, NaN as 0; in float32 at least, where a mean is worth having."""
    rates = info.acceptance_rate
    return jnp.mean(jnp.nan_to_num(rates.astype(jnp.promote_types(rates.dtype, jnp.float32))))


def ravel_chains(positions: PyTree) -> Float[Array, "chain d"]:
    """Each chain's position as a row."""
    return jax.vmap(lambda position: ravel_pytree(position)[0])(positions)


def _check_probability(name: str, value: Any) -> None:
    """Raise ValueError unless the value, where it can be seen, lies inside (0, 1)."""
    if is_concrete(value):
        check_real(name, value, 0, 1, is_open=True)


def check_mass(mass: Any, metric: Any) -> None:
    """Raise ValueError unless `mass` names a form that can replace the metric."""
    if mass not in ("diagonal", "dense", None):
        raise ValueError(f'the adapted mass must be "diagonal", "dense" or None, got {mass!r}')
    if mass is not None and getattr(metric, "is_position_dependent", False):
        raise ValueError(
            f"a metric that depends on the position has no mass to adapt, got {mass!r} for {type(metric).__name__}"
        )
