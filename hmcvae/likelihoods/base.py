"""What a likelihood is, and the checks of the data that it is defined for."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hmcvae._checks import check_plain, is_concrete
from hmcvae.types import PyTree

Pixels = Float[Array, "..."]

# Data are checked so many numbers at a time: memory stays bounded for whole data sets.
CHUNK = 2**22
# Values may leave [0, 1] by as much, from rounding.
ROUNDING = 1e-6
# Grey values of a whole set that stay below this are taken for pixels that were divided by their range twice.
DARK = 1 / 16


def check_finite(x: np.ndarray) -> None:
    """Raise ValueError unless every entry of x is a finite real number."""
    refuse(x, ~np.isfinite(x), "finite numbers")


def check_unit(x: np.ndarray) -> None:
    """Raise ValueError unless every entry of x is in [0, 1], up to rounding."""
    # Written so that NaN, which compares with nothing, is refused too.
    bad = ~((x >= -ROUNDING) & (x <= 1 + ROUNDING))
    refuse(x, bad, "numbers in [0, 1] (pixels divided by their largest possible value)")


def check_whole(x: np.ndarray, num_classes: int | None = None) -> None:
    """Raise ValueError unless every entry of x is a whole number 0, 1, 2, …, below num_classes where it is given."""
    values = np.asarray(x, np.float64)
    bad = ~((values >= 0) & (values == np.rint(values)) & np.isfinite(values))
    if num_classes is None:
        refuse(x, bad, "counts: whole numbers of at least 0")
    else:
        refuse(x, bad | (values >= num_classes), f"classes: whole numbers from 0 to {num_classes - 1}")


def check_shape_of_x(outputs: PyTree, x: Any) -> None:
    """Raise ValueError unless all outputs are shaped like x; of an x of several arrays the likelihood alone knows what
    belongs together."""
    if not isinstance(x, (tuple, list, Mapping)):
        _check_shapes(outputs, jnp.shape(x), f"x's shape {jnp.shape(x)}")


def check_shape_with_last(num: int) -> Callable[[PyTree, Any], None]:
    """As `check_shape_of_x`, of outputs that have a further axis of `num`."""

    def check(outputs: PyTree, x: Any) -> None:
        shape = (*jnp.shape(x), num)
        _check_shapes(outputs, shape, f"x's shape and a last axis of {num}, {shape}")

    return check


def _check_shapes(outputs: PyTree, shape: tuple[int, ...], words: str) -> None:
    # A likelihood would broadcast the one against the other, and sum far too many terms.
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(outputs)}
    if shapes != {shape}:
        raise ValueError(f"decode must return outputs of {words}, got {sorted(shapes)}")


def unpack_each(raw: Float[Array, "... k"]) -> Any:
    """The outputs from a net's numbers: one array, or a tuple of k of them."""
    parts = tuple(raw[..., index] for index in range(raw.shape[-1]))
    return parts[0] if len(parts) == 1 else parts


def keep_outputs(outputs: PyTree) -> PyTree:
    """The outputs of a likelihood whose Fisher information is diagonal in them."""
    return outputs


