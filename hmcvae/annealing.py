"""log p(x) between two bounds: annealed importance sampling with HMC transitions, and its reverse from an exact draw.

Annealed importance sampling (Neal 2001) from N(0, s²) in the coordinates y of a Gaussian
(`hmcvae.posteriors`) to the posterior,

    log p_β(y) = (1 - β) log N(y; 0, s²) + β [log p(x, c + A y) + log |det A|],   0 = β_0 < β_1 < … < β_T = 1,
    log w = Σ_t (β_t - β_{t-1}) [log p(x, y_{t-1}) - log N(y_{t-1}; 0, s²)],   E[w] = p(x),

with y_t from y_{t-1} by transitions that leave p_{β_t} invariant, so that log (1/K) Σ w_k is in the mean below
log p(x). Run backwards from an exact draw of the posterior the same sum is an unbiased estimate of 1 / p(x), so that
-log (1/K) Σ 1/w'_k is in the mean above it (Grosse, Ghahramani & Adams 2015; Wu et al. 2017 for decoders). Exact draws
are had for data that the model itself has made.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmcvae import integrators, metrics
from hmcvae._checks import check_count, check_real
from hmcvae._programs import Programs
from hmcvae.likelihoods import check_examples
from hmcvae.posteriors import Posterior, mean_field
from hmcvae.types import LogDensityFn, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import VAE, check_vae_params

# Of the step size: the acceptance aimed at (Beskos et al. 2013 for HMC), and how fast it is approached.
TARGET_ACCEPTANCE, ADAPTATION_RATE, FIRST_STEP_SIZE = 0.65, 0.3, 0.3
NUM_PILOT_CHAINS = 4
# One object, so that its programs are found again.
_MEAN_FIELD = mean_field(whitened=True)


class AISEstimate(NamedTuple):
    """Per example.

    log_likelihood: log (1/K) Σ w, a lower bound of log p(x) in the mean; or the upper one of `reverse_ais`.
    log_weight_sd: standard deviation of log w over the chains, in nats: far above 1, the estimate is a loose bound.
    effective_sample_size: (Σ w)² / Σ w² of the chains' weights (of 1 / w backwards), between 1 and K, 0 if none is
        finite. Near 1 one chain carries the answer, which may be off by any amount: to be told with every figure.
    acceptance_rate: mean over temperatures and chains.
    nonfinite: share of the chains whose weight was NaN or infinite; they count as weight 0, or backwards, where
        that would be no bound, not at all.
    """

    log_likelihood: Float[Array, "..."]
    log_weight_sd: Float[Array, "..."]
    effective_sample_size: Float[Array, "..."]
    acceptance_rate: Float[Array, "..."]
    nonfinite: Float[Array, "..."]


class _Path(NamedTuple):
    """The two ends, as functions of y."""

    start_fn: LogDensityFn
    target_fn: LogDensityFn

    def logdensity_fn(self, beta: Scalar) -> LogDensityFn:
        return lambda y: (1 - beta) * self.start_fn(y) + beta * self.target_fn(y)


class _Chain(NamedTuple):
    """start, target: the log densities of the path's ends at y."""

    position: Vector
    start: Scalar
    target: Scalar
    log_weight: Scalar


def sigmoid_schedule(num_temperatures: int, steepness: float = 4.0) -> Float[Array, " n"]:
    """0 = β_0 < … < β_T = 1, closer together at both ends (Grosse et al. 2015; Wu et al. 2017, section 4).

    Raises:
        ValueError: unless num_temperatures is a whole number of at least 1 and steepness a positive number.
    """
    num_temperatures = check_count("num_temperatures", num_temperatures, 1)
    steepness = check_real("steepness", steepness, 0.0, is_open=True)
    values = jax.nn.sigmoid(steepness * jnp.linspace(-1.0, 1.0, num_temperatures + 1))
    return (values - values[0]) / (values[-1] - values[0])


