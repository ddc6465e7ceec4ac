"""What a transition is given, is, and reports."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hmcvae import integrators
from hmcvae._checks import check_real
from hmcvae.posteriors import Gaussian
from hmcvae.solvers import Solver, SolverInfo
from hmcvae.types import ArrayLike, LogDensityFn, Metric, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import Example

Integrator = Callable[[LogDensityFn, Metric, Solver], integrators.Step]


class ConditionalGaussian(NamedTuple):
    """A diagonal Gaussian over a d-vector, given features of x and a position z.

    init: `rng_key -> params`.  apply: `(params, features [h], z [d]) -> (mean [d], log_scale [d])`.
    """

    init: Callable[[PRNGKey], PyTree]
    apply: Callable[[PyTree, Array, Vector], tuple[Vector, Vector]]


class Target(NamedTuple):
    """What a transition moves on.

    logdensity_fn: y ↦ log p(x, y), in the posterior's coordinates, or a tempered one.
    example: the model at x, with the encoder's features (see `VAE.encoded`).
    coordinates: z = c + A y, and the Gaussian of y (see `hmcvae.posteriors`).
    """

    logdensity_fn: LogDensityFn
    example: Example
    coordinates: Gaussian

    def tempered(self, beta: Scalar) -> "Target":
        """The target of (1 - β) log q(y | x) + β log p(x, y)."""
        log_q, log_p = self.coordinates.log_prob, self.logdensity_fn
        return self._replace(logdensity_fn=lambda y: (1 - beta) * log_q(y) + beta * log_p(y))


class TransitionInfo(NamedTuple):
    """log_forward: log q_t.  log_reverse: log r_t.  energy_error: H at the end minus H at the start (0 without an H).
    solver: the report of the implicit solves."""

    log_forward: Scalar
    log_reverse: Scalar
    energy_error: Scalar
    solver: SolverInfo


class Transition(NamedTuple):
    """init: `rng_key -> params` of one transition.
    begin: `(logdensity_fn, y [d]) -> state`, any pytree with fields `position` and `logdensity`.
    step: `(params, rng_key, target, state) -> (state, TransitionInfo)`.
    anneal: `(params, rng_key, target, beta, state) -> (state, TransitionInfo)`, a step on `target.tempered(beta)` from
        a state that `begin` has made of the target itself, for a transition that keeps more of it than the position
        from one temperature to the next; None: it begins anew at each.
    """

    init: Callable[[PRNGKey], PyTree]
    begin: Callable[[LogDensityFn, Vector], Any]
    step: Callable[[PyTree, PRNGKey, Target, Any], tuple[Any, TransitionInfo]]
    anneal: Callable[[PyTree, PRNGKey, Target, Any, Any], tuple[Any, TransitionInfo]] | None = None


class LearnedMetric(NamedTuple):
    """A metric of y with parameters.

    init: `rng_key -> params`.  build: `(params, target) -> Metric`."""

    init: Callable[[PRNGKey], PyTree]
    build: Callable[[PyTree, Target], Metric]


def standard_normal() -> ConditionalGaussian:
    """N(0, I), without parameters."""

    def apply(params: PyTree, features: Array, z: Vector) -> tuple[Vector, Vector]:
        del params, features
        return jnp.zeros_like(z), jnp.zeros_like(z)

    return ConditionalGaussian(lambda _: {}, apply)


def as_conditional(name: str, model: Any) -> ConditionalGaussian:
    """Make a ConditionalGaussian of None (the standard normal), of one, or of a function
    `(params, features, z) -> (mean, log_scale)` that carries its own parameters.

    Raises:
        ValueError: for anything else.
    """
    if model is None:
        return standard_normal()
    if hasattr(model, "init") and hasattr(model, "apply"):
        return ConditionalGaussian(model.init, model.apply)
    if callable(model):
        function: Any = model
        return ConditionalGaussian(lambda _: {}, function)
    raise ValueError(
        f"{name} must be None, a function (params, features, z) -> (mean, log_scale), or an object with init "
        f"and apply, got {model!r}"
    )


def begin_state(logdensity_fn: LogDensityFn, position: Vector) -> integrators.IntegratorState:
    # Not integrators.init: a start that is not finite is a numerical failure here, to be seen in the weight.
    return integrators.IntegratorState(
        position, jnp.zeros_like(position), *jax.value_and_grad(logdensity_fn)(position)
    )


def raw_step_size(initial: float, maximum: float) -> float:
    """The unconstrained parameter of a step size that starts at `initial` and stays below `maximum`."""
    initial = check_real("initial_step_size", initial, 0, is_open=True)
    maximum = check_real("max_step_size", maximum, 0, is_open=True)
    if initial >= maximum:
        raise ValueError(f"initial_step_size must be below max_step_size = {maximum}, got {initial}")
    return math.log(initial / maximum) - math.log1p(-initial / maximum)


def step_size(params: PyTree, max_step_size: ArrayLike = 1.0) -> Float[Array, "..."]:
    """ε = max_step_size · sigmoid(raw): the step sizes that the parameters of `hamiltonian` stand for."""
    return jnp.asarray(max_step_size) * jax.nn.sigmoid(params["step_size"])
