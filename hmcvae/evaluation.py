"""What a trained model is worth: its bound, log p(x), the gap between them, and the latent units in use.

All in nats. Memory is bounded by (examples in a batch) × (draws in a chunk), whatever the number of draws.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from hmcvae._checks import check_count, check_key, check_real
from hmcvae._programs import Programs
from hmcvae._sharding import check_mesh, map_examples
from hmcvae.bounds import Bound
from hmcvae.types import ArrayLike, PRNGKey, PyTree
from hmcvae.vae import VAE, num_examples

# An importance-weighted log p(x) from fewer effective draws than these is too low by an unknown amount, and two of them
# cannot be compared: the better proposal wins, not the better model.
MIN_EFFECTIVE_SAMPLE_SIZE = 100.0


class Estimate(NamedTuple):
    """Per example, from the same K draws of the log weight:

    bound: their mean, the plain bound; NaN if none of them is finite.
    log_likelihood: log (1/K) Σ exp, the importance-weighted estimate of log p(x) (a lower bound in expectation).
    weight_sd: standard deviation of the log weights, in nats.
    effective_sample_size: (Σ w)² / Σ w², between 1 and K; 0 if none is finite. See `low_ess`.
    unconverged: share of the draws with an implicit solve that did not converge (0 without implicit solves).
    nonfinite: share of the draws whose log weight was NaN or infinite; they count as weight 0.
    """

    bound: Float[Array, "..."]
    log_likelihood: Float[Array, "..."]
    weight_sd: Float[Array, "..."]
    effective_sample_size: Float[Array, "..."]
    unconverged: Float[Array, "..."]
    nonfinite: Float[Array, "..."]


class MeanAndError(NamedTuple):
    """A mean over the test examples and its standard error."""

    mean: float
    error: float


class Summary(NamedTuple):
    """An `Estimate` over a test set; `gap` is log_likelihood - bound; `low_ess` is the share of the examples with fewer
    than `MIN_EFFECTIVE_SAMPLE_SIZE` effective draws; the rest are means."""

    bound: MeanAndError
    log_likelihood: MeanAndError
    gap: MeanAndError
    weight_sd: float
    effective_sample_size: float
    unconverged: float
    nonfinite: float
    num_examples: int
    low_ess: float


class _Running(NamedTuple):
    """Sums that a stream of log weights leaves behind; exponentials are kept relative to `peak`."""

    peak: Array
    total: Array
    total_square: Array
    count: Array
    mean: Array
    sum_square: Array
    unconverged: Array


def estimate_example(
    bound: Bound, params: PyTree, rng_key: PRNGKey, x: PyTree, num_samples: int, chunk_size: int
) -> Estimate:
    """`Estimate` for one example: K draws in chunks, merged exactly as if made at once. Pure; vmap it."""
    num_chunks = -(-num_samples // chunk_size)
    # Counts and sums stagnate in less than 32 bits.
    weight = jax.eval_shape(lambda key: bound(params, key, x)[0], rng_key)
    dtype = jnp.promote_types(weight.dtype, jnp.float32)
    zero = jnp.zeros((), dtype)
    start = _Running(jnp.full((), -jnp.inf, dtype), zero, zero, zero, zero, zero, zero)

    def add_chunk(running: _Running, inputs: tuple[PRNGKey, Array]):
        key, first = inputs
        # The last chunk may reach past the K draws asked for; its surplus is masked out.
        wanted = first + jnp.arange(chunk_size) < num_samples
        keys = jax.random.split(key, chunk_size)
        log_weights, info = jax.vmap(lambda k: bound(params, k, x))(keys)
        unconverged = (~info.solver.converged).astype(dtype).reshape(chunk_size, -1).mean(axis=1)
        return _merge(running, log_weights.astype(dtype), unconverged, wanted), None

    firsts = chunk_size * jnp.arange(num_chunks)
    running, _ = lax.scan(add_chunk, start, (jax.random.split(rng_key, num_chunks), firsts))
    log_likelihood = running.peak + jnp.log(running.total) - jnp.log(jnp.asarray(num_samples, dtype))
    # Draws of weight 0 have no logarithm. With a share f of them, log p(x) ≥ log(1 - f) + E[L | L finite] (Jensen).
    log_share = jnp.log(running.count / num_samples)
    return Estimate(
        jnp.where(running.count > 0, running.mean + log_share, jnp.nan),
        log_likelihood,
        jnp.sqrt(running.sum_square / jnp.maximum(running.count - 1, 1)),
        jnp.where(running.count > 0, running.total**2 / running.total_square, 0.0),
        running.unconverged / num_samples,
        (num_samples - running.count) / num_samples,
    )


def _merge(
    running: _Running,
    log_weights: Float[Array, " k"],
    unconverged: Float[Array, " k"],
    wanted: Bool[Array, " k"],
) -> _Running:
    """Fold the wanted draws of a chunk into the running sums (Chan, Golub & LeVeque 1983 for the variance)."""
    finite = jnp.isfinite(log_weights) & wanted
    peak = jnp.maximum(running.peak, jnp.max(jnp.where(finite, log_weights, -jnp.inf)))
    safe = jnp.where(jnp.isfinite(peak), peak, 0.0)
    weights = jnp.where(finite, jnp.exp(log_weights - safe), 0.0)
    rescale = jnp.where(jnp.isfinite(running.peak), jnp.exp(running.peak - safe), 0.0)
    count = jnp.sum(finite).astype(log_weights.dtype)
    mean = jnp.sum(jnp.where(finite, log_weights, 0.0)) / jnp.maximum(count, 1)
    spread = jnp.sum(jnp.where(finite, (log_weights - mean) ** 2, 0.0))
    total_count = running.count + count
    delta = mean - running.mean
    share = count / jnp.maximum(total_count, 1)
    return _Running(
        peak,
        running.total * rescale + jnp.sum(weights),
        running.total_square * rescale**2 + jnp.sum(weights**2),
        total_count,
        running.mean + delta * share,
        running.sum_square + spread + delta**2 * running.count * share,
        running.unconverged + jnp.sum(jnp.where(wanted, unconverged, 0.0)),
    )


def estimate(
    bound: Bound,
    params: PyTree,
    rng_key: PRNGKey,
    examples: PyTree,
    *,
    num_samples: int,
    chunk_size: int = 50,
    batch_size: int = 100,
    mesh: Mesh | None = None,
) -> Estimate:
    """`Estimate` for every example, [n]: the bound, and log p(x) by importance weighting with K draws.

    With `bounds.elbo` this is the IWAE estimate of Burda et al. (2016) that the literature quotes; with `bounds.hvi`
    the proposal is the end of the Markov chain. Runs on the device in one call, `batch_size` examples and about
    `chunk_size` draws at a time; every chunk has a key of its own, so another chunk_size gives other draws. On a mesh
    of devices the examples are split over them, and the estimates are those of one device.

    Raises:
        ValueError: for no examples or such that have no likelihood, counts below 1, a bound whose exp is no estimate
            of p(x), or what is no mesh.
    """
    num_samples = check_count("num_samples", num_samples, 1)
    if not bound.is_unbiased:
        raise ValueError(f"{bound.name} cannot be importance weighted: exp of it is no estimate of p(x)")
    count = bound.vae.check_examples(examples)
    chunk_size = min(check_count("chunk_size", chunk_size, 1), num_samples)
    batch_size = min(check_count("batch_size", batch_size, 1), count)
    rng_key, program = check_key(rng_key), _ESTIMATE.of(bound)
    sizes = {"num_samples": num_samples, "chunk_size": chunk_size, "batch_size": batch_size}
    return program(params, rng_key, examples, mesh=check_mesh(mesh), **sizes)


def _estimate(
    bound: Bound,
    params: PyTree,
    rng_key: PRNGKey,
    examples: PyTree,
    *,
    num_samples: int,
    chunk_size: int,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Estimate:
    keys = jax.random.split(rng_key, num_examples(examples))

    def one(params, inputs):
        key, x = inputs
        return estimate_example(bound, params, key, x, num_samples, chunk_size)

    return map_examples(one, params, (keys, examples), batch_size=batch_size, mesh=mesh)


def _posterior_means(vae: VAE, params: PyTree, examples: PyTree) -> Float[Array, "n d"]:
    return jax.vmap(lambda x: vae.encoded(params, x).mean)(examples)


_ESTIMATE = Programs(_estimate, ("num_samples", "chunk_size", "batch_size", "mesh"))
_POSTERIOR_MEANS = Programs(_posterior_means)


def summarise(result: Estimate) -> Summary:
    """Means over the examples with standard errors (sd / √n; nan for one example)."""

    def mean(values: Array) -> float:
        return float(np.mean(np.asarray(values, np.float64)))

    def with_error(values: Array) -> MeanAndError:
        values64 = np.asarray(values, np.float64)
        error = np.std(values64, ddof=1) / np.sqrt(len(values64)) if len(values64) > 1 else np.nan
        return MeanAndError(mean(values), float(error))

    return Summary(
        with_error(result.bound),
        with_error(result.log_likelihood),
        with_error(result.log_likelihood - result.bound),
        mean(result.weight_sd),
        mean(result.effective_sample_size),
        mean(result.unconverged),
        mean(result.nonfinite),
        len(result.bound),
        low_ess(result.effective_sample_size),
    )


def low_ess(effective_sample_size: ArrayLike, minimum: float = MIN_EFFECTIVE_SAMPLE_SIZE) -> float:
    """The share of the examples with fewer than `minimum` effective draws; NaN counts as fewer.

    Where it is not near 0, log p(x) by importance weighting says more about the proposal than about the model: draw
    more, or estimate it by annealing (`hmcvae.annealing`, whose weights have an effective size of their own).

    Raises:
        ValueError: unless minimum is a finite number of at least 0.
    """
    minimum = check_real("minimum", minimum, 0.0)
    return float(np.mean(~(np.asarray(effective_sample_size, np.float64) >= minimum)))


def ess_warning(result: Summary) -> str:
    """One sentence for a report whose log p(x) rests on too few effective draws; empty if none does."""
    if result.low_ess == 0:
        return ""
    return (
        f"log p(x) is not to be relied on: {result.low_ess:.0%} of the {result.num_examples} examples have fewer than "
        f"{MIN_EFFECTIVE_SAMPLE_SIZE:.0f} effective draws (mean {result.effective_sample_size:.1f})"
    )


def active_units(
    vae: VAE, params: PyTree, examples: PyTree, threshold: float = 0.01
) -> tuple[int, Float[Array, " d"]]:
    """How many latent units carry information: Var_x(E_q[z | x]) > threshold (Burda et al. 2016, section 5.2).

    Args:
        params: params["vae"].

    Returns:
        (number of active units, the variances [d]).

    Raises:
        ValueError: for fewer than two examples.
    """
    if num_examples(examples) < 2:
        raise ValueError(f"the variance over examples needs at least 2 of them, got {num_examples(examples)}")
    threshold = check_real("threshold", threshold, 0.0)
    means = _POSTERIOR_MEANS.of(vae)(params, examples)
    variances = jnp.var(means, axis=0)
    return int(jnp.sum(variances > threshold)), variances
