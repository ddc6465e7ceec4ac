"""Transitions for the Markov-chain bound: a move of y, with the log densities of going there and of coming back.

A transition t draws auxiliary noise u ~ q_t(u | x, y_{t-1}) and maps (y_{t-1}, u) to (y_t, u') by an invertible map of
unit volume; r_t(u' | x, y_t) is the model of coming back. Its contribution to the bound is

    log_reverse - log_forward = log r_t(u' | x, y_t) - log q_t(u | x, y_{t-1}).

For a plain Markov kernel, the move of Salimans, Kingma & Welling (2015, eq. 5), u is y_t itself and u' is y_{t-1}.
y are the coordinates of the bound's posterior, by default z itself.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hmcvae import integrators, metrics, posteriors, solvers
from hmcvae._checks import check_count, check_real
from hmcvae.posteriors import Gaussian
from hmcvae.solvers import Solver, SolverInfo, exact_info
from hmcvae.types import ArrayLike, LogDensityFn, Metric, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import Example, gaussian_log_prob

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
    """

    init: Callable[[PRNGKey], PyTree]
    begin: Callable[[LogDensityFn, Vector], Any]
    step: Callable[[PyTree, PRNGKey, Target, Any], tuple[Any, TransitionInfo]]


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


def hamiltonian(
    latent_dim: int | None,
    reverse: Any = None,
    momentum: Any = None,
    num_steps: int = 1,
    *,
    initial_step_size: float = 0.1,
    max_step_size: float = 1.0,
    per_coordinate_steps: bool = False,
    unroll: int | bool = 1,
    checkpoint: bool = False,
) -> Transition:
    """A few leapfrog steps on log p(x, ·) with fresh momentum (Salimans, Kingma & Welling 2015, section 3, eq. 9-11).

    Momenta are whitened by the learned diagonal masses M, v = M^{1/2} w, on both ends:

        w ~ q(w | x, z) = N(m_q, s_q²),   (z', v') = Φ(z, M^{1/2} w),   r(w' | x, z') = N(w'; m_r, s_r²).

    Φ preserves volume and log |M| cancels between q and r, so the difference of the two log densities is exact.
    Parameters: `step_size`, unconstrained, with ε = max_step_size · sigmoid(step_size), so it stays positive and
    bounded; `log_mass` [d]; and those of the two models. All are trained through the exact gradient.

    Args:
        latent_dim: d; None: one mass for all coordinates.
        reverse: r, see `as_conditional`; None is N(0, I), exact at stationarity.
        momentum: q, likewise; None is N(0, I), the usual momentum.
        num_steps: L ≥ 0 leapfrog steps.
        initial_step_size, max_step_size: in the units of z over the square root of the masses.
        per_coordinate_steps: learn a step size for each coordinate.
        unroll, checkpoint: see `integrators.integrate`.

    Raises:
        ValueError: for a negative number of steps, or unless 0 < initial_step_size < max_step_size.
    """
    num_steps = check_count("num_steps", num_steps, 0)
    latent_dim = None if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    raw_step = _raw_step_size(initial_step_size, max_step_size)
    if per_coordinate_steps and latent_dim is None:
        raise ValueError("per_coordinate_steps needs latent_dim, got None")
    reverse, momentum = as_conditional("reverse", reverse), as_conditional("momentum", momentum)

    def init(rng_key: PRNGKey) -> PyTree:
        reverse_key, momentum_key = jax.random.split(rng_key)
        return {
            "step_size": jnp.full((latent_dim,) if per_coordinate_steps else (), raw_step, float),
            "log_mass": jnp.zeros((latent_dim or 1,)),
            "reverse": reverse.init(reverse_key),
            "momentum": momentum.init(momentum_key),
        }

    def step(params: PyTree, rng_key: PRNGKey, target: Target, state: Any):
        start, features = state.position, target.example.features
        dtype = start.dtype
        epsilon = step_size(params, max_step_size).astype(dtype)
        mass = jnp.broadcast_to(jnp.exp(params["log_mass"]).astype(dtype), start.shape)
        metric = metrics.diagonal(mass)
        mean, log_scale = momentum.apply(params["momentum"], features, start)
        w = mean + jnp.exp(log_scale) * jax.random.normal(rng_key, start.shape, dtype)
        log_forward = gaussian_log_prob(w, mean, log_scale)
        state = state._replace(momentum=metric.factor(start).sqrt_matvec(w))
        first = state.logdensity
        leapfrog = integrators.leapfrog(target.logdensity_fn, metric)
        state, solver = integrators.integrate(
            leapfrog, state, epsilon, num_steps, unroll=unroll, checkpoint=checkpoint
        )
        w_end = metric.factor(start).sqrt_solve(state.momentum)
        log_reverse = gaussian_log_prob(w_end, *reverse.apply(params["reverse"], features, state.position))
        energy_error = first - state.logdensity + 0.5 * (jnp.sum(w_end**2) - jnp.sum(w**2))
        return state, TransitionInfo(log_forward, log_reverse, energy_error, solver)

    return Transition(init, _begin, step)


