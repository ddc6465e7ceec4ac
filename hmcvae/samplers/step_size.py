"""The step size of a warm-up: dual averaging, and the search for where it begins.

Step sizes are kept as logarithms, so that no scale that the dtype can hold is too large or too small.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from hmcvae._checks import check_count, check_positive, check_real, is_concrete
from hmcvae._sharding import vary_as
from hmcvae.types import ArrayLike, Scalar

# Doublings or halvings of a step size: more than lie between the smallest and the largest number of float32.
MAX_CHANGES = 260


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
    return dual_averaging_at(jnp.log(jnp.asarray(step_size, dtype)))


def dual_averaging_at(log_step_size: Scalar) -> DualAveragingState:
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
    check_probability("target", target)
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
    check_probability("threshold", threshold)
    max_changes = check_count("max_changes", max_changes, 0)
    first = jnp.asarray(step_size, jnp.result_type(step_size, jnp.float32))

    def change(search: Search) -> Search:
        return search_update(search, acceptance_fn(search.step_size), threshold)

    start = vary_as(begin_search(first), first, jax.eval_shape(acceptance_fn, first))
    return lax.while_loop(lambda search: search_goes_on(search, max_changes), change, start).step_size


class Search(NamedTuple):
    """step_size: ε to look at next.  rate: acceptance probability of the last one.  grows: whether ε is doubled.
    has_crossed: the threshold.  has_left: the range of the dtype.  count: doublings or halvings so far."""

    step_size: Scalar
    rate: Scalar
    grows: Bool[Array, ""]
    has_crossed: Bool[Array, ""]
    has_left: Bool[Array, ""]
    count: Int[Array, ""]


def begin_search(first: Scalar) -> Search:
    """A search that begins at ε = `first`."""
    no = jnp.asarray(False)
    return Search(first, jnp.zeros_like(first), no, no, no, jnp.zeros((), jnp.int32))


def search_goes_on(search: Search, max_changes: int = MAX_CHANGES) -> Bool[Array, ""]:
    return ~(search.has_crossed | search.has_left) & (search.count < max_changes)


def search_update(
    search: Search, rate: ArrayLike, threshold: ArrayLike, may_grow: ArrayLike = True, dtype: Any = None
) -> Search:
    """Double or halve ε by the acceptance probability that it has, until that crosses the threshold.

    Where ε may not grow, a first ε that accepts is kept. `dtype` is that of the positions, whose range ε may not leave.
    """
    own = search.step_size.dtype
    smallest, largest = log_limits(dtype or own)
    rate = jnp.asarray(rate, own)
    is_accepting = rate > threshold  # False for NaN: too large
    grows = jnp.where(search.count == 0, is_accepting & may_grow, search.grows)
    has_crossed = is_accepting != grows
    following = search.step_size * jnp.where(grows, 2.0, 0.5).astype(own)
    has_left = ~((jnp.log(following) > smallest) & (jnp.log(following) < largest))
    step_size = jnp.where(has_crossed | has_left, search.step_size, following)
    return Search(step_size, rate, grows, has_crossed, has_left, search.count + 1)


def log_limits(dtype: Any) -> tuple[float, float]:
    """The logarithms between which a dtype has room for a step size, and for what it is multiplied with."""
    info = jnp.finfo(dtype)
    return 0.9 * float(np.log(float(info.tiny))), 0.9 * float(np.log(float(info.max)))


def check_probability(name: str, value: Any) -> None:
    """Raise ValueError unless the value, where it can be seen, lies inside (0, 1)."""
    if is_concrete(value):
        check_real(name, value, 0, 1, is_open=True)
