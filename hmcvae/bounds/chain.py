"""The bound with a Markov chain inside."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmcvae._checks import check_count, check_flag
from hmcvae.bounds.base import BUILD, Bound, BoundInfo
from hmcvae.posteriors import Posterior, mean_field
from hmcvae.solvers import SolverInfo, collect_info, exact_info
from hmcvae.transitions import Target, Transition
from hmcvae.types import ArrayLike, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import VAE, Image


def inverse_temperatures(schedule: Float[Array, " n"]) -> Float[Array, " T"]:
    """β_1 < … < β_T in (0, 1), of an annealed bound's parameters: partial sums of softmax(schedule), n = T + 1."""
    return jnp.cumsum(jax.nn.softmax(schedule))[:-1]


def make_build(vae: VAE, posterior: Posterior) -> Callable[[PyTree, PRNGKey, Image], Target]:
    """`Bound.build` of a posterior.

    Raises:
        ValueError: unless posterior is one of `hmcvae.posteriors`.
    """
    if not isinstance(posterior, Posterior):
        came = repr(posterior)
        if callable(posterior):
            came = f"the function {getattr(posterior, '__name__', came)}, which was not called"
        raise ValueError(f"posterior must be one of hmcvae.posteriors, such as mean_field(), got {came}")

    def build(params: PyTree, rng_key: PRNGKey, x: Image) -> Target:
        example = vae.encoded(params["vae"], x)
        # A posterior without parameters may be left out: {"vae": …, "bound": {}} will do for a plain ELBO.
        coordinates = posterior.build(params["bound"].get("posterior", {}), rng_key, example)
        return Target(coordinates.logdensity_fn(example.logdensity_fn), example, coordinates)

    return build


def markov_chain(
    vae: VAE,
    transition: Transition,
    num_transitions: int = 1,
    *,
    posterior: Posterior | None = None,
    annealed: bool = False,
    name: str = "markov_chain",
) -> Bound:
    """The bound with T transitions of a Markov chain inside (Salimans, Kingma & Welling 2015, eq. 5-6).

    In the coordinates y of the posterior, z = c(x) + A(x) y, with p(x, y) = p(x, z) |det A| and y_0 ~ q,

        L = log p(x, y_0) - log q(y_0 | x) + Σ_t log α_t,   α_t = p(x, y_t) r_t / (p(x, y_{t-1}) q_t)
          = log p(x, y_T) - log q(y_0 | x) + Σ_t (log r_t - log q_t)

    Start, moves and reverse model all live in y. The log densities between y_0 and y_T telescope: the bound needs the
    last alone. Every transition has parameters of its own. T = 0 is the ELBO. Parameters: {"posterior": of the
    posterior, "chain": of the transitions, stacked along a leading [T]}, and "schedule" [T + 1] if annealed.

    Args:
        vae: the model.
        transition: see `hmcvae.transitions`.
        num_transitions: T ≥ 0.
        posterior: from `hmcvae.posteriors`; None is `mean_field()`, whose coordinates are z itself.
        annealed: transition t moves on (1 - β_t) log q(y | x) + β_t log p(x, y), with β learned
            (`inverse_temperatures`), as in annealed importance sampling (Neal 2001) and its differentiable kin (Geffner
            & Domke 2021); the bound is the same formula, since it holds for any moves. Each transition then costs one
            gradient more, unless it can go on from one temperature to the next (`transitions.underdamped`).
        name: of the bound, in reports.

    Raises:
        ValueError: if num_transitions is negative or not a whole number, or posterior is not one of
            `hmcvae.posteriors`.
    """
    num_transitions = check_count("num_transitions", num_transitions, 0)
    annealed = check_flag("annealed", annealed)
    posterior = mean_field() if posterior is None else posterior

    def init(rng_key: PRNGKey) -> PyTree:
        params = {"posterior": posterior.init(jax.random.fold_in(rng_key, BUILD)), "chain": {}}
        if num_transitions:
            params["chain"] = jax.vmap(transition.init)(jax.random.split(rng_key, num_transitions))
        return params | ({"schedule": jnp.zeros(num_transitions + 1)} if annealed else {})

    def draw(params: PyTree, rng_key: PRNGKey, target: Target, kl_weight: ArrayLike):
        start_key, chain_key = jax.random.split(rng_key)
        q = target.coordinates
        start = q.sample(start_key)
        end = _run(transition, num_transitions, params["bound"], chain_key, target, start)
        position = q.to_position(end.position)
        log_prior = target.example.log_prior(position)
        log_likelihood = end.logdensity - q.log_det - log_prior
        cost = q.log_prob(start) - q.log_det - log_prior - end.log_ratio
        log_weight = log_likelihood - jnp.asarray(kl_weight, start.dtype) * cost
        return log_weight, BoundInfo(
            log_weight, log_likelihood, q.to_position(start), position, end.energy_error, end.solver
        )

    return Bound(vae, init, make_build(vae, posterior), draw, name)


class _End(NamedTuple):
    """Where a chain ended: log_ratio is Σ_t (log r_t - log q_t)."""

    position: Vector
    logdensity: Scalar
    log_ratio: Scalar
    energy_error: Scalar
    solver: SolverInfo


def _run(
    transition: Transition,
    num_transitions: int,
    params: PyTree,
    rng_key: PRNGKey,
    target: Target,
    start: Vector,
) -> _End:
    """T transitions from `start`, annealed if the parameters have a schedule."""
    if num_transitions == 0:
        zero = jnp.zeros((), start.dtype)
        return _End(start, target.logdensity_fn(start), zero, zero, exact_info(start.dtype))
    keys = jax.random.split(rng_key, num_transitions)
    betas = None
    if "schedule" in params:
        betas = inverse_temperatures(params["schedule"]).astype(start.dtype)
    if betas is not None and transition.anneal is None:

        def move_annealed(position: Vector, inputs: tuple[PyTree, PRNGKey, Scalar]):
            own, key, beta = inputs
            tempered = target.tempered(beta)
            state = transition.begin(tempered.logdensity_fn, position)
            state, info = transition.step(own, key, tempered, state)
            return state.position, info

        position, infos = _scan(move_annealed, start, (params["chain"], keys, betas), num_transitions)
        logdensity = target.logdensity_fn(position)
    else:

        def move(state: Any, inputs: tuple):
            own, key, beta = inputs
            if beta is None:
                return transition.step(own, key, target, state)
            assert transition.anneal is not None
            return transition.anneal(own, key, target, beta, state)

        state = transition.begin(target.logdensity_fn, start)
        state, infos = _scan(move, state, (params["chain"], keys, betas), num_transitions)
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
