"""The state of an integrator, its steps, and trajectories made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from hmcvae._checks import check_count, check_flag, check_vector, is_concrete
from hmcvae._sharding import vary_as
from hmcvae.integrators.scales import distance, rounding, scales, squared_norm
from hmcvae.metrics import check_is_metric, check_metric
from hmcvae.solvers import SolverInfo, collect_info, combine_info, exact_info
from hmcvae.types import ArrayLike, LogDensityFn, Metric, Scalar, StepSize, Vector


class IntegratorState(NamedTuple):
    """A point of phase space with what is known of the density there.

    position: z, [d].  momentum: v, [d].  logdensity: log p(z).  logdensity_grad: ∇ log p(z), [d].
    geometry: what the metric keeps of z (`metrics.Geometry`); () for a Euclidean one.
    """

    position: Vector
    momentum: Vector
    logdensity: Scalar
    logdensity_grad: Vector
    geometry: Any = ()


StepFn = Callable[[IntegratorState, StepSize], tuple[IntegratorState, SolverInfo]]


@dataclass(frozen=True)
class Step:
    """One integrator step, `(state, step_size) -> (state, info)`, in the three pieces that make a trajectory.

    L steps are begin, advance (L - 1 times), finish; one step is begin, finish. What passes between the pieces
    belongs to the integrator. So neighbouring half kicks are taken as one, and the density itself, which nobody
    reads before the end, is evaluated once. `advance` may return None for `info` when it solves nothing. Where advance
    is the same function as finish, what `begin` returns is also the outcome of no steps.

    is_implicit: whether it solves equations, so that the way back may fail where the way there did not.
    retraced: the same steps, each of them also taken back; its `finish` returns ((state, Retrace), info). None: nothing
    better than to integrate a trajectory there and back.
    """

    begin: Callable[[IntegratorState, StepSize], Any]
    advance: Callable[[Any, StepSize], tuple[Any, SolverInfo | None]]
    finish: Callable[[Any, StepSize], tuple[Any, SolverInfo]]
    is_implicit: bool = False
    retraced: "Step | None" = None

    @property
    def is_uniform(self) -> bool:
        """Whether the last step is like all others, so that one loop holds them all."""
        return self.advance is self.finish

    def __call__(self, state: IntegratorState, step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        return self.finish(self.begin(state, step_size), step_size)


def init(
    logdensity_fn: LogDensityFn, metric: Any, position: ArrayLike, momentum: ArrayLike
) -> IntegratorState:
    """The state at (position, momentum): evaluates log p, its gradient, and what the metric keeps, once.

    Raises:
        ValueError: unless position and momentum are finite float vectors of the same shape [d], and a metric that
            depends on the position is finite, symmetric and positive definite there (unless that is being traced).
    """
    check_is_metric(metric)
    position = check_vector("position", position)
    momentum = check_vector("momentum", momentum)
    if position.shape != momentum.shape:
        raise ValueError(
            f"momentum must have the position's shape {tuple(position.shape)}, got {tuple(momentum.shape)}"
        )
    if metric.is_position_dependent:
        check_metric(metric, position)
    logdensity, gradient = jax.value_and_grad(logdensity_fn)(position)
    momentum = momentum.astype(position.dtype)
    return IntegratorState(position, momentum, logdensity, gradient, metric.carry(position))


def integrate(
    step: StepFn,
    state: IntegratorState,
    step_size: StepSize,
    num_steps: ArrayLike,
    *,
    unroll: int | bool = 1,
    checkpoint: bool = False,
    collect: bool = False,
) -> tuple[IntegratorState, SolverInfo]:
    """Take `num_steps` steps; the report holds all / sum / max over them.

    L steps of leapfrog cost L gradients beyond the one in the initial state. With an int the loop is a
    `lax.scan`, differentiable in both modes; a traced count runs a `lax.while_loop`, without reverse mode.

    Args:
        step: a step of this module, or any `(state, step_size) -> (state, info)`.
        state: from `init`.
        step_size: ε, a scalar or [d]; negative integrates backwards in time.
        num_steps: L ≥ 0, an int or a traced integer.
        unroll: passed to `lax.scan`: how many steps a loop iteration holds.
        checkpoint: recompute the inside of each step in the backward pass, so that its memory grows by one
            state a step and not by all that the log density's evaluation holds.
        collect: return the whole trajectory: states with a leading axis of num_steps + 1, the first of them `state`,
            and the report of each step, with one of num_steps. Needs an int. The energies along it are
            `jax.vmap(partial(energy, metric))(states)`. Each step is then taken by itself, so the last state is that of
            collect=False to rounding.

    Raises:
        ValueError: if num_steps is negative or not a whole number, or is traced where steps are collected.
    """
    if check_flag("collect", collect):
        return _collect(step, state, step_size, num_steps, unroll, checkpoint)
    return _integrate(_as_step(step), state, step_size, num_steps, state, unroll, checkpoint)


def _collect(
    step: StepFn,
    state: IntegratorState,
    step_size: StepSize,
    num_steps: ArrayLike,
    unroll: int | bool,
    checkpoint: bool,
) -> tuple[IntegratorState, SolverInfo]:
    """The states of all steps, the start first, and the report of each."""
    if not is_concrete(num_steps):
        raise ValueError("num_steps must be an int where the steps are collected, got a traced value")
    num_steps = check_count("num_steps", num_steps, 0)

    def one(start: IntegratorState, step_size: StepSize) -> tuple[IntegratorState, SolverInfo]:
        return step(start, step_size)

    take = jax.checkpoint(one, prevent_cse=False) if checkpoint else one

    def body(carry: IntegratorState, _: None) -> tuple[IntegratorState, Any]:
        new, info = take(carry, step_size)
        new = vary_as(new, state, step_size)
        return new, (new, info)

    start = vary_as(state, state, step_size)
    _, (states, infos) = lax.scan(body, start, None, length=num_steps, unroll=unroll)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states), infos


def energy(metric: Metric, state: IntegratorState) -> Scalar:
    """H(z, v) = -log p(z) + ½ log |G(z)| + ½ vᵀ G(z)⁻¹ v of a state, in the position's dtype."""
    factor = metric.carried_factor(state.position, state.geometry)
    whitened = factor.sqrt_solve(state.momentum)
    return 0.5 * jnp.dot(whitened, whitened) + 0.5 * factor.log_det - state.logdensity