def _hmc(rng_key: PRNGKey, path: _Path, beta: Scalar, chain: _Chain, epsilon: Scalar, num_steps: int):
    """(chain, acceptance probability): one HMC transition on p_β, which it leaves invariant for any ε."""
    momentum_key, accept_key = jax.random.split(rng_key)
    position = chain.position
    momentum = jax.random.normal(momentum_key, position.shape, position.dtype)
    logdensity_fn = path.logdensity_fn(beta)
    first, gradient = jax.value_and_grad(logdensity_fn)(position)
    state = integrators.IntegratorState(position, momentum, first, gradient)
    leapfrog = integrators.leapfrog(logdensity_fn, metrics.identity())
    end, _ = integrators.integrate(leapfrog, state, epsilon, num_steps)
    change = end.logdensity - first - 0.5 * (jnp.sum(end.momentum**2) - jnp.sum(momentum**2))
    acceptance = jnp.where(jnp.isfinite(change), jnp.exp(jnp.minimum(change, 0.0)), 0.0)
    is_accepted = jax.random.uniform(accept_key, dtype=acceptance.dtype) < acceptance
    moved = _Chain(end.position, path.start_fn(end.position), path.target_fn(end.position), chain.log_weight)
    return jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), moved, chain), acceptance


def _begin(path: _Path, position: Vector) -> _Chain:
    zero = jnp.zeros((), position.dtype)
    return _Chain(position, path.start_fn(position), path.target_fn(position), zero)


def _run(
    rng_key: PRNGKey,
    path: _Path,
    positions: Float[Array, "k d"],
    betas: Float[Array, " n"],
    step_sizes: Float[Array, " T"] | None,
    num_steps: int,
    is_reverse: bool,
) -> tuple[Float[Array, " k"], Scalar, Float[Array, " T"]]:
    """(log weights, mean acceptance, step sizes) of K chains along β_0 < … < β_T, or backwards.

    With step_sizes None they are adapted on the way, to the mean acceptance of the chains: for a pilot run, since the
    transitions then depend on the chains' past. Given, one for each transition, they keep the weights unbiased.
    """
    num_chains, num_transitions = len(positions), len(betas) - 1
    dtype = positions.dtype
    is_pilot = step_sizes is None
    fixed = jnp.ones(num_transitions, dtype) if step_sizes is None else step_sizes

    def add_weight(chain: _Chain, gap: Scalar) -> _Chain:
        return chain._replace(log_weight=chain.log_weight + gap * (chain.target - chain.start))

    def move(carry: tuple[_Chain, Scalar], inputs: tuple):
        chains, log_step = carry
        key, beta, gap, given = inputs
        epsilon = jnp.exp(log_step) if is_pilot else given

        def one(key: PRNGKey, chain: _Chain):
            # y_{t-1} is where the weight is taken, on either way: before a move to it, or after one from it.
            if not is_reverse:
                chain = add_weight(chain, gap)
            chain, acceptance = _hmc(key, path, beta, chain, epsilon, num_steps)
            return (add_weight(chain, gap) if is_reverse else chain), acceptance

        chains, acceptance = jax.vmap(one)(jax.random.split(key, num_chains), chains)
        rate = jnp.mean(acceptance)
        log_step = log_step + ADAPTATION_RATE * (rate - TARGET_ACCEPTANCE)
        return (chains, log_step.astype(dtype)), (rate, epsilon)

    keys = jax.random.split(rng_key, num_transitions)
    chains = jax.vmap(lambda y: _begin(path, y))(positions)
    first = jnp.asarray(jnp.log(FIRST_STEP_SIZE), dtype)
    inputs = (keys, betas[1:], jnp.diff(betas), fixed)
    (chains, _), (rates, used) = lax.scan(move, (chains, first), inputs, reverse=is_reverse)
    return chains.log_weight, jnp.mean(rates), used


