"""Lower bounds on log p(x), per example, as pure functions to be vmapped over a batch.

A bound is called as `log_weight, info = bound(params, rng_key, x)` with `params = {"vae": …, "bound": …}`:
E[log_weight] ≤ log p(x) is the bound, and E[exp(log_weight)] = p(x) (except for `elbo(kl="analytic")`, which says so).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmcvae import metrics, solvers
from hmcvae._checks import check_count, check_key, check_real
from hmcvae.charts import Chart, Frame
from hmcvae.solvers import Solver, SolverInfo, collect_info, exact_info
from hmcvae.transitions import Transition, hamiltonian, riemannian
from hmcvae.types import ArrayLike, LogDensityFn, Metric, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import VAE, Image, gaussian_log_prob, log_prior


class BoundInfo(NamedTuple):
    """What one draw of a bound passed through; K-sample bounds stack a leading [K].

    log_weight: the draw's own log weight, in nats.
    log_likelihood: log p(x | z) at the last position; log_weight - log_likelihood is minus the draw's "KL" cost.
    initial_position, position: z_0 from the encoder and z_T at the chain's end, [d].
    energy_error: mean over the transitions of |H(end) - H(start)|, in nats; 0 without dynamics.
    solver: report of the implicit solves, over all transitions.
    """

    log_weight: Scalar
    log_likelihood: Scalar
    initial_position: Vector
    position: Vector
    energy_error: Scalar
    solver: SolverInfo


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound is itself alone: two of the same model are two.

    init: `rng_key -> params["bound"]`.  evaluate: see `__call__`.  vae: the model it bounds.
    is_weight: whether E[exp(log_weight)] = p(x)."""

    vae: VAE
    init: Callable[[PRNGKey], PyTree]
    evaluate: Callable[[PyTree, PRNGKey, Image, ArrayLike], tuple[Scalar, BoundInfo]]
    name: str
    is_weight: bool = True

    def __call__(
        self, params: PyTree, rng_key: PRNGKey, x: Image, kl_weight: ArrayLike = 1.0
    ) -> tuple[Scalar, BoundInfo]:
        """One draw of the log weight for one example.

        Args:
            params: {"vae": the networks' parameters, "bound": from `init`}.
            rng_key: a key of this example's own.
            x: one example, shaped as the encoder takes it.
            kl_weight: β of KL warm-up (Bowman et al. 2016): everything but log p(x | z_T) is multiplied by it.
                The result is a bound on log p(x) only at 1.
        """
        check_key(rng_key)
        return self.evaluate(params, rng_key, x, kl_weight)