def _begin(logdensity_fn: LogDensityFn, position: Vector) -> integrators.IntegratorState:
    # Not integrators.init: a start that is not finite is a numerical failure here, to be seen in the weight.
    return integrators.IntegratorState(
        position, jnp.zeros_like(position), *jax.value_and_grad(logdensity_fn)(position)
    )


def _raw_step_size(initial: float, maximum: float) -> float:
    """The unconstrained parameter of a step size that starts at `initial` and stays below `maximum`."""
    initial = check_real("initial_step_size", initial, 0, is_open=True)
    maximum = check_real("max_step_size", maximum, 0, is_open=True)
    if initial >= maximum:
        raise ValueError(f"initial_step_size must be below max_step_size = {maximum}, got {initial}")
    return math.log(initial / maximum) - math.log1p(-initial / maximum)


def riemannian(
    learned_metric: LearnedMetric,
    reverse: Any = None,
    momentum: Any = None,
    num_steps: int = 1,
    *,
    solver: Solver = solvers.DEFAULT,
    integrator: Integrator = integrators.generalized_leapfrog,
    initial_step_size: float = 0.1,
    max_step_size: float = 1.0,
    unroll: int | bool = 2,
    checkpoint: bool = False,
) -> Transition:
    """A few steps of the generalized leapfrog with fresh momentum, for a metric that depends on the position.

    Momenta are whitened by the metric where they are, v = L(z) w with L Lᵀ = G(z):

        w ~ q(w | x, z),   (z', v') = Φ(z, L(z) w),   w' = L(z')⁻¹ v',

        log q(v | x, z) = log q(w | x, z) - ½ log |G(z)|,     log r(v' | x, z') = log r(w' | x, z') - ½ log |G(z')|.

    Φ (Girolami & Calderhead 2011, eq. 16-18) preserves volume where its solves are converged, and there alone is the
    difference of the two densities exact: `solver` of the info says so. At steps so large that the implicit equations
    have several solutions a converged solve may land on another branch than its reverse; nothing here looks for that
    (`rmhmc` does, with `check_reversibility`), so keep steps small enough that all solves converge.

    Args:
        learned_metric: the metric, a function of y and of x; `learned_decoder_metric` is one.
        reverse, momentum: r and q, see `as_conditional`; None is N(0, I).
        num_steps: L ≥ 0.
        solver: a fixed count is faster to differentiate, one to tolerance is exact: see `hmcvae.solvers`.
        integrator: `(logdensity_fn, metric, solver) -> step`; `integrators.implicit_midpoint` is another. Where its
            steps do not preserve volume the transition gives no bound.
        initial_step_size, max_step_size: see `hamiltonian`.
        unroll, checkpoint: see `integrators.integrate`. Of d derivatives of a net a loop keeps copies for the backward
            pass; up to three steps make none.

    Raises:
        ValueError: see `hamiltonian`.
    """
    num_steps = check_count("num_steps", num_steps, 0)
    raw_step = _raw_step_size(initial_step_size, max_step_size)
    reverse, momentum = as_conditional("reverse", reverse), as_conditional("momentum", momentum)

    def init(rng_key: PRNGKey) -> PyTree:
        reverse_key, momentum_key, metric_key = jax.random.split(rng_key, 3)
        return {
            "step_size": jnp.asarray(raw_step, float),
            "metric": learned_metric.init(metric_key),
            "reverse": reverse.init(reverse_key),
            "momentum": momentum.init(momentum_key),
        }

    def step(params: PyTree, rng_key: PRNGKey, target: Target, state: Any):
        start, features = state.position, target.example.features
        dtype = start.dtype
        metric = learned_metric.build(params["metric"], target)
        metrics.check_is_metric(metric)
        geometry = metric.carry(start)
        factor = metric.carried_factor(start, geometry)
        mean, log_scale = momentum.apply(params["momentum"], features, start)
        w = mean + jnp.exp(log_scale) * jax.random.normal(rng_key, start.shape, dtype)
        log_forward = gaussian_log_prob(w, mean, log_scale) - 0.5 * factor.log_det
        energy = -state.logdensity + 0.5 * jnp.sum(w**2) + 0.5 * factor.log_det
        state, solver_info = integrators.integrate(
            integrator(target.logdensity_fn, metric, solver),
            state._replace(momentum=factor.sqrt_matvec(w), geometry=geometry),
            step_size(params, max_step_size).astype(dtype),
            num_steps,
            unroll=unroll,
            checkpoint=checkpoint,
        )
        factor = metric.carried_factor(state.position, state.geometry)
        w_end = factor.sqrt_solve(state.momentum)
        log_reverse = gaussian_log_prob(w_end, *reverse.apply(params["reverse"], features, state.position))
        log_reverse = log_reverse - 0.5 * factor.log_det
        end_energy = -state.logdensity + 0.5 * jnp.sum(w_end**2) + 0.5 * factor.log_det
        # The next transition's metric has parameters of its own.
        state = state._replace(geometry=())
        return state, TransitionInfo(log_forward, log_reverse, end_energy - energy, solver_info)

    return Transition(init, _begin, step)


