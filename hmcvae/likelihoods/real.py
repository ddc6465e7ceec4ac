"""Real numbers."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from hmcvae._checks import check_positive, check_real, kind_of
from hmcvae._numerics import HALF_LOG_2PI
from hmcvae._random import normal
from hmcvae.likelihoods.base import Likelihood, Pixels, check_shape_of_x, independent
from hmcvae.types import ArrayLike, PyTree


def gaussian(scale: ArrayLike | None = None, *, min_scale: float = 0.0) -> Likelihood:
    """Independent normals, x ~ N(m, s²), with a fixed scale s or, by default, a learned one.

    Fixed: outputs are the means m, and `scale` broadcasts against them; w = 1/s².
    Learned: outputs are the pair (m, l), m shaped like x and l too, or one number for all of x, and
    s² = e^{2l} + min_scale²; w = (1/s², 2 (e^l/s)⁴), times the number of entries of x where l is one number: exact. At
    min_scale = 0, l is log s, and a pixel that is the same in all images (a border) has a likelihood without an upper
    bound: give a min_scale where there are such.

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

    return _fixed(scale) if scale is not None else _learned(min_scale)


def _fixed(scale: ArrayLike) -> Likelihood:
    def log_scale_of(mean: Pixels) -> Pixels:
        return jnp.broadcast_to(jnp.log(jnp.asarray(scale, mean.dtype)), mean.shape)

    return independent(
        lambda mean, x: _terms(mean, log_scale_of(mean), x),
        lambda mean: mean,
        lambda rng_key, mean: _sample(rng_key, mean, log_scale_of(mean)),
        lambda mean: jnp.exp(-2 * log_scale_of(mean)),
        1,
        "gaussian",
    )


def _learned(min_scale: float) -> Likelihood:
    def split(outputs: PyTree) -> tuple[Pixels, Pixels]:
        """(m, log s), both shaped like x."""
        if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
            raise ValueError(
                "with a learned scale the decoder's outputs are the pair (mean, log scale), got "
                f"{kind_of(outputs)}; for one array give gaussian(scale)"
            )
        mean, raw = outputs
        log_scale = raw if min_scale == 0 else 0.5 * jnp.logaddexp(2 * raw, 2 * float(np.log(min_scale)))
        return mean, jnp.broadcast_to(log_scale, mean.shape)

    def fisher_weights(outputs: PyTree) -> PyTree:
        mean, log_scale = split(outputs)
        precision = jnp.exp(-2 * log_scale)
        of_scale = 2 * jnp.exp(4 * (jnp.broadcast_to(outputs[1], mean.shape) - log_scale))
        return precision, of_scale if jnp.shape(outputs[1]) == mean.shape else jnp.sum(of_scale)

    def check_outputs(outputs: PyTree, x: Any) -> None:
        split(outputs)
        has_one_scale = jnp.shape(outputs[1]) == ()
        check_shape_of_x(outputs[0] if has_one_scale else outputs, x)

    return independent(
        lambda outputs, x: _terms(*split(outputs), x),
        lambda outputs: split(outputs)[0],
        lambda rng_key, outputs: _sample(rng_key, *split(outputs)),
        fisher_weights,
        2,
        "gaussian",
        check_outputs=check_outputs,
        unpack=unpack_location_and_scale,
    )


def _terms(mean: Pixels, log_scale: Pixels, x: Pixels) -> Pixels:
    residual = (x - mean) * jnp.exp(-log_scale)
    return -(0.5 * residual**2 + log_scale + HALF_LOG_2PI)


def _sample(rng_key: Any, mean: Pixels, log_scale: Pixels) -> Pixels:
    return mean + jnp.exp(log_scale) * normal(rng_key, mean.shape, mean.dtype)


def unpack_location_and_scale(raw: Pixels) -> tuple[Pixels, Pixels]:
    """(location, log scale) of pixels in [0, 1]: the location in the middle of the range and the scale at about a tenth
    of it, where an untrained net should begin."""
    return raw[..., 0] + 0.5, raw[..., 1] - 2.0
