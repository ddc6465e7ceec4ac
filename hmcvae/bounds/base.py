"""What a bound is: two pure functions of one example, and the info that a draw leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hmcvae._checks import check_count, check_key
from hmcvae.solvers import SolverInfo
from hmcvae.transitions import Target
from hmcvae.types import ArrayLike, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import VAE, Image

# Folded into the key of a bound for its posterior: far from the counters of what else is drawn with that key.
BUILD = 0x7FFFFFFF


class BoundInfo(NamedTuple):
    """What one draw of a bound passed through; K-sample bounds stack a leading [K].

    log_weight: the draw's own log weight, in nats.
    log_likelihood: log p(x | z) at the last position; log_weight - log_likelihood is minus the draw's "KL" cost.
    initial_position, position: z_0 from the posterior and z_T at the chain's end, [d].
    energy_error: mean over the transitions of |H(end) - H(start)|, in nats; 0 without dynamics.
    solver: report of the implicit solves, over all transitions.
    """

    log_weight: Scalar
    log_likelihood: Scalar
    initial_position: Vector
    position: Vector
    energy_error: Scalar
    solver: SolverInfo


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound on log p(x); two of the same model are two.

    vae: the model it bounds.
    init: `rng_key -> params["bound"]`.
    build: `(params, rng_key, x) -> Target`: the posterior of one example, and the log density in its coordinates.
    draw: `(params, rng_key, target, kl_weight) -> (log_weight, BoundInfo)`, given them.
    name: as reports tell it.
    is_unbiased: whether E[exp(log_weight)] = p(x).
    """

    vae: VAE
    init: Callable[[PRNGKey], PyTree]
    build: Callable[[PyTree, PRNGKey, Image], Target]
    draw: Callable[[PyTree, PRNGKey, Target, ArrayLike], tuple[Float[Array, ""], BoundInfo]]
    name: str
    is_unbiased: bool = True

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
        check_key(rng_key)
        check_params(params)
        target = self.build(params, jax.random.fold_in(rng_key, BUILD), x)
        return self.draw(params, rng_key, target, kl_weight)


def check_params(params: PyTree) -> None:
    """Raise ValueError unless params is a mapping with "vae" and "bound"."""
    if not isinstance(params, Mapping) or not {"vae", "bound"} <= set(params):
        came: Any = sorted(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(f'params must be {{"vae": …, "bound": bound.init(rng_key)}}, got {came}')


def importance_weighted(bound: Bound, num_samples: int) -> Bound:
    """The K-sample bound log (1/K) Σ_k exp L_k of any bound (Burda, Grosse & Salakhutdinov 2016, eq. 8).

    `info` has a leading [K]. Its own mean is a tighter bound than that of one draw; exp of it is unbiased too. The
    posterior is built once for all K draws.

    Raises:
        ValueError: unless num_samples ≥ 1; or for a bound whose exp is no estimate of p(x).
    """
    num_samples = check_count("num_samples", num_samples, 1)
    if not bound.is_unbiased:
        raise ValueError(f"{bound.name} cannot be importance weighted: exp of it is no estimate of p(x)")

    def draw(params: PyTree, rng_key: PRNGKey, target: Target, kl_weight: ArrayLike):
        keys = jax.random.split(rng_key, num_samples)
        log_weights, info = jax.vmap(lambda key: bound.draw(params, key, target, kl_weight))(keys)
        return log_mean_exp(log_weights), info

    return Bound(bound.vae, bound.init, bound.build, draw, f"{bound.name}, {num_samples} samples")


def log_mean_exp(log_weights: Float[Array, " k"]) -> Scalar:
    """log (1/K) Σ exp: without overflow."""
    return jax.nn.logsumexp(log_weights) - jnp.log(jnp.asarray(log_weights.shape[0], log_weights.dtype))
