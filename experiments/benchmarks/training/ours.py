"""Our contestants: an epoch of each bound, compiled."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments.benchmarks.training.config import CHECKED, LEARNING_RATE, MAX_PIXEL, Config
from experiments.benchmarks.training.parts import explicit_leapfrog
from experiments.benchmarks.training.profile import shares
from experiments.benchmarks.training.records import Epoch, Facts, Gradient
from experiments.support.timing import Stopwatch
from hmcvae import bounds, likelihoods, networks, posteriors, solvers, training
from hmcvae.bounds import Bound

NUM_ITERATIONS = 4  # of each implicit solve of RHVI in training
NEW_BITS = ", new bits"


def make_bound(config: Config, model: str, image_shape: Any, **options: Any) -> tuple[Bound, Callable]:
    """(bound, init): `init(rng_key)` gives the bound's and the VAE's parameters."""
    vae, init_vae, num_features = networks.build_vae(
        image_shape, config.latent_dim, likelihoods.bernoulli(), hidden=config.hidden
    )
    d = config.latent_dim
    dynamics: dict = {"reverse": networks.reverse_model(num_features, d), "num_steps": config.num_steps}
    amortised, fisher = posteriors.full_covariance(num_features, d), posteriors.fisher(d)
    refined = {"amortised": posteriors.gauss_newton(amortised), "Fisher": posteriors.gauss_newton(fisher)}
    few = solvers.fixed_point(num_iterations=NUM_ITERATIONS, differentiate="unrolled")
    make: dict[str, Callable[[], Bound]] = {
        "VAE": lambda: bounds.elbo(vae, kl="analytic"),
        "HVI": lambda: bounds.hvi(vae, **dynamics, **options),
        "full Gaussian": lambda: bounds.elbo(vae, posterior=amortised),
        "Fisher Gaussian": lambda: bounds.elbo(vae, posterior=fisher),
        "amortised": lambda: bounds.hvi(vae, posterior=amortised, **dynamics, **options),
        "amortised recentred": lambda: bounds.hvi(vae, posterior=refined["amortised"], **dynamics, **options),
        "Fisher": lambda: bounds.hvi(vae, posterior=fisher, **dynamics, **options),
        "Fisher recentred": lambda: bounds.hvi(vae, posterior=refined["Fisher"], **dynamics, **options),
        "RHVI": lambda: bounds.rhvi(vae, posterior=fisher, solver=few, **dynamics, **options),
        "RHVI's parts": lambda: bounds.rhvi(
            vae, posterior=fisher, integrator=explicit_leapfrog, **dynamics, **options
        ),
    }
    bound = make[model]()
    return bound, lambda key: {"vae": init_vae(key), "bound": bound.init(key)}


def build(config: Config, images: np.ndarray, one_core: bool) -> tuple[dict[str, Epoch], dict[str, Facts]]:
    """Epochs by contestant, and what is known of each."""
    pixels, epochs, known = jnp.asarray(images), {}, {}
    with_variants = config.extras and not one_core
    for model in config.models:
        program, epochs[model], known[model] = compile_epoch(config, model, pixels)
        if with_variants:
            name = model + NEW_BITS
            _, epochs[name], known[name] = compile_epoch(config, model, pixels, new_bits=True)
        if one_core:
            epochs[model]()  # the first is not like the others
            known[model] = replace(known[model], shares=shares(program, epochs[model]))
        flops = count_flops(config, model, images[: config.batch_size]) * config.num_batches
        known[model] = replace(known[model], flops=flops)
        if one_core and model in CHECKED:
            known[model] = replace(known[model], gradient=check_gradient(config, model, images[:8]))
    return epochs, known


def compile_epoch(
    config: Config, model: str, pixels: jax.Array, new_bits: bool = False
) -> tuple[Any, Epoch, Facts]:
    """(the program, the epoch, what is known of it)"""
    settings, optimizer = training.Settings(batch_size=config.batch_size), optax.adam(LEARNING_RATE)
    bound, init = make_bound(config, model, pixels.shape[1:])
    state = training.init_state(init(jax.random.key(0)), optimizer, seed=0)
    epoch_fn = training.make_epoch(bound, optimizer, settings, training.Pixels(MAX_PIXEL, new_bits))
    with Stopwatch() as watch:
        program = epoch_fn.lower(state, pixels).compile()
    temporary = program.memory_analysis().temp_size_in_bytes
    return program, our_epoch(program, state, pixels), Facts(watch.elapsed.seconds, temporary)


def our_epoch(program: Any, state: Any, pixels: jax.Array) -> Epoch:
    held = [state]  # and nowhere else, so that the old state is freed

    def epoch() -> float:
        held[0], metrics = jax.block_until_ready(program(held[0], pixels))
        return float(metrics.bound.mean())

    return epoch


def batch_loss(bound: Bound, params: Any, keys: jax.Array, x: jax.Array) -> jax.Array:
    return -jnp.mean(jax.vmap(bound, (None, 0, 0))(params, keys, x)[0])


def count_flops(config: Config, model: str, images: np.ndarray) -> float:
    """Floating-point operations of a batch's gradient, by XLA's count; the loop is unrolled for it, since XLA counts
    a loop's body once."""
    bound, init = make_bound(config, model, images.shape[1:], unroll=True)
    arguments = (init(jax.random.key(0)), jax.random.split(jax.random.key(1), len(images)))
    gradient = jax.jit(jax.grad(lambda *inputs: batch_loss(bound, *inputs)))
    analysis: Any = gradient.lower(*arguments, jnp.asarray(images / MAX_PIXEL, jnp.float32)).cost_analysis()
    return float(analysis["flops"])


def check_gradient(config: Config, model: str, images: np.ndarray) -> Gradient:
    """Of the bound, in reverse mode, as in training."""
    with jax.enable_x64(True):
        bound, init = make_bound(config, model, images.shape[1:])
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), init(jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(images))
        x = jnp.asarray(images / MAX_PIXEL, jnp.float64)
        decoder, unravel = ravel_pytree(params["vae"]["decoder"])
        direction = jax.random.normal(jax.random.key(2), decoder.shape, jnp.float64)

        def value(t: jax.Array) -> jax.Array:
            vae = params["vae"] | {"decoder": unravel(decoder + t * direction)}
            return batch_loss(bound, params | {"vae": vae}, keys, x)

        h = 1e-6
        quotient = (jax.jit(value)(jnp.asarray(h)) - jax.jit(value)(jnp.asarray(-h))) / (2 * h)
        return Gradient(float(jax.jit(jax.grad(value))(jnp.asarray(0.0))), float(quotient))
