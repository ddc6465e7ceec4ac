"""Lower and upper estimates of log p(x) from annealed chains."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hmcvae._checks import check_count, check_key, check_plain
from hmcvae._programs import Programs
from hmcvae._random import normal
from hmcvae._sharding import check_mesh, map_examples
from hmcvae.annealing.chains import NUM_PILOT_CHAINS, Path, run_chain, sigmoid_schedule
from hmcvae.posteriors import Posterior, mean_field
from hmcvae.types import PRNGKey, PyTree, Vector
from hmcvae.vae import VAE, check_vae_params, num_examples

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


def _estimate_example(
    vae: VAE,
    posterior: Posterior,
    vae_params: PyTree,
    posterior_params: PyTree,
    rng_key: PRNGKey,
    x: PyTree,
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
        noise = normal(key, (count, q.mean.shape[0]), q.mean.dtype)
        return q.mean[None] + noise * jnp.exp(q.log_scale)[None]

    path = Path(q.log_prob, q.logdensity_fn(example.logdensity_fn))
    _, _, step_sizes = run_chain(
        pilot_key, path, draw(pilot_start_key, NUM_PILOT_CHAINS), betas, None, num_steps, False
    )
    if position is None:
        starts = draw(start_key, num_chains)
    else:
        y = q.to_coordinates(position)
        starts = jnp.broadcast_to(y, (num_chains, len(y)))
    is_reverse = position is not None
    log_weights, rate, _ = run_chain(run_key, path, starts, betas, step_sizes, num_steps, is_reverse)
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
    examples: PyTree,
    positions: Array | None,
    betas: Array,
    *,
    num_chains: int,
    num_steps: int,
    batch_size: int,
    mesh: Mesh | None = None,
) -> AISEstimate:
    def one(shared: tuple, inputs: tuple) -> AISEstimate:
        vae_params, posterior_params, betas = shared
        key, x, position = inputs
        return _estimate_example(
            vae, posterior, vae_params, posterior_params, key, x, position, betas, num_chains, num_steps
        )

    keys = jax.random.split(rng_key, num_examples(examples))
    shared = vae_params, posterior_params, betas
    return map_examples(one, shared, (keys, examples, positions), batch_size=batch_size, mesh=mesh)


_ESTIMATE = Programs(_estimate, ("num_chains", "num_steps", "batch_size", "mesh"))


def ais(
    vae: VAE,
    params: PyTree,
    rng_key: PRNGKey,
    examples: PyTree,
    *,
    num_temperatures: int = 500,
    num_chains: int = 16,
    num_steps: int = 5,
    posterior: Posterior | None = None,
    posterior_params: PyTree = None,
    batch_size: int = 20,
    mesh: Mesh | None = None,
) -> AISEstimate:
    """log p(x) from below, by annealed importance sampling (Neal 2001, eq. 5-11; Wu et al. 2017, section 3).

    Every temperature takes one HMC transition of L leapfrog steps, in the coordinates of a posterior; its step size,
    one for each temperature and example, comes from a pilot run of a few chains, so that the weights themselves stay
    unbiased: E[exp] = p(x). Costs T (L + 1) gradients of log p(x, ·) a chain. Memory grows with batch_size x chains.

    Args:
        vae: the model.
        params: params["vae"].
        examples: arrays [n, …], or a pytree of them, as the encoder takes them.
        num_temperatures: T.
        num_chains: K, side by side.
        num_steps: L.
        posterior: where the path starts: by default `mean_field(whitened=True)`, the encoder's q(z | x).
            `posteriors.standard_normal()` starts at the prior, as Wu et al. (2017) do, and wants many more
            temperatures.
        posterior_params: its parameters; by default those that it starts with.
        batch_size: examples at a time, on each device.
        mesh: of devices to split the examples over; the estimates are those of one device.

    Raises:
        ValueError: for no examples or such that have no likelihood, counts below 1, or what is no mesh.
    """
    options = _Options(num_temperatures, num_chains, num_steps, batch_size, mesh)
    return _checked(vae, params, rng_key, examples, None, posterior, posterior_params, options)


def reverse_ais(
    vae: VAE,
    params: PyTree,
    rng_key: PRNGKey,
    examples: PyTree,
    positions: Float[Array, "m d"],
    *,
    num_temperatures: int = 500,
    num_chains: int = 16,
    num_steps: int = 5,
    posterior: Posterior | None = None,
    posterior_params: PyTree = None,
    batch_size: int = 20,
    mesh: Mesh | None = None,
) -> AISEstimate:
    """log p(x) from above: `ais` run backwards from exact draws of p(z | x) (Grosse, Ghahramani & Adams 2015).

    Args:
        positions: z of each example, [n, d], with (x, z) a draw of the model: see `simulate`. For other data there is
            no exact draw, and what comes out is no bound.
        The rest: see `ais`.

    Raises:
        ValueError: see `ais`; or unless there is one position for each example.
    """
    options = _Options(num_temperatures, num_chains, num_steps, batch_size, mesh)
    return _checked(vae, params, rng_key, examples, positions, posterior, posterior_params, options)


class _Options(NamedTuple):
    """Of `ais`, unchecked."""

    num_temperatures: int
    num_chains: int
    num_steps: int
    batch_size: int
    mesh: Mesh | None


def _checked(
    vae: VAE,
    params: PyTree,
    rng_key: PRNGKey,
    examples: PyTree,
    positions: Array | None,
    posterior: Posterior | None,
    posterior_params: PyTree,
    options: _Options,
) -> AISEstimate:
    check_vae_params(params)
    rng_key = check_key(rng_key)
    check_plain("examples", examples)
    examples = jax.tree.map(jnp.asarray, examples)
    count = vae.check_examples(examples)
    if positions is not None and len(positions) != count:
        raise ValueError(f"expected one position for each of {count} examples, got {len(positions)}")
    betas = sigmoid_schedule(options.num_temperatures)
    num_chains = check_count("num_chains", options.num_chains, 1)
    num_steps = check_count("num_steps", options.num_steps, 1)
    batch_size = min(check_count("batch_size", options.batch_size, 1), count)
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
        mesh=check_mesh(options.mesh),
    )
