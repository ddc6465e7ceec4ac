"""What makes a posterior better: steps of its centre towards the mode, and a metric learned from the decoder's."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from hmcvae._checks import check_count, check_flag, check_real
from hmcvae._numerics import all_finite
from hmcvae._random import normal
from hmcvae.posteriors._bounded import compressed
from hmcvae.posteriors.base import Gaussian, Posterior, check_whitened
from hmcvae.posteriors.information import along
from hmcvae.types import PRNGKey, PyTree
from hmcvae.vae import Example

# Of a step of the centre: γ in (0, MAX_STEP), at first FIRST_STEP.
MAX_STEP, FIRST_STEP = 1.5, 0.5
# A move of the centre, A⁻¹ Δc / γ, is compressed beyond this root mean square over coordinates: it counts standard
# deviations of the posterior that A stands for, and encoders start nearer than that.
MAX_MOVE = 4.0


def gauss_newton(posterior: Posterior, num_steps: int = 1, *, fresh: bool = False) -> Posterior:
    """Move the centre towards the mode: c ← c + γ_k A Aᵀ ∇ log p(x, c), γ_k learned, wherever log p(x, c) rises.

    What kind of step this is depends on A. With A Aᵀ the inverse Fisher information (`fisher`, and `fresh`) it is a
    step of Gauss-Newton, or Fisher scoring; with a learned A (`full_covariance`) or the encoder's variances
    (`mean_field`) it is a step up the gradient, preconditioned by a matrix that is not a curvature. The bound is valid
    for any centre. A Gaussian with the curvature's own covariance, centred by such steps, is the Variational Laplace
    Auto-encoder of Park, Kim & Kim (2019), whose idea this is; refining an amortised posterior inside the bound is
    that of Kim et al. (2018).

    A refinement must not make a start worse, and before A is learned a plain step goes thousands of nats downhill. So
    moves too long to be trusted are compressed (`MAX_MOVE`), and a step that does not raise log p(x, c), or makes it
    NaN, leaves c where it is. A step costs one gradient and one value of log p.

    As a function of the parameters the bound jumps where a step is only just taken or left out. Its gradient here is
    that of either side: what the jump itself would add, where such examples are many, is left out.

    Args:
        posterior: gives c and A, in whitened coordinates.
        num_steps: of the centre.
        fresh: build A anew at each new centre, instead of keeping the first.

    Raises:
        ValueError: unless the posterior is whitened and num_steps a whole number of at least 0.
    """
    check_whitened("gauss_newton", posterior)
    num_steps, fresh = check_count("num_steps", num_steps, 0), check_flag("fresh", fresh)
    raw = math.log(FIRST_STEP / (MAX_STEP - FIRST_STEP))

    def init(rng_key: PRNGKey) -> PyTree:
        return {"base": posterior.init(rng_key), "step": jnp.full((num_steps,), raw)}

    def build(params: PyTree, rng_key: PRNGKey, example: Example) -> Gaussian:
        found = posterior.build(params["base"], rng_key, example)
        steps = step_sizes(params).astype(found.center.dtype)
        radius = MAX_MOVE * math.sqrt(found.center.shape[0])
        for index in range(num_steps):
            here, gradient = jax.value_and_grad(example.logdensity_fn)(found.center)
            move = found.matrix().T @ gradient
            move = jnp.where(all_finite(move), move, 0.0)
            center = found.to_position(steps[index] * compressed(move, radius) * move)
            # Of a centre that is not taken no derivative is asked: it may overflow there.
            is_better = example.logdensity_fn(lax.stop_gradient(center)) > here  # not where it is NaN
            center = jnp.where(is_better, center, found.center)
            if fresh:
                found = posterior.build(params["base"], rng_key, dataclasses.replace(example, mean=center))
            else:
                found = found._replace(center=center)
        return found

    return Posterior(init, build, is_taught=posterior.is_taught)


def step_sizes(params: PyTree) -> jax.Array:
    """γ_1, γ_2, …: the steps that the parameters of `gauss_newton` stand for."""
    return MAX_STEP * jax.nn.sigmoid(params["step"])


def distilled(posterior: Posterior, weight: float = 1.0) -> Posterior:
    """Let A learn from the decoder's Fisher metric G = Jᵀ diag(w) J + Λ at the centre, by one derivative a draw.

        D(A) = ½ E[ |w^{1/2} J A ε|² + |Λ^{1/2} A ε|² ] - log |det A|,   ε ~ N(0, I)
             = KL( N(0, A Aᵀ) ‖ N(0, G⁻¹) ) + constant: least at A Aᵀ = G⁻¹

    The *value* of a bound with this posterior is unchanged; to its *gradient* that of -weight · D is added, with the
    decoder and the encoder's mean held fixed, so it moves what else A is made of alone: the exact metric distilled into
    a learned one, at the learned one's price. For training only. What multiplies log |det A| multiplies the
    distillation: with a `kl_weight` of β it is β times as strong.

    Raises:
        ValueError: unless the posterior is whitened and weight finite and positive.
    """
    check_whitened("distilled", posterior)
    weight = check_real("weight", weight, 0.0, is_open=True)

    def build(params: PyTree, rng_key: PRNGKey, example: Example) -> Gaussian:
        base_key, noise_key = jax.random.split(rng_key)
        found = posterior.build(params, base_key, example)
        # The same Gaussian, as a function of less: A itself may be made of the decoder, and of the encoder's mean.
        vae_params, mean = lax.stop_gradient((example.params, example.mean))
        fixed = dataclasses.replace(example, params=vae_params, mean=mean)
        student = posterior.build(params, base_key, fixed)
        student = student._replace(center=lax.stop_gradient(student.center))
        noise = normal(noise_key, mean.shape, mean.dtype)
        metric = along(fixed, student, student.matrix())
        cost = 0.5 * metric.quadratic_form(jnp.zeros_like(noise), noise) - student.log_det
        cost = jnp.asarray(weight, cost.dtype) * cost
        # Zero, with the gradient of -cost.
        return found._replace(log_det=found.log_det - (cost - lax.stop_gradient(cost)))

    return Posterior(posterior.init, build, is_taught=True)