class Retrace(NamedTuple):
    """What came of taking a trajectory back.

    converged: whether every solve on the way back reached its tolerance.
    error: largest distance from where the way back should have come to, in the units of a standard momentum and the
        velocity that it gives (`scales`), over positions and momenta; NaN if any number is.
    excess: the same less what rounding of the positions explains.
    """

    converged: Bool[Array, ""]
    error: Scalar
    excess: Scalar


def nothing_retraced(dtype: Any) -> Retrace:
    """Of no steps."""
    return Retrace(jnp.asarray(True), jnp.zeros((), dtype), jnp.zeros((), dtype))


def integrate_retraced(
    step: StepFn, metric: Metric, state: IntegratorState, step_size: StepSize, num_steps: ArrayLike
) -> tuple[IntegratorState, SolverInfo, Retrace]:
    """`integrate`, and whether the same integrator, sent back from the end, comes to the start.

    Where the integrator knows how (`Step.retraced`), each step is taken back as soon as it is made, from where it came
    to, with the starting guesses that the trajectory back has there: what is known at both ends is not computed again,
    and rounding does not add up over the steps. Otherwise the trajectory is integrated back as a whole.
    """
    step = _as_step(step)
    if step.retraced is not None:
        unmoved = state, nothing_retraced(state.position.dtype)
        (end, retrace), info = _integrate(step.retraced, state, step_size, num_steps, unmoved)
        return end, info, retrace
    end, info = _integrate(step, state, step_size, num_steps, state)
    back, back_info = _integrate(step, end, -jnp.asarray(step_size), num_steps, end)
    factor = metric.carried_factor(state.position, state.geometry)
    units, energy = scales(factor, state.position), squared_norm(state.momentum, factor.solve(state.momentum))
    error = distance((back.position, back.momentum), (state.position, state.momentum), units, energy)
    allowed = jnp.asarray(num_steps, error.dtype) * rounding(state.position, units.position)
    return end, info, Retrace(back_info.converged, error, error - allowed)


