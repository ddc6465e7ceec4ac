"""Whether a training can begin: parameters that can be learned, an encoder and a decoder that are functions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hmcvae._random import normal
from hmcvae.bounds import Bound, check_params
from hmcvae.training.inputs import Preprocess, keep_as_is, preprocess_all
from hmcvae.types import PyTree
from hmcvae.vae import num_examples

# Of the first examples, two that differ are looked for, to see that the encoder tells them apart.
NUM_STARTING = 16
# Calls whose results must be those of the first: masks of a few entries are often alike.
NUM_REPEATS = 5
RECIPE = (
    "A density must be one function of one example: set such layers to evaluation (BatchNorm with fixed statistics, "
    "Dropout off; in Flax NNX net.eval() before nnx.split), or take LayerNorm; see the README"
)


def check_start(bound: Bound, params: PyTree, data: PyTree, preprocess: Preprocess = keep_as_is) -> None:
    """Check that training can begin: parameters that are finite floats, an encoder and a decoder that are functions.

    Two calls must give the same (a net that draws random numbers has no density), and with parameters moved at random
    two examples must give different codes, and two codes different outputs (a net that normalises over its batch
    sees one example by itself, and nothing of it is left).

    Raises:
        ValueError: what was expected, what came, and what to do.
    """
    if not isinstance(bound, Bound):
        raise ValueError(
            f"bound must be one of hmcvae.bounds, such as bounds.hvi(vae), got {type(bound).__name__}"
        )
    check_params(params)
    _check_arrays(bound, params)
    first = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[:NUM_STARTING])), data)
    _check_nets(bound, params["vae"], preprocess_all(preprocess, jax.random.key(0), first))


def check_optimizer(optimizer: Any, params: PyTree | None = None) -> None:
    """Check that an optimizer is one of Optax's; and, given parameters, that it can take a step of them.

    Raises:
        ValueError: for another object; or one whose update needs more than gradients, state and parameters, as
            `optax.lbfgs` needs the loss and its function, or does not take these parameters.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"optimizer must be one of Optax's, such as optax.adam(1e-3), got {optimizer!r}")
    if params is None:
        return

    def step(own: PyTree) -> PyTree:
        updates, _ = optimizer.update(own, optimizer.init(own), own)
        return optax.apply_updates(own, updates)

    own = jax.tree.map(jnp.asarray, params)
    try:
        new = jax.eval_shape(step, own)
    except Exception as error:  # whatever an optimizer's own code raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(
            "optimizer must take a step from gradients, its state and the parameters alone, as optax.adam does "
            f"(optax.lbfgs needs the loss, too); its update raised {type(error).__name__}: {reason}"
        ) from error
    if jax.tree.structure(new) != jax.tree.structure(own):
        raise ValueError(
            f"optimizer must keep the parameters' structure, {jax.tree.structure(own)}, got "
            f"{jax.tree.structure(new)}"
        )


def _check_arrays(bound: Bound, params: PyTree) -> None:
    own = jax.eval_shape(bound.init, jax.random.key(0))
    advice = f'params["bound"] must be made by the init of the bound that is trained, {bound.name}'
    expected, came = jax.tree.structure(own), jax.tree.structure(params["bound"])
    if came != expected:
        raise ValueError(f"{advice}: expected {expected}, got {came}")
    for (path, leaf), like in zip(
        jax.tree.leaves_with_path(params["bound"]), jax.tree.leaves(own), strict=True
    ):
        if jnp.shape(leaf) != like.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{advice}: expected {name} of shape {like.shape}, got {jnp.shape(leaf)}")
    for path, leaf in jax.tree.leaves_with_path(params):
        name, array = f"params{jax.tree_util.keystr(path)}", jnp.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"expected parameters that are floats, got {name} of dtype {array.dtype}: random keys, counters and "
                "statistics are no parameters. " + RECIPE
            )
        if not np.all(np.isfinite(np.asarray(array))):
            raise ValueError(
                f"expected finite parameters to start from, got NaN or infinite values in {name}"
            )


def _check_nets(bound: Bound, params: PyTree, xs: PyTree) -> None:
    own = jax.tree.map(jnp.asarray, params)
    leaves, structure = jax.tree.flatten(own)
    keys = jax.random.split(jax.random.key(0), len(leaves) + 2)
    noise = [0.01 * normal(key, x.shape, x.dtype) for key, x in zip(keys[2:], leaves, strict=True)]
    moved = jax.tree.map(jnp.add, own, structure.unflatten(noise))
    other = _most_different(xs)
    x = tuple(jax.tree.map(lambda leaf, index=index: leaf[index], xs) for index in (0, other))
    codes = _codes(bound, own, xs, {0, other, _with_most_missing(xs)})
    mean = jnp.asarray(jax.tree.leaves(codes[0])[0])
    if bound.vae.latent_dim is not None and mean.shape != (bound.vae.latent_dim,):
        # Before the decoder meets them, whose product may say something else.
        raise ValueError(f"latent_dim is {bound.vae.latent_dim}, but encode returned means of {mean.shape}")
    z = [normal(key, mean.shape, mean.dtype) for key in keys[:2]]
    condition = bound.vae.split(x[1])[1]

    def decode(params: PyTree, z: Any) -> PyTree:
        return bound.vae.decode(params, z, *condition)

    for name, net, (a, b) in (("encode", bound.vae.encode, x), ("decode", decode, z)):
        # Of the second: the first may be all black, which hides a mask; and some masks are alike by chance.
        result = net(own, b)
        if not jax.tree.leaves(result):
            raise ValueError(f"{name} must return arrays, got {result!r}")
        if not all(_are_equal(result, net(own, b)) for _ in range(NUM_REPEATS)):
            raise ValueError(
                f"expected {name} to be a function, got two results for the same input. {RECIPE}"
            )
        if not _are_equal(a, b) and _are_equal(net(moved, a), net(moved, b)):
            raise ValueError(
                f"expected {name} to depend on its input, got the same for two different ones, whatever the "
                "parameters. " + RECIPE
            )


def _codes(bound: Bound, params: PyTree, xs: PyTree, indices: set[int]) -> dict[int, PyTree]:
    """What the encoder makes of some examples; ValueError where that is no numbers: no step could be taken then."""
    found = {}
    for index in sorted(indices):
        found[index] = code = bound.vae.encode_one(
            params, jax.tree.map(lambda leaf, index=index: leaf[index], xs)
        )
        for name, value in zip(("mean", "log_scale"), jax.tree.leaves(code), strict=False):
            if not np.isfinite(np.asarray(value, np.float64)).all():
                raise ValueError(
                    f"expected encode to return finite numbers, got a {name} of {value} for training "
                    f"example {index}. NaN that stand for missing values must be replaced before a net sees them, as "
                    "by jnp.where(mask == 1, values, 0); or are its inputs, or the first parameters, too large?"
                )
    return found


def _with_most_missing(xs: PyTree) -> int:
    """The example with most NaN; the first where there is none."""
    return int(
        np.argmax(sum(_per_example(np.isnan(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(xs)))
    )


def _per_example(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).sum(axis=1)


def _most_different(xs: PyTree) -> int:
    """The example that differs most from the first."""
    gaps = np.zeros(num_examples(xs))
    for leaf in jax.tree.leaves(xs):
        array = np.nan_to_num(np.asarray(leaf, np.float64))  # NaN may stand for what is missing
        gaps += _per_example(np.abs(array - array[:1]))
    return int(np.argmax(gaps))


def _are_equal(a: Any, b: Any) -> bool:
    """Whether all entries are the same, NaN being the same as NaN."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in pairs)
