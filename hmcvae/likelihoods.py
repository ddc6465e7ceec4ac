"""Likelihoods p(x | z) as functions of the decoder's output, and the data that each of them is defined for.

A likelihood is four functions of `outputs`, the decoder's output at one z:

    log_prob(outputs, x)      log p(x | z) in nats, summed over all pixels: a scalar
    mean(outputs)             E[x | z], shaped like x
    sample(rng_key, outputs)  x ~ p(x | z)
    fisher_weights(outputs)   w(f): the diagonal of the Fisher information with respect to the outputs, one weight an
                              output, so that G(z) = Jᵀ diag(w) J + Λ with J = ∂f/∂z

and one of the data, `check(x)`, which raises ValueError for NumPy values x of any shape that have no likelihood:
outside their support the formulas go on and give numbers without a meaning (a Bernoulli likelihood of -1 has no bound).
`check_data` calls it wherever concrete data come in. Pixels x are real numbers in [0, 1].
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hmcvae._checks import check_count, check_positive, check_real, is_concrete
from hmcvae.types import ArrayLike, PyTree

Pixels = Float[Array, "..."]

# Data are checked so many numbers at a time: memory stays bounded for whole data sets.
CHUNK = 2**22
# Values may leave [0, 1] by as much, from rounding.
ROUNDING = 1e-6
# Grey values of a whole set that stay below this are taken for pixels that were divided by their range twice.
DARK = 1 / 16


def check_finite(x: np.ndarray) -> None:
    """Raise ValueError unless every entry of x is a finite real number."""
    _refuse(x, ~np.isfinite(x), "finite numbers")


def check_unit(x: np.ndarray) -> None:
    """Raise ValueError unless every entry of x is in [0, 1], up to rounding."""
    # Written so that NaN, which compares with nothing, is refused too.
    bad = ~((x >= -ROUNDING) & (x <= 1 + ROUNDING))
    _refuse(x, bad, "numbers in [0, 1] (pixels divided by their largest possible value)")


class Likelihood(NamedTuple):
    """See the module's docstring.

    num_outputs: how many numbers the decoder gives for each pixel.
    check: of the data; by default any finite numbers will do.
    """

    log_prob: Callable[[PyTree, Pixels], Float[Array, ""]]
    mean: Callable[[PyTree], Pixels]
    sample: Callable[[Any, PyTree], Pixels]
    fisher_weights: Callable[[PyTree], PyTree]
    num_outputs: int
    name: str
    check: Callable[[np.ndarray], None] = check_finite


def check_data(likelihood: Likelihood, x: Any, name: str = "x") -> None:
    """Check that concrete data have a likelihood; values that are being traced pass unseen.

    Args:
        likelihood: whose `check` is asked.
        x: one example, or a set of them [n, …]; arrays or trees of arrays.
        name: what the message calls it.

    Raises:
        ValueError: for what is no real number, or outside the support: what was expected, what came, and where.
    """
    if not is_concrete(x):
        return
    for leaf in jax.tree.leaves(x):
        array = np.asarray(leaf)
        is_real = array.dtype.kind in "buif" or jnp.issubdtype(array.dtype, jnp.floating)
        if not is_real:
            raise ValueError(f"{name} must be real numbers, got an array of dtype {array.dtype}")
        for part in _chunks(array):
            try:
                likelihood.check(part.astype(np.uint8) if part.dtype == bool else part)
            except ValueError as error:
                raise ValueError(f"{name} has no {likelihood.name} likelihood: {error}") from None


def check_examples(likelihood: Likelihood, examples: Any) -> None:
    """`check_data` of a set of examples [n, …]; and, where grey values are wanted, `check_range`."""
    check_data(likelihood, examples, "examples")
    if likelihood.check is check_unit:
        for leaf in jax.tree.leaves(examples):
            check_range(leaf, "examples")


def check_range(x: Any, name: str = "x") -> None:
    """Raise ValueError for a set [n, …] of at least two grey images, with none brighter than `DARK` but not all of it
    black: pixels that were divided by their range twice. For concrete values; others pass unseen."""
    if not is_concrete(x) or len(x) < 2:
        return
    array = np.asarray(x)
    highest = max((float(part.max()) for part in _chunks(array) if part.size), default=0.0)
    if array.dtype.kind == "f" and 0 < highest <= DARK:
        raise ValueError(
            f"expected {name} in [0, 1] to use that range, got no pixel above {highest:.3g}: were they divided by "
            "their largest possible value twice?"
        )


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of about `CHUNK` entries, along the first axis."""
    if array.ndim == 0 or array.size <= CHUNK:
        yield array
        return
    rows = max(1, CHUNK * len(array) // array.size)
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def _refuse(x: np.ndarray, bad: Any, expected: str) -> None:
    if not np.any(bad):
        return
    bad = np.asarray(bad)  # of one number NumPy's comparisons make no array
    first = tuple(int(i) for i in np.unravel_index(np.argmax(bad), np.shape(bad)))
    num_nan = int(np.sum(np.isnan(x)))
    finite = np.asarray(x, np.float64)[np.isfinite(x)]
    span = f"values from {finite.min():.6g} to {finite.max():.6g}" if finite.size else "no finite value"
    raise ValueError(
        f"expected {expected}, got {span}, {num_nan} NaN and {int(np.sum(np.isinf(x)))} infinite; {int(np.sum(bad))} "
        f"of {np.size(bad)} are refused, the first of them {np.asarray(x)[first]:.6g}"
    )


def bernoulli() -> Likelihood:
    """Independent bits with logits f: log p = Σ x f - log(1 + exp f).

    The expression is also defined for grey values x in [0, 1], where it is the cross-entropy and no density.
    Fisher weights: w = σ(f) σ(-f), exact.
    """

    def log_prob(logits: Pixels, x: Pixels) -> Float[Array, ""]:
        return jnp.sum(x * logits - jax.nn.softplus(logits))

    def sample(rng_key: Any, logits: Pixels) -> Pixels:
        uniform = jax.random.uniform(rng_key, logits.shape, logits.dtype)
        return (uniform < jax.nn.sigmoid(logits)).astype(logits.dtype)

    def fisher_weights(logits: Pixels) -> Pixels:
        return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)

    return Likelihood(log_prob, jax.nn.sigmoid, sample, fisher_weights, 1, "bernoulli", check_unit)