def learned_decoder_metric(latent_dim: int | None, position_dependence: float | None = None) -> LearnedMetric:
    """The decoder's Fisher information with the prior's precision, mixed with constant masses:

        G(y) = κ Aᵀ [J(z)ᵀ diag(w) J(z) + I] A + (1 - κ) M,   z = c + A y.

    Args:
        latent_dim: d; None: one mass for all coordinates.
        position_dependence: κ in [0, 1] to hold; None: learned, starting at 1/2. M is learned unless κ is 1.

    Raises:
        ValueError: unless latent_dim is None or at least 1, and κ None or in [0, 1].
    """
    latent_dim = None if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    if position_dependence is not None:
        position_dependence = check_real("position_dependence", position_dependence, 0.0, 1.0)

    def init(rng_key: PRNGKey) -> PyTree:
        del rng_key
        masses = {} if position_dependence == 1 else {"log_mass": jnp.zeros((latent_dim or 1,))}
        return masses | ({"dependence": jnp.zeros(())} if position_dependence is None else {})

    def build(params: PyTree, target: Target) -> Metric:
        A = target.coordinates.matrix()
        is_learned = position_dependence is None
        kappa = jax.nn.sigmoid(params["dependence"]) if is_learned else jnp.asarray(position_dependence)
        kappa = kappa.astype(A.dtype)
        mass = jnp.exp(params.get("log_mass", jnp.zeros(1))).astype(A.dtype)
        precision = kappa * A.T @ A + (1 - kappa) * jnp.diag(jnp.broadcast_to(mass, A.shape[:1]))
        return posteriors.decoder_metric(
            target.example, precision, weight=kappa, to_position=target.coordinates.to_position
        )

    return LearnedMetric(init, build)


def step_size(params: PyTree, max_step_size: ArrayLike = 1.0) -> Float[Array, "..."]:
    """ε = max_step_size · sigmoid(raw): the step sizes that the parameters of `hamiltonian` stand for."""
    return jnp.asarray(max_step_size) * jax.nn.sigmoid(params["step_size"])


class _Point(NamedTuple):
    position: Vector
    logdensity: Scalar


def gaussian_kernel(forward: Any, reverse: Any) -> Transition:
    """A learned Markov kernel and its learned reverse, without dynamics (Salimans et al. 2015, eq. 5-6):

        q_t(z' | x, z) = N(z'; z + m_q(x, z), s_q(x, z)²),   r_t(z | x, z') = N(z; z' + m_r(x, z'), s_r(x, z')²).

    `forward` and `reverse` are as in `as_conditional`.
    """
    forward, reverse = as_conditional("forward", forward), as_conditional("reverse", reverse)

    def init(rng_key: PRNGKey) -> PyTree:
        forward_key, reverse_key = jax.random.split(rng_key)
        return {"forward": forward.init(forward_key), "reverse": reverse.init(reverse_key)}

    def step(params: PyTree, rng_key: PRNGKey, target: Target, state: _Point):
        start, features = state.position, target.example.features
        shift, log_scale = forward.apply(params["forward"], features, start)
        end = start + shift + jnp.exp(log_scale) * jax.random.normal(rng_key, start.shape, start.dtype)
        log_forward = gaussian_log_prob(end, start + shift, log_scale)
        shift, log_scale = reverse.apply(params["reverse"], features, end)
        log_reverse = gaussian_log_prob(start, end + shift, log_scale)
        info = TransitionInfo(log_forward, log_reverse, jnp.zeros_like(log_forward), exact_info(start.dtype))
        return _Point(end, target.logdensity_fn(end)), info

    return Transition(init, lambda logdensity_fn, z: _Point(z, logdensity_fn(z)), step)