def check_params(params: PyTree) -> None:
    """Raise ValueError unless params is a mapping with "vae" and "bound"."""
    if not isinstance(params, Mapping) or not {"vae", "bound"} <= set(params):
        came = sorted(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(f'params must be {{"vae": …, "bound": bound.init(rng_key)}}, got {came}')


def elbo(vae: VAE, *, kl: str = "sampled") -> Bound:
    """The evidence lower bound of a VAE (Kingma & Welling 2014, eq. 2-3).

        kl="sampled":   log p(x, z) - log q(z | x),  z ~ q;   E[exp] = p(x)
        kl="analytic":  log p(x | z) - KL(q ‖ p);             the same mean, but exp of it is no estimate of p(x)

    Raises:
        ValueError: if `kl` is neither.
    """
    if kl not in ("sampled", "analytic"):
        raise ValueError(f'kl must be "sampled" or "analytic", got {kl!r}')

    def evaluate(params: PyTree, rng_key: PRNGKey, x: Image, kl_weight: ArrayLike):
        check_params(params)
        posterior = vae.posterior(params["vae"], x)
        z = posterior.sample(rng_key)
        log_likelihood = vae.log_likelihood(params["vae"], x, z)
        cost = posterior.kl_from_prior() if kl == "analytic" else posterior.log_prob(z) - log_prior(z)
        log_weight = log_likelihood - jnp.asarray(kl_weight, z.dtype) * cost
        info = BoundInfo(log_weight, log_likelihood, z, z, jnp.zeros_like(log_weight), exact_info(z.dtype))
        return log_weight, info

    return Bound(vae, lambda _: {}, evaluate, f"elbo, {kl} KL", is_weight=kl == "sampled")


def inverse_temperatures(schedule: Float[Array, " n"]) -> Float[Array, " T"]:
    """β_1 < … < β_T in (0, 1), of an annealed bound's parameters: partial sums of softmax(schedule), n = T + 1."""
    return jnp.cumsum(jax.nn.softmax(schedule))[:-1]


def markov_chain(
    vae: VAE, transition: Transition, num_transitions: int = 1, *, annealed: bool = False
) -> Bound:
    """The bound with T transitions of a Markov chain inside (Salimans, Kingma & Welling 2015, eq. 5-6).

        L = log p(x, z_0) - log q(z_0 | x) + Σ_t log α_t,   α_t = p(x, z_t) r_t / (p(x, z_{t-1}) q_t)
          = log p(x, z_T) - log q(z_0 | x) + Σ_t (log r_t - log q_t)

    The log densities between z_0 and z_T telescope: the bound needs the last alone. Every transition has
    parameters of its own (stacked along a leading [T]). T = 0 is the ELBO.

    Args:
        vae: the model.
        transition: see `hmcvae.transitions`.
        num_transitions: T ≥ 0.
        annealed: transition t moves on (1 - β_t) log q(z | x) + β_t log p(x, z), with β learned
            (`inverse_temperatures`), as in annealed importance sampling (Neal 2001) and its differentiable kin (Geffner
            & Domke 2021); the bound is the same formula, since it holds for any moves. Each transition then costs one
            gradient more. Parameters: {"chain": those of the transitions, "schedule": [T + 1]}.

    Raises:
        ValueError: if num_transitions is negative or not a whole number.
    """
    num_transitions = check_count("num_transitions", num_transitions, 0)

    def init(rng_key: PRNGKey) -> PyTree:
        params = _init_chain(transition, num_transitions, rng_key)
        return {"chain": params, "schedule": jnp.zeros(num_transitions + 1)} if annealed else params

    def evaluate(params: PyTree, rng_key: PRNGKey, x: Image, kl_weight: ArrayLike):
        check_params(params)
        start_key, chain_key = jax.random.split(rng_key)
        posterior = vae.posterior(params["vae"], x)
        z0 = posterior.sample(start_key)
        own = params["bound"] if annealed else {"chain": params["bound"]}
        target = _Target(posterior.features, vae.logdensity_fn(params["vae"], x), posterior.log_prob)
        end = _run_chain(transition, num_transitions, own, chain_key, target, z0)
        log_likelihood = end.logdensity - log_prior(end.position)
        cost = posterior.log_prob(z0) - log_prior(end.position) - end.log_ratio
        log_weight = log_likelihood - jnp.asarray(kl_weight, z0.dtype) * cost
        return log_weight, BoundInfo(
            log_weight, log_likelihood, z0, end.position, end.energy_error, end.solver
        )

    return Bound(vae, init, evaluate, "markov_chain")


class _End(NamedTuple):
    """Where a chain ended: log_ratio is Σ_t (log r_t - log q_t)."""

    position: Vector
    logdensity: Scalar
    log_ratio: Scalar
    energy_error: Scalar
    solver: SolverInfo


class _Target(NamedTuple):
    """What a chain is run on: features of x, log p(x, ·), and the log density of its start."""

    features: Array
    logdensity_fn: LogDensityFn
    start_logdensity_fn: LogDensityFn


def _init_chain(transition: Transition | None, num_transitions: int, rng_key: PRNGKey) -> PyTree:
    """Parameters of T transitions, stacked along a leading [T]."""
    if transition is None or num_transitions == 0:
        return {}
    return jax.vmap(transition.init)(jax.random.split(rng_key, num_transitions))


def _run_chain(
    transition: Transition | None,
    num_transitions: int,
    params: PyTree,
    rng_key: PRNGKey,
    target: _Target,
    start: Vector,
) -> _End:
    """T transitions from `start`; T = 0 needs no transition. params: {"chain": leading [T]}, and "schedule" if the
    target is annealed."""
    logdensity_fn = target.logdensity_fn
    if transition is None or num_transitions == 0:
        zero = jnp.zeros((), start.dtype)
        return _End(start, logdensity_fn(start), zero, zero, exact_info(start.dtype))
    kernel, is_annealed = transition, "schedule" in params

    def move(state: Any, inputs: tuple[PyTree, PRNGKey]):
        own, key = inputs
        return kernel.step(own, key, target.features, logdensity_fn, state)

    def move_annealed(position: Vector, inputs: tuple[PyTree, PRNGKey, Scalar]):
        own, key, beta = inputs

        def tempered(z: Vector) -> Scalar:
            return (1 - beta) * target.start_logdensity_fn(z) + beta * logdensity_fn(z)

        state, info = kernel.step(own, key, target.features, tempered, kernel.begin(tempered, position))
        return state.position, info

    keys = jax.random.split(rng_key, num_transitions)
    if is_annealed:
        betas = inverse_temperatures(params["schedule"]).astype(start.dtype)
        position, infos = _scan(move_annealed, start, (params["chain"], keys, betas), num_transitions)
        logdensity = logdensity_fn(position)
    else:
        state = kernel.begin(logdensity_fn, start)
        state, infos = _scan(move, state, (params["chain"], keys), num_transitions)
        position, logdensity = state.position, state.logdensity
    log_ratio = jnp.sum(infos.log_reverse - infos.log_forward)
    energy_error = jnp.mean(jnp.abs(infos.energy_error))
    return _End(position, logdensity, log_ratio, energy_error, collect_info(infos.solver))


def _scan(body: Callable, carry: Any, inputs: PyTree, length: int) -> tuple[Any, PyTree]:
    """`lax.scan`, without the loop when there is one pass: XLA then fuses it with its surroundings."""
    if length > 1:
        return lax.scan(body, carry, inputs)
    carry, output = body(carry, jax.tree.map(lambda leaf: leaf[0], inputs))
    return carry, jax.tree.map(lambda leaf: leaf[None], output)


def hvi(
    vae: VAE,
    *,
    reverse: Any = None,
    num_transitions: int = 1,
    num_steps: int = 1,
    momentum: Any = None,
    latent_dim: int | None = None,
    annealed: bool = False,
    **options: Any,
) -> Bound:
    """Hamiltonian variational inference (Salimans, Kingma & Welling 2015, section 3).

    T transitions of L leapfrog steps on the exact log p(x, ·), momentum drawn afresh for each. With w the momentum
    whitened by the learned masses,

        L = log p(x, z_T) - log q(z_0 | x) + Σ_t [log r_t(w_t | x, z_t) - log q_t(w'_t | x, z_{t-1})].

    L steps cost L gradients of log p(x, ·), plus one for the chain's start; the gradient with respect to the
    parameters goes through all of them, second-order terms included.

    Args:
        vae: the model.
        reverse: r(w | x, z): a function `(params, features [h], z [d]) -> (mean [d], log_scale [d])`, or an object
            with `init(rng_key)` and `apply` (see `networks.reverse_model`); None: N(0, I), nothing learned.
        num_transitions, num_steps: T ≥ 0 and L ≥ 0.
        momentum: q(w' | x, z), likewise; None: the standard normal.
        latent_dim: d, by default the VAE's; None: one learned mass for all coordinates.
        annealed: see `markov_chain`.
        options: initial_step_size, max_step_size, per_coordinate_steps, unroll, checkpoint: see
            `transitions.hamiltonian`.

    Raises:
        ValueError: for negative counts or step sizes, or models of another kind.
    """
    dimension = vae.latent_dim if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    transition = hamiltonian(dimension, reverse, momentum, num_steps, **options)
    chain = markov_chain(vae, transition, num_transitions, annealed=annealed)
    return Bound(vae, chain.init, chain.evaluate, "hvi")


def charted(
    vae: VAE,
    chart: Chart,
    transition: Transition | None = None,
    num_transitions: int = 0,
    *,
    annealed: bool = False,
) -> Bound:
    """The Markov-chain bound in coordinates of each datum's own: z = c(x) + A(x) y, see `charts`.

        y_0 ~ N(0, s²),   L = log p(x, c + A y_T) + log |det A| - log N(y_0; 0, s²) + Σ_t (log r_t - log q_t)

    Start, dynamics and reverse model all live in y. Without transitions it is a Gaussian encoder N(c, A s² Aᵀ).
    Parameters: {"chart": of the chart, "chain": of the transitions, stacked along a leading [T]}, and "schedule".

    Args:
        vae: the model.
        chart: from `hmcvae.charts`.
        transition: of y; None only for T = 0.
        num_transitions: T ≥ 0.
        annealed: see `markov_chain`; the path starts at N(y; 0, s²).

    Raises:
        ValueError: if num_transitions is negative or not whole, or not 0 without a transition.
    """
    num_transitions = check_count("num_transitions", num_transitions, 0)
    if transition is None and num_transitions:
        raise ValueError(f"{num_transitions} transitions need a transition, got None")
    return _charted(vae, chart, lambda *_: transition, transition, num_transitions, annealed, "charted")


def _charted(
    vae: VAE,
    chart: Chart,
    transition_fn: Callable[[PyTree, Frame], Transition | None],
    like: Transition | None,
    num_transitions: int,
    annealed: bool,
    name: str,
) -> Bound:
    """`charted`, with a transition made for each frame: `transition_fn(vae_params, frame)`, whose `init` is that of
    `like`."""

    def init(rng_key: PRNGKey) -> PyTree:
        chart_key, chain_key = jax.random.split(rng_key)
        params = {"chart": chart.init(chart_key), "chain": _init_chain(like, num_transitions, chain_key)}
        return params | ({"schedule": jnp.zeros(num_transitions + 1)} if annealed else {})

    def evaluate(params: PyTree, rng_key: PRNGKey, x: Image, kl_weight: ArrayLike):
        check_params(params)
        chart_key, start_key, chain_key = jax.random.split(rng_key, 3)
        own, posterior = params["bound"], vae.posterior(params["vae"], x)
        frame = chart.build(own["chart"], chart_key, vae, params["vae"], x, posterior)
        noise = jax.random.normal(start_key, frame.center.shape, frame.center.dtype)
        y0 = jnp.exp(frame.log_scale) * noise

        def log_start(y: Vector) -> Scalar:
            return gaussian_log_prob(y, jnp.zeros_like(y), frame.log_scale)

        logdensity_fn = frame.logdensity_fn(vae.logdensity_fn(params["vae"], x))
        target = _Target(posterior.features, logdensity_fn, log_start)
        transition = transition_fn(params["vae"], frame)
        end = _run_chain(transition, num_transitions, own, chain_key, target, y0)
        position = frame.to_position(end.position)
        log_likelihood = end.logdensity - frame.log_det - log_prior(position)
        cost = log_start(y0) - frame.log_det - log_prior(position) - end.log_ratio
        log_weight = log_likelihood - jnp.asarray(kl_weight, y0.dtype) * cost
        return log_weight, BoundInfo(
            log_weight, log_likelihood, frame.to_position(y0), position, end.energy_error, end.solver
        )

    return Bound(vae, init, evaluate, name)


def whitened_hvi(
    vae: VAE,
    chart: Chart,
    *,
    reverse: Any = None,
    num_transitions: int = 1,
    num_steps: int = 1,
    momentum: Any = None,
    annealed: bool = False,
    **options: Any,
) -> Bound:
    """Hamiltonian variational inference with a metric held constant for each datum, in whitened coordinates.

    `hvi` in the y of a chart: leapfrog on y, whose masses are those learned in `transitions.hamiltonian`, is leapfrog
    on z with mass matrix G(x) = (A Aᵀ)⁻¹ where they are one.

    Args:
        vae, reverse, num_transitions, num_steps, momentum, annealed, options: see `hvi`; reverse and momentum models
            are functions of y.
        chart: `charts.fisher(d)`, `charts.amortised(num_features, d)`, either of them `charts.recentred(…)`.

    Raises:
        ValueError: see `hvi`.
    """
    transition = hamiltonian(vae.latent_dim, reverse, momentum, num_steps, **options)
    bound = charted(vae, chart, transition, num_transitions, annealed=annealed)
    return Bound(vae, bound.init, bound.evaluate, "whitened_hvi")


def rhvi(
    vae: VAE,
    chart: Chart,
    *,
    reverse: Any = None,
    num_transitions: int = 1,
    num_steps: int = 1,
    momentum: Any = None,
    annealed: bool = False,
    position_dependence: float | None = None,
    solver: Solver = solvers.TO_TOLERANCE,
    **options: Any,
) -> Bound:
    """Riemannian Hamiltonian variational inference: `whitened_hvi` with a metric that goes with the position.

    In the chart's coordinates the metric is

        G(y) = κ Aᵀ [J(z)ᵀ diag(w) J(z) + I] A + (1 - κ) M,   z = c + A y,

    the decoder's Fisher information and the prior's precision, pulled back, and mixed with constant masses by the
    share κ: at κ = 0 the flow is that of `whitened_hvi`. κ and the diagonal M are learned, one of each a transition.
    Steps are those of `transitions.riemannian`, so momenta are v ~ N(0, G(y)) but for the models q and r of their
    whitened form.

    Args:
        vae, chart, reverse, num_transitions, num_steps, momentum, annealed: see `whitened_hvi`.
        position_dependence: κ in [0, 1] to hold; None: learned, starting at 1/2.
        solver: of the implicit equations. A step whose solve is not converged does not preserve volume, and what it
            gives is no bound: train with `solvers.fixed_point(num_iterations=…)` if need be, but evaluate to tolerance,
            and read `info.solver.converged`.
        options: integrator, initial_step_size, max_step_size, unroll, checkpoint: see `transitions.riemannian`.

    Raises:
        ValueError: see `hvi`; or unless κ is None or in [0, 1].
    """
    if position_dependence is not None:
        position_dependence = check_real("position_dependence", position_dependence, 0.0, 1.0)

    def init_metric(_: PRNGKey) -> PyTree:
        masses = {} if position_dependence == 1 else {"log_mass": jnp.zeros((vae.latent_dim or 1,))}
        return masses | ({"dependence": jnp.zeros(())} if position_dependence is None else {})

    def transition_fn(vae_params: PyTree, frame: Frame) -> Transition:
        def metric_fn(params: PyTree) -> Metric:
            dtype, A = frame.scale.dtype, frame.scale
            learned = position_dependence is None
            share = jax.nn.sigmoid(params["dependence"]) if learned else jnp.asarray(position_dependence)
            share = share.astype(dtype)

            def predict(y: Vector) -> PyTree:
                return vae.decode(vae_params, frame.to_position(y))

            def weights(outputs: PyTree) -> PyTree:
                return jax.tree.map(lambda w: share * w, vae.likelihood.fisher_weights(outputs))

            mass = jnp.exp(params.get("log_mass", jnp.zeros(1))).astype(dtype)
            precision = share * A.T @ A + (1 - share) * jnp.diag(jnp.broadcast_to(mass, A.shape[:1]))
            # linear is not to be found out by tracing: the decoder's parameters are traced themselves.
            return metrics.fisher(predict, weights, precision, linear=False)

        return riemannian(
            metric_fn, reverse, momentum, num_steps, init_metric=init_metric, solver=solver, **options
        )

    # For its parameters, which do not depend on the metric.
    like = riemannian(
        lambda _: metrics.identity(),
        reverse,
        momentum,
        num_steps,
        init_metric=init_metric,
        solver=solver,
        **options,
    )
    num_transitions = check_count("num_transitions", num_transitions, 0)
    return _charted(vae, chart, transition_fn, like, num_transitions, annealed, "rhvi")


def importance_weighted(bound: Bound, num_samples: int) -> Bound:
    """The K-sample bound log (1/K) Σ_k exp L_k of any bound (Burda, Grosse & Salakhutdinov 2016, eq. 8).

    `info` has a leading [K]. Its own mean is a tighter bound than that of one draw; exp of it is unbiased too.

    Raises:
        ValueError: unless num_samples ≥ 1; or for a bound whose exp is no estimate of p(x).
    """
    num_samples = check_count("num_samples", num_samples, 1)
    if not bound.is_weight:
        raise ValueError(f"{bound.name} cannot be importance weighted: exp of it is no estimate of p(x)")

    def evaluate(params: PyTree, rng_key: PRNGKey, x: Image, kl_weight: ArrayLike):
        keys = jax.random.split(rng_key, num_samples)
        log_weights, info = jax.vmap(lambda key: bound(params, key, x, kl_weight))(keys)
        return log_mean_exp(log_weights), info

    return Bound(bound.vae, bound.init, evaluate, f"{bound.name}, {num_samples} samples")


def iwae(vae: VAE, *, num_samples: int) -> Bound:
    """The importance-weighted auto-encoder (Burda et al. 2016): `importance_weighted(elbo(vae), num_samples)`."""
    return importance_weighted(elbo(vae), num_samples)


def log_mean_exp(log_weights: Float[Array, " k"]) -> Scalar:
    """log (1/K) Σ exp: without overflow."""
    return jax.nn.logsumexp(log_weights) - jnp.log(jnp.asarray(log_weights.shape[0], log_weights.dtype))