def _estimate_example(
    vae: VAE,
    posterior: Posterior,
    vae_params: PyTree,
    posterior_params: PyTree,
    rng_key: PRNGKey,
    x: Array,
    position: Vector | None,
    betas: Array,
    num_chains: int,
    num_steps: int,
) -> AISEstimate:
    """`AISEstimate` of one example; backwards from `position` if one is given."""
    posterior_key, pilot_start_key, pilot_key, start_key, run_key = jax.random.split(rng_key, 5)
    example = vae.encoded(vae_params, x)
    q = posterior.build(posterior_params, posterior_key, example)
    betas = betas.astype(q.mean.dtype)

    def draw(key: PRNGKey, count: int) -> Float[Array, "k d"]:
        noise = jax.random.normal(key, (count, q.mean.shape[0]), q.mean.dtype)
        return q.mean[None] + noise * jnp.exp(q.log_scale)[None]

    path = _Path(q.log_prob, q.logdensity_fn(example.logdensity_fn))
    _, _, step_sizes = _run(
        pilot_key, path, draw(pilot_start_key, NUM_PILOT_CHAINS), betas, None, num_steps, False
    )
    if position is None:
        starts = draw(start_key, num_chains)
    else:
        y = q.to_coordinates(position)
        starts = jnp.broadcast_to(y, (num_chains, len(y)))
    is_reverse = position is not None
    log_weights, rate, _ = _run(run_key, path, starts, betas, step_sizes, num_steps, is_reverse)
    # Backwards it is 1 / w that is averaged. A chain that failed has weight 0 forwards, and nothing to say backwards.
    sign = -1.0 if is_reverse else 1.0
    finite = jnp.isfinite(log_weights)
    signed = jnp.where(finite, sign * log_weights, -jnp.inf)
    count = jnp.sum(finite) if is_reverse else num_chains
    total = jax.nn.logsumexp(signed)
    # A failed chain is no part of it; without any other there is nothing to take the size of.
    ess = jnp.where(finite.any(), jnp.exp(2 * total - jax.nn.logsumexp(2 * signed)), 0.0)
    deviation = jnp.std(log_weights, where=finite, ddof=1) if num_chains > 1 else jnp.nan * total
    nonfinite = 1 - jnp.mean(finite.astype(total.dtype))
    return AISEstimate(sign * (total - jnp.log(count)), deviation, ess, rate, nonfinite)


def _estimate(
    vae: VAE,
    posterior: Posterior,
    vae_params: PyTree,
    posterior_params: PyTree,
    rng_key: PRNGKey,
    examples: Array,
    positions: Array | None,
    betas: Array,
    *,
    num_chains: int,
    num_steps: int,
    batch_size: int,
) -> AISEstimate:
    def one(inputs: tuple) -> AISEstimate:
        key, x, position = inputs
        return _estimate_example(
            vae, posterior, vae_params, posterior_params, key, x, position, betas, num_chains, num_steps
        )

    keys = jax.random.split(rng_key, len(examples))
    return lax.map(one, (keys, examples, positions), batch_size=batch_size)


_ESTIMATE = Programs(_estimate, ("num_chains", "num_steps", "batch_size"))


def ais(
    vae: VAE,
    params: PyTree,
    rng_key: PRNGKey,
    examples: Float[Array, "n ..."],
    *,
    num_temperatures: int = 500,
    num_chains: int = 16,
    num_steps: int = 5,
    posterior: Posterior | None = None,
    posterior_params: PyTree = None,
    batch_size: int = 20,
) -> AISEstimate:
    """log p(x) from below, by annealed importance sampling (Neal 2001, eq. 5-11; Wu et al. 2017, section 3).

    Every temperature takes one HMC transition of L leapfrog steps, in the coordinates of a posterior; its step size,
    one for each temperature and example, comes from a pilot run of a few chains, so that the weights themselves stay
    unbiased: E[exp] = p(x). Costs T (L + 1) gradients of log p(x, ·) a chain. Memory grows with batch_size x chains.

    Args:
        vae: the model.
        params: params["vae"].
        examples: [n, …], as the encoder takes them.
        num_temperatures: T.
        num_chains: K, side by side.
        num_steps: L.
        posterior: where the path starts: by default `mean_field(whitened=True)`, the encoder's q(z | x).
            `posteriors.standard_normal()` starts at the prior, as Wu et al. (2017) do, and wants many more
            temperatures.
        posterior_params: its parameters; by default those that it starts with.
        batch_size: examples at a time.

    Raises:
        ValueError: for no examples or such that have no likelihood, or counts below 1.
    """
    return _checked(
        vae,
        params,
        rng_key,
        examples,
        None,
        num_temperatures,
        num_chains,
        num_steps,
        posterior,
        posterior_params,
        batch_size,
    )


