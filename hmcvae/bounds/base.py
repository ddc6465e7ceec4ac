"""What a bound is: two pure functions of one example, and the info that a draw leaves."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hmcvae._checks import check_count, check_key
from hmcvae.solvers import SolverInfo
from hmcvae.transitions import Target
from hmcvae.types import ArrayLike, PRNGKey, PyTree, Scalar, Vector
from hmcvae.vae import VAE, Image

# Folded into the key of a bound for its posterior: far from the counters of what else is drawn with that key.
BUILD = 0x7FFFFFFF
# Estimators of a bound's gradient, all with the same mean: that of the gradient wherever the bound has one (see
# `posteriors.gauss_newton` for where it jumps).
TOTAL, PATH, DOUBLY = "total", "sticking_the_landing", "doubly_reparameterised"


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


Draw = Callable[[PyTree, PRNGKey, Target, ArrayLike], tuple[Float[Array, ""], BoundInfo]]


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound on log p(x); two of the same model are two.

    vae: the model it bounds.
    init: `rng_key -> params["bound"]`.
    build: `(params, rng_key, x) -> Target`: the posterior of one example, and the log density in its coordinates.
    draw: `(params, rng_key, target, kl_weight) -> (log_weight, BoundInfo)`, given them.
    name: as reports tell it.
    is_unbiased: whether E[exp(log_weight)] = p(x).
    path_draw: `draw`, with a gradient in the parameters of q that goes through z alone (see `elbo`), where there is
        one.
    gradient: how `draw` estimates its gradient: see `elbo` and `importance_weighted`.
    """

    vae: VAE
    init: Callable[[PRNGKey], PyTree]
    build: Callable[[PyTree, PRNGKey, Image], Target]
    draw: Draw
    name: str
    is_unbiased: bool = True
    path_draw: Draw | None = None
    gradient: str = TOTAL

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


def importance_weighted(bound: Bound, num_samples: int, *, gradient: str = TOTAL) -> Bound:
    """The K-sample bound log (1/K) Σ_k exp L_k of any bound (Burda, Grosse & Salakhutdinov 2016, eq. 8).

    `info` has a leading [K]. Its own mean is a tighter bound than that of one draw; exp of it is unbiased too. The
    posterior is built once for all K draws. With w_k = exp L_k / Σ exp L and λ the parameters of q (centre, factor,
    scales), its gradient is estimated by

        gradient="total":                  Σ_k w_k d L_k
        gradient="doubly_reparameterised": Σ_k w_k ∂L_k/∂θ dθ + Σ_k w_k² ∂L_k/∂z_k ∂z_k/∂λ dλ

    where θ are the decoder's and the prior's parameters at fixed z_k (Tucker et al. 2019, eq. 8; β of a warm-up gives
    the second sum the weights (1 - β) w_k + β w_k²). Both have the gradient of the bound as their mean, and every
    evaluation is the same number. The second goes to zero as q becomes exact, where the first's signal-to-noise ratio
    falls with K (Rainforth et al. 2018); it goes back through the decoder twice.

    Args:
        bound: of one draw.
        num_samples: K.
        gradient: see above; "doubly_reparameterised" is for `elbo` alone.

    Raises:
        ValueError: unless num_samples ≥ 1 and gradient is one of the two; for a bound whose exp is no estimate of p(x);
            for one that sticks the landing, whose importance-weighted gradient would be biased; or for
            "doubly_reparameterised" of a bound that is no `elbo`.
    """
    num_samples = check_count("num_samples", num_samples, 1)
    if gradient not in (TOTAL, DOUBLY):
        raise ValueError(f'gradient must be "{TOTAL}" or "{DOUBLY}", got {gradient!r}')
    if not bound.is_unbiased:
        raise ValueError(f"{bound.name} cannot be importance weighted: exp of it is no estimate of p(x)")
    if gradient == DOUBLY and bound.path_draw is None:
        raise ValueError(
            f'gradient="{DOUBLY}" needs an elbo of a posterior that is not distilled, got {bound.name}'
        )
    if gradient == TOTAL and bound.gradient != TOTAL:
        raise ValueError(
            f'the gradient of {bound.name} would be biased by importance weights with gradient="{TOTAL}": give '
            f'importance_weighted gradient="{DOUBLY}"'
        )

    def all_draws(draw_fn: Draw, params: PyTree, rng_key: PRNGKey, target: Target, kl_weight: ArrayLike):
        keys = jax.random.split(rng_key, num_samples)
        return jax.vmap(lambda key: draw_fn(params, key, target, kl_weight))(keys)

    def draw(params: PyTree, rng_key: PRNGKey, target: Target, kl_weight: ArrayLike):
        log_weights, info = all_draws(bound.draw, params, rng_key, target, kl_weight)
        return log_mean_exp(log_weights), info

    def draw_doubly(params: PyTree, rng_key: PRNGKey, target: Target, kl_weight: ArrayLike):
        assert bound.path_draw is not None
        example = target.example
        at_fixed_z = target._replace(coordinates=lax.stop_gradient(target.coordinates))
        of_fixed_model = target._replace(
            example=dataclasses.replace(example, params=lax.stop_gradient(example.params))
        )
        by_model, info = all_draws(bound.path_draw, params, rng_key, at_fixed_z, kl_weight)
        by_z, _ = all_draws(bound.path_draw, params, rng_key, of_fixed_model, kl_weight)
        shares = lax.stop_gradient(jax.nn.softmax(by_model))
        beta = jnp.asarray(kl_weight, shares.dtype)
        slopes = shares * _slope(by_model) + shares * (1 - beta + beta * shares) * _slope(by_z)
        return lax.stop_gradient(log_mean_exp(by_model)) + jnp.sum(slopes), info

    name = f"{bound.name}, {num_samples} samples"
    if gradient == DOUBLY:
        return Bound(bound.vae, bound.init, bound.build, draw_doubly, name, gradient=gradient)
    return Bound(bound.vae, bound.init, bound.build, draw, name)


def _slope(values: Float[Array, " k"]) -> Float[Array, " k"]:
    """Zeros, with the derivatives of the values; of those that are not finite, none."""
    return jnp.where(jnp.isfinite(values), values - lax.stop_gradient(values), 0.0)


def log_mean_exp(log_weights: Float[Array, " k"]) -> Scalar:
    """log (1/K) Σ exp: without overflow."""
    return jax.nn.logsumexp(log_weights) - jnp.log(jnp.asarray(log_weights.shape[0], log_weights.dtype))