def _as_step(step: StepFn) -> Step:
    # A plain function: nothing to merge.
    return step if isinstance(step, Step) else Step(lambda start, _: start, step, step)


def _integrate(
    step: Step,
    state: IntegratorState,
    step_size: StepSize,
    num_steps: ArrayLike,
    unmoved: Any,
    unroll: int | bool = 1,
    checkpoint: bool = False,
) -> tuple[Any, SolverInfo]:
    """`integrate`; `unmoved` is what no steps at all come to."""
    if isinstance(num_steps, jax.Array):
        return _integrate_dynamic(step, state, step_size, _check_dynamic_count(num_steps), unmoved)
    num_steps = check_count("num_steps", num_steps, 0)
    if num_steps == 0:
        return unmoved, exact_info(state.position.dtype)
    advance, finish = step.advance, step.finish
    if checkpoint:
        # Inside a scan nothing can be merged with the forward pass, so the barrier against it is dead weight.
        advance, finish = jax.checkpoint(advance, prevent_cse=False), jax.checkpoint(finish)
    carry, infos = vary_as(step.begin(state, step_size), state, step_size), None
    num_alike = num_steps if step.is_uniform else num_steps - 1
    if num_alike > 0:

        def body(carry: Any, _: None) -> tuple[Any, Any]:
            carry, info = advance(carry, step_size)
            return vary_as(carry, state, step_size), info

        carry, infos = lax.scan(body, carry, None, length=num_alike, unroll=unroll)
    if step.is_uniform and infos is not None:
        return carry, collect_info(infos)
    end, info = finish(carry, step_size)
    return end, info if infos is None else combine_info(collect_info(infos), info)


def _check_dynamic_count(num_steps: Array) -> Int[Array, ""]:
    """A count on the device as int32, or a ValueError; only a concrete one can be seen to be negative."""
    if num_steps.shape != () or not jnp.issubdtype(num_steps.dtype, jnp.integer):
        raise ValueError(
            f"num_steps must be a whole number, got shape {tuple(num_steps.shape)} and dtype {num_steps.dtype}"
        )
    if is_concrete(num_steps):
        check_count("num_steps", int(num_steps), 0)
    return num_steps.astype(jnp.int32)  # unsigned 0 - 1 would be four billion steps


def _integrate_dynamic(
    step: Step, state: IntegratorState, step_size: StepSize, num_steps: Int[Array, ""], unmoved: Any
) -> tuple[Any, SolverInfo]:
    """The same for a count known only on the device."""
    exact = exact_info(state.position.dtype)
    state, unmoved, exact = vary_as((state, unmoved, exact), state, step_size, num_steps)

    def body(_, carry):
        carry, total = carry
        carry, info = step.advance(carry, step_size)
        return vary_as((carry, total if info is None else combine_info(total, info)), exact)

    if step.is_uniform:
        return lax.fori_loop(0, num_steps, body, (vary_as(step.begin(state, step_size), exact), exact))

    def move(state: IntegratorState) -> tuple[Any, SolverInfo]:
        carry, total = lax.fori_loop(
            0, num_steps - 1, body, (vary_as(step.begin(state, step_size), exact), exact)
        )
        end, info = step.finish(carry, step_size)
        return end, combine_info(total, info)

    return lax.cond(num_steps > 0, move, lambda _: (unmoved, exact), state)