def reverse_ais(
    vae: VAE,
    params: PyTree,
    rng_key: PRNGKey,
    examples: Float[Array, "n ..."],
    positions: Float[Array, "m d"],
    *,
    num_temperatures: int = 500,
    num_chains: int = 16,
    num_steps: int = 5,
    posterior: Posterior | None = None,
    posterior_params: PyTree = None,
    batch_size: int = 20,
) -> AISEstimate:
    """log p(x) from above: `ais` run backwards from exact draws of p(z | x) (Grosse, Ghahramani & Adams 2015).

    Args:
        positions: z of each example, [n, d], with (x, z) a draw of the model: see `simulate`. For other data there is
            no exact draw, and what comes out is no bound.
        The rest: see `ais`.

    Raises:
        ValueError: see `ais`; or unless there is one position for each example.
    """
    if len(positions) != len(examples):
        raise ValueError(f"expected one position for each of {len(examples)} examples, got {len(positions)}")
    return _checked(
        vae,
        params,
        rng_key,
        examples,
        positions,
        num_temperatures,
        num_chains,
        num_steps,
        posterior,
        posterior_params,
        batch_size,
    )


def _checked(
    vae,
    params,
    rng_key,
    examples,
    positions,
    num_temperatures,
    num_chains,
    num_steps,
    posterior,
    posterior_params,
    batch_size,
) -> AISEstimate:
    check_vae_params(params)
    examples = jnp.asarray(examples)
    if len(examples) == 0:
        raise ValueError("there must be at least one example to evaluate on, got 0")
    check_examples(vae.likelihood, examples)
    betas = sigmoid_schedule(num_temperatures)
    num_chains = check_count("num_chains", num_chains, 1)
    num_steps = check_count("num_steps", num_steps, 1)
    batch_size = min(check_count("batch_size", batch_size, 1), len(examples))
    posterior = _MEAN_FIELD if posterior is None else posterior
    if posterior_params is None:
        posterior_params = posterior.init(jax.random.key(0))
    program = _ESTIMATE.of(vae, posterior)
    return program(
        params,
        posterior_params,
        rng_key,
        examples,
        positions,
        betas,
        num_chains=num_chains,
        num_steps=num_steps,
        batch_size=batch_size,
    )


def simulate(
    vae: VAE, params: PyTree, rng_key: PRNGKey, num_examples: int, latent_dim: int | None = None
) -> tuple[Float[Array, "n d"], Float[Array, "n ..."]]:
    """(z, x) drawn from the model itself: z ~ N(0, I), x ~ p(x | z). So z is an exact draw of p(z | x).

    Args:
        params: params["vae"].
        latent_dim: d, by default the VAE's.

    Raises:
        ValueError: unless num_examples ≥ 1 and d is known.
    """
    num_examples = check_count("num_examples", num_examples, 1)
    d = vae.latent_dim if latent_dim is None else check_count("latent_dim", latent_dim, 1)
    if d is None:
        raise ValueError("latent_dim must be given for a VAE that does not say it, got None")
    position_key, example_key = jax.random.split(rng_key)
    positions = jax.random.normal(position_key, (num_examples, d))

    def draw(key: PRNGKey, z: Vector) -> Array:
        return vae.likelihood.sample(key, vae.decode(params, z))

    return positions, jax.vmap(draw)(jax.random.split(example_key, num_examples), positions)