class Likelihood(NamedTuple):
    """p(x | z) as functions of `outputs`, the decoder's output at one z.

    log_prob: `(outputs, x) -> log p(x | z)` in nats, summed over all entries: a scalar.
    mean: `outputs -> E[x | z]`, shaped like x (of classes: their probabilities).
    sample: `(rng_key, outputs) -> x ~ p(x | z)`.
    fisher_weights: `outputs -> w`, shaped like the outputs: the diagonal of the Fisher information about them, so that
        G(z) = Jᵀ diag(w) J + Λ with J = ∂ outputs / ∂z.
    num_outputs: how many numbers the decoder gives for each entry of x; the networks of this library ask.
    name: in messages.
    check: of the data: raises ValueError for NumPy values of any shape outside the support. Any finite numbers pass by
        default. Outside their support the formulas go on and give numbers without a meaning (a Bernoulli likelihood of
        -1 has no bound), so `check_data` calls it wherever concrete data come in.
    check_outputs: `(outputs, x)`: raises ValueError for outputs of another shape than x wants.
    terms: `(outputs, x) -> array shaped like x` with the sum log_prob; `masked` needs it. None: the entries of x are
        not independent.
    unpack: `raw [..., num_outputs] -> outputs`, where an untrained net of this library should begin.
    diagonalise: `outputs -> outputs` of the same distribution in which the Fisher information is diagonal (log
        probabilities of classes); what G is built on.
    observed: `x -> (values, mask)`, of examples that say which entries are observed; None: all are.
    """

    log_prob: Callable[[PyTree, Any], Float[Array, ""]]
    mean: Callable[[PyTree], Any]
    sample: Callable[[Any, PyTree], Any]
    fisher_weights: Callable[[PyTree], PyTree]
    num_outputs: int = 1
    name: str = "own"
    check: Callable[[np.ndarray], None] = check_finite
    check_outputs: Callable[[PyTree, Any], None] = check_shape_of_x
    terms: Callable[[PyTree, Any], Array] | None = None
    unpack: Callable[[Array], PyTree] = unpack_each
    diagonalise: Callable[[PyTree], PyTree] = keep_outputs
    observed: Callable[[Any], tuple[Any, Any]] | None = None

    def weights_at(self, outputs: PyTree, x: Any) -> PyTree:
        """The Fisher weights of what is observed of x: those of missing entries are 0."""
        if self.observed is None:
            return self.fisher_weights(outputs)
        is_observed = jnp.asarray(self.observed(x)[1]) == 1
        weights = self.fisher_weights(
            jax.tree.map(lambda output: where_observed(is_observed, output), outputs)
        )

        def observe(weight: Array) -> Array:
            if (
                weight.ndim < is_observed.ndim
            ):  # one number for all entries: its information is a sum over them
                return weight * jnp.mean(is_observed.astype(weight.dtype))
            return where_observed(is_observed, weight)

        return jax.tree.map(observe, weights)


def where_observed(is_observed: Array, value: Any) -> Any:
    """The value with 0 at the missing entries: where one of a decoder's outputs overflows there, it or its derivative
    times 0 would be NaN. One number for all entries stays."""
    if jnp.shape(value)[: is_observed.ndim] != is_observed.shape:
        return value
    shape = (*is_observed.shape, *(1,) * (jnp.ndim(value) - is_observed.ndim))
    return jnp.where(jnp.broadcast_to(is_observed.reshape(shape), jnp.shape(value)), value, 0)


def independent(
    terms: Callable[[PyTree, Any], Array],
    mean: Callable[[PyTree], Any],
    sample: Callable[[Any, PyTree], Any],
    fisher_weights: Callable[[PyTree], PyTree],
    num_outputs: int,
    name: str,
    **others: Any,
) -> Likelihood:
    """A likelihood of entries that are independent given z: log p is the sum of `terms`."""
    return Likelihood(
        lambda outputs, x: jnp.sum(terms(outputs, x)),
        mean,
        sample,
        fisher_weights,
        num_outputs,
        name,
        terms=terms,
        **others,
    )


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
    if likelihood.observed is not None:
        values, mask = likelihood.observed(x)
        check_plain(name, (values, mask))
        x = _observed_values(np.asarray(values), np.asarray(mask), name)
    check_plain(name, x)
    for leaf in jax.tree.leaves(x):
        array = np.asarray(leaf)
        is_real = array.dtype.kind in "buif" or jnp.issubdtype(array.dtype, jnp.floating)
        if not is_real:
            raise ValueError(f"{name} must be real numbers, got an array of dtype {array.dtype}")
        for part in _chunks(array):
            try:
                likelihood.check(part.astype(np.uint8) if part.dtype == bool else part)
            except ValueError as error:
                raise ValueError(f"no {likelihood.name} likelihood of {name}: {error}") from None


def _observed_values(values: np.ndarray, mask: np.ndarray, name: str) -> np.ndarray:
    if mask.shape != values.shape:
        raise ValueError(
            f"the mask of {name} must be shaped like its values, {values.shape}, got {mask.shape}"
        )
    if not np.all((mask == 0) | (mask == 1)):
        other = mask[(mask != 0) & (mask != 1)]
        raise ValueError(
            f"the mask of {name} must hold 0 (missing) and 1 (observed) alone, got {other.size} other values, such as "
            f"{other.flat[0]}"
        )
    return values[mask == 1]


def check_examples(likelihood: Likelihood, examples: Any) -> None:
    """`check_data` of a set of examples [n, …]; and, where grey values are wanted, `check_range`."""
    check_data(likelihood, examples, "examples")
    if likelihood.check is check_unit and likelihood.observed is None:
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


def refuse(x: np.ndarray, bad: Any, expected: str) -> None:
    """Raise ValueError if any entry is `bad`: what was expected, what came, and the first of them."""
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
