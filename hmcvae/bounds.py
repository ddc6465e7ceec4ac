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

from hmcvae._checks import check_count
from hmcvae.charts import Chart
from hmcvae.solvers import SolverInfo, exact_info
from hmcvae.transitions import Transition, hamiltonian
from hmcvae.types import ArrayLike, LogDensityFn, PRNGKey, PyTree, Scalar, Vector
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


@dataclass(frozen=True)
class Bound:
    """init: `rng_key -> params["bound"]`.  evaluate: see `__call__`.  vae: the model it bounds.
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


def markov_chain(vae: VAE, transition: Transition, num_transitions: int = 1) -> Bound:
    """The bound with T transitions of a Markov chain inside (Salimans, Kingma & Welling 2015, eq. 5-6).

        L = log p(x, z_0) - log q(z_0 | x) + Σ_t log α_t,   α_t = p(x, z_t) r_t / (p(x, z_{t-1}) q_t)
          = log p(x, z_T) - log q(z_0 | x) + Σ_t (log r_t - log q_t)

    The log densities between z_0 and z_T telescope: the bound needs the last alone. Every transition has
    parameters of its own (stacked along a leading [T]). T = 0 is the ELBO.

    Raises:
        ValueError: if num_transitions is negative or not a whole number.
    """
    num_transitions = check_count("num_transitions", num_transitions, 0)

    def init(rng_key: PRNGKey) -> PyTree:
        if num_transitions == 0:
            return {}
        return jax.vmap(transition.init)(jax.random.split(rng_key, num_transitions))

    def evaluate(params: PyTree, rng_key: PRNGKey, x: Image, kl_weight: ArrayLike):
        check_params(params)
        start_key, chain_key = jax.random.split(rng_key)
        posterior = vae.posterior(params["vae"], x)
        z0 = posterior.sample(start_key)
        end = _run_chain(
            transition,
            num_transitions,
            params["bound"],
            chain_key,
            posterior.features,
            vae.logdensity_fn(params["vae"], x),
            z0,
        )
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


def _run_chain(
    transition: Transition | None,
    num_transitions: int,
    params: PyTree,
    rng_key: PRNGKey,
    features: Array,
    logdensity_fn: LogDensityFn,
    start: Vector,
) -> _End:
    """T transitions from `start`; params have a leading [T]. T = 0 needs no transition."""
    if transition is None or num_transitions == 0:
        zero = jnp.zeros((), start.dtype)
        return _End(start, logdensity_fn(start), zero, zero, exact_info(start.dtype))

    def move(state: Any, inputs: tuple[PyTree, PRNGKey]):
        own, key = inputs
        return transition.step(own, key, features, logdensity_fn, state)

    keys = jax.random.split(rng_key, num_transitions)
    state = transition.begin(logdensity_fn, start)
    state, infos = _scan(move, state, (params, keys), num_transitions)
    log_ratio = jnp.sum(infos.log_reverse - infos.log_forward)
    energy_error = jnp.mean(jnp.abs(infos.energy_error))
    s = infos.solver
    solver = SolverInfo(s.converged.all(), s.num_iterations.sum(), s.residual.max())
    return _End(state.position, state.logdensity, log_ratio, energy_error, solver)


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
        options: initial_step_size, max_step_size, per_coordinate_steps, unroll, checkpoint: see
            `transitions.hamiltonian`.

    Raises:
        ValueError: for negative counts or step sizes, or models of another kind.
    """
    dimension = latent_dim if latent_dim is not None else vae.latent_dim
    transition = hamiltonian(dimension, reverse, momentum, num_steps, **options)
    chain = markov_chain(vae, transition, num_transitions)
    return Bound(vae, chain.init, chain.evaluate, "hvi")


def charted(vae: VAE, chart: Chart, transition: Transition | None = None, num_transitions: int = 0) -> Bound:
    """The Markov-chain bound in coordinates of each datum's own: z = c(x) + A(x) y, see `charts`.

        y_0 ~ N(0, s²),   L = log p(x, c + A y_T) + log |det A| - log N(y_0; 0, s²) + Σ_t (log r_t - log q_t)

    Start, dynamics and reverse model all live in y. Without transitions it is a Gaussian encoder N(c, A s² Aᵀ).
    Parameters: {"chart": of the chart, "chain": of the transitions, stacked along a leading [T]}.

    Args:
        vae: the model.
        chart: from `hmcvae.charts`.
        transition: of y; None only for T = 0.
        num_transitions: T ≥ 0.

    Raises:
        ValueError: if num_transitions is negative or not whole, or not 0 without a transition.
    """
    num_transitions = check_count("num_transitions", num_transitions, 0)
    if transition is None and num_transitions:
        raise ValueError(f"{num_transitions} transitions need a transition, got None")

    def init(rng_key: PRNGKey) -> PyTree:
        chart_key, chain_key = jax.random.split(rng_key)
        params = {"chart": chart.init(chart_key), "chain": {}}
        if transition is not None and num_transitions:
            params["chain"] = jax.vmap(transition.init)(jax.random.split(chain_key, num_transitions))
        return params

    def evaluate(params: PyTree, rng_key: PRNGKey, x: Image, kl_weight: ArrayLike):
        check_params(params)
        chart_key, start_key, chain_key = jax.random.split(rng_key, 3)
        own, posterior = params["bound"], vae.posterior(params["vae"], x)
        frame = chart.build(own["chart"], chart_key, vae, params["vae"], x, posterior)
        noise = jax.random.normal(start_key, frame.center.shape, frame.center.dtype)
        y0 = jnp.exp(frame.log_scale) * noise
        log_start = gaussian_log_prob(y0, jnp.zeros_like(y0), frame.log_scale)
        logdensity_fn = frame.logdensity_fn(vae.logdensity_fn(params["vae"], x))
        end = _run_chain(
            transition, num_transitions, own["chain"], chain_key, posterior.features, logdensity_fn, y0
        )
        position = frame.to_position(end.position)
        log_likelihood = end.logdensity - frame.log_det - log_prior(position)
        cost = log_start - frame.log_det - log_prior(position) - end.log_ratio
        log_weight = log_likelihood - jnp.asarray(kl_weight, y0.dtype) * cost
        return log_weight, BoundInfo(
            log_weight, log_likelihood, frame.to_position(y0), position, end.energy_error, end.solver
        )

    return Bound(vae, init, evaluate, "charted")


def whitened_hvi(
    vae: VAE,
    chart: Chart,
    *,
    reverse: Any = None,
    num_transitions: int = 1,
    num_steps: int = 1,
    momentum: Any = None,
    **options: Any,
) -> Bound:
    """Hamiltonian variational inference with a metric held constant for each datum, in whitened coordinates.

    `hvi` in the y of a chart: leapfrog on y, whose masses are those learned in `transitions.hamiltonian`, is leapfrog
    on z with mass matrix G(x) = (A Aᵀ)⁻¹ where they are one.

    Args:
        vae, reverse, num_transitions, num_steps, momentum, options: see `hvi`; reverse and momentum models are
            functions of y.
        chart: `charts.fisher(d)`, `charts.amortised(num_features, d)`, either of them `charts.recentred(…)`.

    Raises:
        ValueError: see `hvi`.
    """
    transition = hamiltonian(vae.latent_dim, reverse, momentum, num_steps, **options)
    bound = charted(vae, chart, transition, num_transitions)
    return Bound(vae, bound.init, bound.evaluate, "whitened_hvi")


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