def gaussian(scale: ArrayLike | None = None, *, min_scale: float = 0.0) -> Likelihood:
    """Independent normals, x ~ N(m, s²), with a fixed scale s or, by default, a learned one.

    Fixed: outputs are the means m, and `scale` broadcasts against them; w = 1/s².
    Learned: outputs are the pair (m, l), each shaped like x, and s² = e^{2l} + min_scale²; w = (1/s², 2 (e^l/s)⁴),
    exact. At min_scale = 0, l is log s, and a pixel that is the same in all images (a border) has a likelihood
    without an upper bound: give a min_scale where there are such.

    Raises:
        ValueError: if `scale` is not finite and positive, or min_scale is negative, or given beside a fixed scale.
    """
    scale = check_positive("scale", scale, optional=True, is_array=True)
    try:
        min_scale = check_real("min_scale", min_scale, 0)
    except ValueError as error:
        raise ValueError(f"min_scale must be 0, or positive for a learned scale: {error}") from None
    if min_scale and scale is not None:
        raise ValueError(
            f"min_scale must be 0, or positive for a learned scale, got {min_scale!r} beside scale"
        )
    half_log_2pi = 0.5 * float(np.log(2 * np.pi))

    def split(outputs: PyTree) -> tuple[Pixels, Pixels]:
        if scale is None:
            if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
                raise ValueError(
                    "with a learned scale the decoder's outputs are the pair (mean, log scale), got "
                    f"{type(outputs).__name__}; for one array give gaussian(scale)"
                )
            mean, raw = outputs
            return mean, raw if min_scale == 0 else 0.5 * jnp.logaddexp(2 * raw, 2 * float(np.log(min_scale)))
        return outputs, jnp.broadcast_to(jnp.log(jnp.asarray(scale, outputs.dtype)), outputs.shape)

    def log_prob(outputs: PyTree, x: Pixels) -> Float[Array, ""]:
        mean, log_scale = split(outputs)
        residual = (x - mean) * jnp.exp(-log_scale)
        return -jnp.sum(0.5 * residual**2 + log_scale + half_log_2pi)

    def mean(outputs: PyTree) -> Pixels:
        return split(outputs)[0]

    def sample(rng_key: Any, outputs: PyTree) -> Pixels:
        mean, log_scale = split(outputs)
        return mean + jnp.exp(log_scale) * jax.random.normal(rng_key, mean.shape, mean.dtype)

    def fisher_weights(outputs: PyTree) -> PyTree:
        _, log_scale = split(outputs)
        precision = jnp.exp(-2 * log_scale)
        if scale is not None:
            return precision
        return precision, 2 * jnp.exp(4 * (outputs[1] - log_scale))

    return Likelihood(log_prob, mean, sample, fisher_weights, 2 if scale is None else 1, "gaussian")


