"""Trainings whose steps can be worked out by hand, and a small one of the digits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hmcvae
from hmcvae import data, training
from hmcvae.bounds import Bound, BoundInfo
from hmcvae.solvers import exact_info
from hmcvae.transitions import Target

NO_IMAGES = np.zeros((0, 2, 2, 1), np.uint8)
P = {"vae": {"p": jnp.zeros((), jnp.float32)}, "bound": {}}
NOTHING = {"posterior": {}}  # of a plain ELBO
LATENT = 4
DIGITS = data.load("digits", num_validation=50)


def of_log_weight(log_weight_fn, is_all_cost: bool = False) -> Bound:
    """A bound that is a plain function `(params["vae"], x, kl_weight) -> log_weight`: steps can then be worked out by
    hand. All of the log weight is log-likelihood, or all of it is "KL" cost."""

    def draw(params, rng_key, target, kl_weight):
        del rng_key
        x = target.example
        dtype = jax.tree.leaves(x)[0].dtype
        log_weight = log_weight_fn(params["vae"], x, kl_weight).astype(dtype)
        zero, z = jnp.zeros_like(log_weight), jnp.zeros(1, dtype)
        log_likelihood = zero if is_all_cost else log_weight
        return log_weight, BoundInfo(log_weight, log_likelihood, z, z, zero, exact_info(dtype))

    vae = hmcvae.VAE(lambda params, x: (x, x, x), lambda params, z: z, hmcvae.likelihoods.bernoulli())
    return Bound(vae, lambda _: {}, lambda params, key, x: Target(None, x, None), draw, "made up")


def plain_images(*levels: int) -> np.ndarray:
    """One 2 × 2 image of each level."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 2, 2, 1)).copy()


def run(
    bound,
    images,
    *,
    params=P,
    binarize=False,
    max_value=255,
    learning_rate=1e-3,
    settings=None,
    **options,
) -> list:
    """All (state, record) of a fit."""
    return list(
        training.fit(
            bound,
            params,
            images,
            optimizer=optax.adam(learning_rate),
            preprocess=training.Pixels(max_value, binarize),
            **options,
            **(settings or {}),
        )
    )


def one_epoch(
    bound,
    images,
    *,
    binarize=False,
    max_value=255,
    num_epochs=1,
    params=P,
    learning_rate=1e-3,
    optimizer=None,
    **options,
):
    """(states, step metrics) of `num_epochs` epochs of one compiled function."""
    settings = training.Settings(num_epochs=num_epochs, **options)
    optimizer = optimizer or optax.adam(learning_rate)
    epoch = training.make_epoch(bound, optimizer, settings, training.Pixels(max_value, binarize))
    state, states, metrics = training.init_state(params, optimizer, settings.seed), [], []
    for _ in range(num_epochs):
        state, step_metrics = epoch(state, jnp.asarray(images))
        states.append(state)
        metrics.append(jax.tree.map(np.asarray, step_metrics))
    return states, metrics


def linear_vae() -> tuple[hmcvae.VAE, dict]:
    """A linear model of the digits."""
    a, b = jax.random.split(jax.random.key(0))
    params = {
        "a": 0.05 * jax.random.normal(a, (LATENT, 64), jnp.float32),
        "b": 0.05 * jax.random.normal(b, (64, LATENT), jnp.float32),
        "c": jnp.zeros(64, jnp.float32),
        "s": 0.0,  # a Python number: weakly typed, unless init_state sees to it
    }

    def encode(p, x):
        return p["a"] @ x.reshape(-1), jnp.full(LATENT, p["s"], x.dtype), x.reshape(-1)[:1]

    def decode(p, z):
        return (p["b"] @ z + p["c"]).reshape(8, 8, 1)

    return hmcvae.VAE(encode, decode, hmcvae.likelihoods.bernoulli(), LATENT), {
        "vae": params,
        "bound": NOTHING,
    }


def with_likelihood(likelihood):
    """p, of images that have that likelihood."""
    bound = of_log_weight(lambda params, x, _: params["p"])
    vae = hmcvae.VAE(lambda params, x: (x, x, x), lambda params, z: z, likelihood)
    return Bound(vae, bound.init, bound.build, bound.draw, bound.name)
