"""A variational auto-encoder as a bundle of plain functions, so that any network library fits.

p(x, z) = p(x | decode(z)) p(z),      q(z | x) = N(z; mean(x), exp(log_scale(x))²)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from hmcvae._checks import check_count, check_flag, check_one_number, kind_of, shapes_of, told
from hmcvae.likelihoods import Likelihood, check_data, check_examples
from hmcvae.priors import Prior, standard_normal
from hmcvae.types import LogDensityFn, PyTree, Scalar, Vector

# An example of the data: any pytree of arrays.
Image = Any


def num_examples(examples: PyTree) -> int:
    """n, of a pytree of arrays [n, …]."""
    return jax.tree.leaves(examples)[0].shape[0]


@dataclass(frozen=True, eq=False)
class VAE:
    """Encoder, decoder and likelihood; all of it works on one example, and `jax.vmap` makes the batch.

    A conditional VAE, p(x | z, c) p(z) (Sohn, Lee & Yan 2015), takes examples that are pairs (x, c), c any pytree of
    arrays: a label, an image's other half. Its encoder sees the pair, its decoder z and c; every bound is one on
    log p(x | c).

    Any callables will do, hashable or not; a model is compared by identity. They must be pure: a density that changes
    from call to call (dropout, batch statistics that are updated) has no Hamiltonian and no bound.

    Args:
        encode: `(params, x) -> (mean [d], log_scale [d], features [h])`.
        decode: `(params, z [d]) -> outputs`, the likelihood's parameters; `(params, z, c) -> outputs` of a
            conditional VAE.
        likelihood: from `hmcvae.likelihoods`.
        latent_dim: d, where known; `bounds` then give every coordinate its own mass. None: one mass for all.
        prior: p(z), from `hmcvae.priors`; N(0, I) by default.
        is_conditional: whether examples are pairs (x, c).

    Raises:
        ValueError: if encode or decode is not callable, likelihood none of `hmcvae.likelihoods`, prior none of
            `hmcvae.priors`, latent_dim not a positive whole number, or is_conditional no bool.
    """

    encode: Callable[[PyTree, Image], tuple[Vector, Vector, Array]]
    decode: Callable[..., PyTree]
    likelihood: Likelihood
    latent_dim: int | None = None
    prior: Prior = field(default_factory=standard_normal)
    is_conditional: bool = False

    def __post_init__(self):
        for name in ("encode", "decode"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name} must be a function, got {getattr(self, name)!r}")
        if not isinstance(self.likelihood, Likelihood):
            came = repr(self.likelihood)
            if callable(self.likelihood):
                came = f"the function {getattr(self.likelihood, '__name__', came)}, which was not called"
            raise ValueError(f"likelihood must be one of hmcvae.likelihoods, such as bernoulli(), got {came}")
        if not isinstance(self.prior, Prior):
            came = repr(self.prior)
            if callable(self.prior):
                came = f"the function {getattr(self.prior, '__name__', came)}, which was not called"
            raise ValueError(f"prior must be one of hmcvae.priors, such as standard_normal(), got {came}")
        if self.latent_dim is not None:
            # The one way past the freeze: NumPy's whole numbers become Python's.
            object.__setattr__(self, "latent_dim", check_count("latent_dim", self.latent_dim, 1))
        object.__setattr__(self, "is_conditional", check_flag("is_conditional", self.is_conditional))

    def encoded(self, params: PyTree, x: Image) -> "Example":
        """The model at one example: what posteriors, transitions and bounds are built on.

        Raises:
            ValueError: if the encoder does not return three arrays, or mean and log_scale are not both [d].
        """
        encoded = self.encode_one(params, x)
        if not isinstance(encoded, tuple) or len(encoded) != 3:
            raise ValueError(
                "encode must return (mean, log_scale, features), the features a vector from which learned metrics and "
                f"momenta are made (the last hidden layer, say), got {kind_of(encoded)}"
            )
        mean, log_scale, features = encoded
        for name, value in (("mean", mean), ("log_scale", log_scale)):
            if not hasattr(value, "ndim"):
                raise ValueError(f"encode must return {name} as an array [d], got {value!r}")
        if mean.ndim != 1 or mean.shape != log_scale.shape:
            raise ValueError(
                f"encode must return mean and log_scale of one shape [d] for one example, got {mean.shape} "
                f"and {log_scale.shape}; batches go through jax.vmap"
            )
        if self.latent_dim is not None and mean.shape[0] != self.latent_dim:
            raise ValueError(f"latent_dim is {self.latent_dim}, but encode returned means of {mean.shape}")
        return Example(self, params, x, mean, log_scale, features)

    def encode_one(self, params: PyTree, x: Image) -> Any:
        """What `encode` returns, unchecked; its errors say what it was given."""
        with told(f"(encode is given one example, {shapes_of(x)}; a batch goes through jax.vmap)"):
            return self.encode(params, x)

    def log_likelihood(self, params: PyTree, x: Image, z: Vector) -> Scalar:
        """log p(x | z), in nats.

        Raises:
            ValueError: if the decoder's outputs do not fit x, or x (where its values are known) has no likelihood.
        """
        self.check_data(x)
        target, condition = self.split(x)
        outputs = self.decode_given(params, z, *condition)
        self.likelihood.check_outputs(outputs, target)
        value = self.likelihood.log_prob(outputs, target)
        return check_one_number(f"log_prob of the likelihood {self.likelihood.name}", value)

    def split(self, x: Image) -> tuple[Any, tuple]:
        """(what has a likelihood, what the decoder is given beside z): (x, ()), or (x, (c,)) of a conditional VAE.

        Raises:
            ValueError: for what is no pair, where the VAE is conditional.
        """
        if not self.is_conditional:
            return x, ()
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise ValueError(f"a conditional VAE takes examples that are pairs (x, c), got {kind_of(x)}")
        return x[0], (x[1],)

    def decode_given(self, params: PyTree, z: Vector, *condition: Any) -> PyTree:
        """The likelihood's parameters at z, and at c where the VAE is conditional.

        Raises:
            ValueError: if c is missing, or there is one too many.
        """
        if len(condition) != int(self.is_conditional):
            expected = "a condition c beside z" if self.is_conditional else "z alone, without a condition"
            raise ValueError(f"this VAE's decoder takes {expected}, got {len(condition)} conditions")
        given = f"one code, {shapes_of(z)}" + (
            f", and its condition, {shapes_of(condition)}" if condition else ""
        )
        with told(f"(decode is given {given}; a batch goes through jax.vmap)"):
            return self.decode(params, z, *condition)

    def check_data(self, x: Image, name: str = "x") -> None:
        """`likelihoods.check_data` of one example or a set of them [n, …]."""
        check_data(self.likelihood, self.split(x)[0], name)

    def check_examples(self, examples: Any) -> int:
        """`likelihoods.check_examples` of a set of them; returns how many they are.

        Raises:
            ValueError: also if there is none, or they are no arrays [n, …] of one length.
        """
        leaves = jax.tree.leaves(examples)
        counts = sorted({len(leaf) if jnp.ndim(leaf) else -1 for leaf in leaves})
        if counts[:1] == [0] and len(counts) == 1:
            raise ValueError("there must be at least one example to evaluate on, got 0")
        if len(counts) != 1 or counts[0] < 0:
            raise ValueError(f"expected examples as arrays [n, …] of one length, got lengths {counts}")
        check_examples(self.likelihood, self.split(examples)[0])
        return counts[0]

    def log_joint(self, params: PyTree, x: Image, z: Vector) -> Scalar:
        """log p(x, z) = log p(x | z) + log p(z), in nats."""
        return self.log_likelihood(params, x, z) + self.log_prior(params, z)

    def log_prior(self, params: PyTree, z: Vector) -> Scalar:
        """log p(z), in nats.

        Raises:
            ValueError: if the prior does not return one number.
        """
        return check_one_number(f"log_prob of the prior {self.prior.name}", self.prior.log_prob(params, z))

    def logdensity_fn(self, params: PyTree, x: Image) -> LogDensityFn:
        """z ↦ log p(x, z): the target for the integrators and the samplers."""
        return lambda z: self.log_joint(params, x, z)

    def generate(self, params: PyTree, z: Vector, *condition: Any) -> Image:
        """E[x | z]: the picture at z, and at c where the VAE is conditional."""
        return self.likelihood.mean(self.decode_given(params, z, *condition))


@dataclass(frozen=True, eq=False)
class Example:
    """A model with its parameters at one example x, and what the encoder makes of it.

    mean, log_scale: [d], of the encoder's Gaussian.  features: [h], for what else is built on x.
    """

    vae: VAE
    params: PyTree
    x: Image
    mean: Vector
    log_scale: Vector
    features: Float[Array, " h"]

    def logdensity_fn(self, z: Vector) -> Scalar:
        """log p(x, z)."""
        return self.vae.log_joint(self.params, self.x, z)

    def decode(self, z: Vector) -> PyTree:
        """The likelihood's parameters at z."""
        return self.vae.decode_given(self.params, z, *self.vae.split(self.x)[1])

    def information_outputs(self, z: Vector) -> PyTree:
        """`decode`, in the outputs in which the likelihood's Fisher information is diagonal."""
        return self.vae.likelihood.diagonalise(self.decode(z))

    def fisher_weights(self, outputs: PyTree) -> PyTree:
        """The information of what is observed of x about each of them."""
        return self.vae.likelihood.weights_at(outputs, self.vae.split(self.x)[0])

    def log_prior(self, z: Vector) -> Scalar:
        """log p(z)."""
        return self.vae.log_prior(self.params, z)

    @property
    def prior_precision(self) -> ArrayLike:
        """Λ, the prior's part of the Fisher metric: a number, [d] or [d, d]."""
        return self.vae.prior.precision(self.params, self.mean.shape[0])


def check_vae_params(params: PyTree) -> None:
    """Raise ValueError for a bound's parameters, {"vae": …, "bound": …}, where the VAE's own are wanted."""
    if isinstance(params, Mapping) and set(params) == {"vae", "bound"}:
        raise ValueError('params are those of the VAE, params["vae"], got {"vae": …, "bound": …}')