def discretised_logistic(num_levels: int = 256) -> Likelihood:
    """8-bit colours: the mass of a logistic density in each of `num_levels` bins (Kingma et al. 2016).

    Pixels are k / (num_levels - 1). With h = ½ / (num_levels - 1), location m and scale s,

        P(x) = σ((x + h - m)/s) - σ((x - h - m)/s),

    and the first and the last bin reach to -∞ and +∞, so the probabilities of all levels sum to one.
    Outputs are the pair (m, log s), each shaped like x. In nats; bits per dimension = -log P / (log 2 · pixels).
    `mean` gives m clipped to [0, 1], the mean itself where s is small against the distance to the ends.
    Fisher weights are those of the continuous logistic, (1/(3 s²), (3 + π²)/9), the limit of bins narrow against s
    and an upper bound on the information that the binned pixel keeps.

    Raises:
        ValueError: unless num_levels is a whole number of at least 2.
    """
    num_levels = check_count("num_levels", num_levels, 2)
    half_bin = 0.5 / (num_levels - 1)
    # At h/s = e⁴ a bin holds all of a density that is centred in it; the floor keeps 1/s finite.
    lowest = float(np.log(half_bin)) - 4.0

    def log_prob(outputs: PyTree, x: Pixels) -> Float[Array, ""]:
        mean, log_scale = outputs
        inverse_scale = jnp.exp(-jnp.maximum(log_scale, lowest))
        upper = (x + half_bin - mean) * inverse_scale
        lower = (x - half_bin - mean) * inverse_scale
        # log[σ(u) - σ(l)] = log σ(u) + log σ(-l) + log[1 - exp(-(u - l))]: no cancellation in either tail.
        inside = -jax.nn.softplus(-upper) - jax.nn.softplus(lower)
        inside = inside + jnp.log(-jnp.expm1(-2 * half_bin * inverse_scale))
        first, last = x <= half_bin, x >= 1 - half_bin
        log_mass = jnp.where(
            first, -jax.nn.softplus(-upper), jnp.where(last, -jax.nn.softplus(lower), inside)
        )
        return jnp.sum(log_mass)

    def mean(outputs: PyTree) -> Pixels:
        return jnp.clip(outputs[0], 0.0, 1.0)

    def sample(rng_key: Any, outputs: PyTree) -> Pixels:
        location, log_scale = outputs
        noise = jax.random.logistic(rng_key, location.shape, location.dtype)
        x = location + jnp.exp(jnp.maximum(log_scale, lowest)) * noise
        return jnp.clip(jnp.round(x * (num_levels - 1)), 0, num_levels - 1) / (num_levels - 1)

    def fisher_weights(outputs: PyTree) -> PyTree:
        log_scale = jnp.maximum(outputs[1], lowest)
        # Below the floor the likelihood does not depend on the scale.
        of_scale = jnp.where(outputs[1] > lowest, (3 + np.pi**2) / 9, 0.0).astype(log_scale.dtype)
        return jnp.exp(-2 * log_scale) / 3, of_scale

    def check(x: np.ndarray) -> None:
        check_unit(x)
        # Rounding of x itself, times the levels; in half precision levels this close cannot be told apart.
        precision = float(jnp.finfo(x.dtype).eps) if jnp.issubdtype(x.dtype, jnp.floating) else 0.0
        levels = x.astype(np.promote_types(x.dtype, np.float32)) * (num_levels - 1)
        bad = np.abs(levels - np.rint(levels)) > 1e-3 + 2 * (num_levels - 1) * precision
        _refuse(x, bad, f"multiples of 1/{num_levels - 1} in [0, 1], the {num_levels} levels of a pixel")

    return Likelihood(log_prob, mean, sample, fisher_weights, 2, "discretised_logistic", check)
