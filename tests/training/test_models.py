"""Models of users, each a short example: trained as a VAE and, by another bound, in its Hamiltonian form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import hmcvae
from hmcvae import bounds, likelihoods, posteriors, priors, training

KEY = jax.random.key(0)
LATENT = 2


def head(features):
    return features[:LATENT], features[LATENT : 2 * LATENT] - 1.0, features


def convolutions_with_a_label():
    """Flax Linen, images of 8 × 8 with one of three labels: p(x | z, c)."""

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, image, label):
            h = nn.relu(nn.Conv(4, (3, 3), strides=2)(image)).reshape(-1)
            return head(nn.Dense(6)(jnp.concatenate([h, label])))

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, z, label):
            h = nn.Dense(4 * 4 * 4)(jnp.concatenate([z, label])).reshape(4, 4, 4)
            return nn.ConvTranspose(1, (3, 3), strides=(2, 2))(nn.relu(h))

    encoder, decoder = Encoder(), Decoder()
    images = jax.random.bernoulli(KEY, 0.3, (48, 8, 8, 1)).astype(jnp.float32)
    labels = jax.nn.one_hot(jnp.arange(48) % 3, 3)
    params = {
        "encoder": encoder.init(KEY, images[0], labels[0]),
        "decoder": decoder.init(KEY, jnp.zeros(LATENT), labels[0]),
    }
    vae = hmcvae.VAE(
        lambda p, x: encoder.apply(p["encoder"], *x),
        lambda p, z, label: decoder.apply(p["decoder"], z, label),
        likelihoods.bernoulli(),
        LATENT,
        is_conditional=True,
    )
    return vae, params, (images, labels)


def counts():
    tables = jax.random.poisson(KEY, 3.0, (48, 5))
    params = {"e": 0.1 * jnp.ones((6, 5)), "d": 0.1 * jax.random.normal(KEY, (2, 5, LATENT))}
    vae = hmcvae.VAE(
        lambda p, x: head(jnp.tanh(p["e"] @ jnp.log1p(x.astype(jnp.float32)))),
        lambda p, z: (p["d"][0] @ z, p["d"][1] @ z),
        likelihoods.negative_binomial(),
        LATENT,
    )
    return vae, params, tables


def missing_entries():
    values = jax.random.normal(KEY, (48, 4))
    mask = jax.random.bernoulli(KEY, 0.7, (48, 4)).astype(jnp.float32)
    params = {"e": 0.1 * jnp.ones((6, 8)), "d": 0.3 * jax.random.normal(KEY, (4, LATENT)), "s": jnp.zeros(())}

    def encode(p, x):
        return head(jnp.tanh(p["e"] @ jnp.concatenate([jnp.where(x[1] == 1, x[0], 0.0), x[1]])))

    likelihood = likelihoods.masked(likelihoods.gaussian(min_scale=0.1))
    vae = hmcvae.VAE(encode, lambda p, z: (p["d"] @ z, p["s"]), likelihood, LATENT)
    return vae, params, (jnp.where(mask == 1, values, jnp.nan), mask)


def a_learned_prior():
    bits = jax.random.bernoulli(KEY, 0.4, (48, 6)).astype(jnp.float32)
    params = {
        "e": 0.1 * jnp.ones((6, 6)),
        "d": 0.3 * jax.random.normal(KEY, (6, LATENT)),
        "u": jax.random.normal(KEY, (4, 6)),
    }

    def encode(p, x):
        return head(jnp.tanh(p["e"] @ x))

    prior = priors.vamp(encode, lambda p: (jax.nn.sigmoid(p["u"]), jnp.zeros(4)))
    return hmcvae.VAE(encode, lambda p, z: p["d"] @ z, likelihoods.bernoulli(), LATENT, prior), params, bits


def sequences():
    """Tokens, one after another through a recurrent decoder."""
    tokens = jax.random.randint(KEY, (48, 7), 0, 4)
    cell = nn.GRUCell(5)
    params = {
        "cell": cell.init(KEY, jnp.zeros(5), jnp.zeros(LATENT)),
        "e": 0.1 * jnp.ones((6, 28)),
        "out": 0.3 * jax.random.normal(KEY, (4, 5)),
    }

    def decode(p, z):
        def step(carry, _):
            carry, h = cell.apply(p["cell"], carry, z)
            return carry, p["out"] @ h

        return jax.lax.scan(step, jnp.zeros(5), None, length=7)[1]

    def encode(p, x):
        return head(jnp.tanh(p["e"] @ jax.nn.one_hot(x, 4).reshape(-1)))

    return hmcvae.VAE(encode, decode, likelihoods.categorical(4), LATENT), params, tokens


def an_equinox_model():
    """Its arrays are the parameters; what is left of it, the functions, is put back inside."""
    keys = jax.random.split(KEY, 2)
    nets = eqx.nn.MLP(6, 2 * LATENT, 5, 1, key=keys[0]), eqx.nn.MLP(LATENT, 6, 5, 1, key=keys[1])
    params, static = eqx.partition(nets, eqx.is_array)
    bits = jax.random.bernoulli(KEY, 0.3, (48, 6)).astype(jnp.float32)
    vae = hmcvae.VAE(
        lambda p, x: head(eqx.combine(p, static)[0](x)),
        lambda p, z: eqx.combine(p, static)[1](z),
        likelihoods.bernoulli(),
        LATENT,
    )
    return vae, params, bits


def an_nnx_model():
    """Split into its graph and its state, which are the parameters, and merged inside."""
    rngs = nnx.Rngs(0)
    graph, params = nnx.split((nnx.Linear(6, 6, rngs=rngs), nnx.Linear(LATENT, 6, rngs=rngs)))
    bits = jax.random.bernoulli(KEY, 0.3, (48, 6)).astype(jnp.float32)
    vae = hmcvae.VAE(
        lambda p, x: head(jnp.tanh(nnx.merge(graph, p)[0](x))),
        lambda p, z: nnx.merge(graph, p)[1](z),
        likelihoods.bernoulli(),
        LATENT,
    )
    return vae, params, bits


def a_likelihood_of_ones_own():
    laplace = likelihoods.Likelihood(
        log_prob=lambda f, x: -jnp.sum(jnp.abs(x - f) + jnp.log(2.0)),
        mean=lambda f: f,
        sample=lambda rng_key, f: f + jax.random.laplace(rng_key, f.shape),
        fisher_weights=jnp.ones_like,
    )
    params = {"e": 0.1 * jnp.ones((6, 4)), "d": 0.3 * jax.random.normal(KEY, (4, LATENT))}
    vae = hmcvae.VAE(lambda p, x: head(jnp.tanh(p["e"] @ x)), lambda p, z: p["d"] @ z, laplace, LATENT)
    return vae, params, jax.random.laplace(KEY, (48, 4))


MODELS = [
    convolutions_with_a_label,
    counts,
    missing_entries,
    a_learned_prior,
    sequences,
    an_equinox_model,
    an_nnx_model,
    a_likelihood_of_ones_own,
]
FORMS = {
    "vae": bounds.elbo,
    "hamiltonian": lambda vae: bounds.hvi(vae, posterior=posteriors.fisher(LATENT), num_steps=2),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_model_is_trained_by_both_bounds(model, form):
    vae, params, data = model()
    bound = FORMS[form](vae)
    begin = {"vae": params, "bound": bound.init(jax.random.key(1))}
    optimizer = optax.adam(3e-2)
    records = [
        record
        for _, record in training.fit(bound, begin, data, optimizer=optimizer, batch_size=16, num_epochs=6)
    ]
    assert records[-1]["skipped_steps"] == 0
    assert records[-1]["bound"] > records[0]["bound"]


def test_a_loop_of_ones_own_in_twenty_lines():
    vae, params, data = a_likelihood_of_ones_own()
    bound, optimizer = bounds.hvi(vae, num_steps=2), optax.adam(1e-2)
    params = {"vae": params, "bound": bound.init(jax.random.key(1))}

    @jax.jit
    def step(params, opt_state, rng_key, batch):
        def loss_fn(params):
            keys = jax.random.split(rng_key, len(batch))
            return -jnp.mean(jax.vmap(bound, (None, 0, 0))(params, keys, batch)[0])

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, losses = optimizer.init(params), []
    for index, rng_key in enumerate(jax.random.split(jax.random.key(2), 60)):
        batch = data[16 * (index % 3) : 16 * (index % 3 + 1)]
        params, opt_state, loss = step(params, opt_state, rng_key, batch)
        losses.append(float(loss))
    assert np.mean(losses[-15:]) < np.mean(losses[:15])


def test_gradients_are_accumulated_and_parameters_averaged_by_optax():
    """Two steps of half a batch are one of a whole, and the average is what its equation says."""
    vae, params, data = a_likelihood_of_ones_own()
    bound = bounds.elbo(vae)
    begin = {"vae": params, "bound": {}} | {"bound": bound.init(jax.random.key(1))}
    optimizer = training.averaged(optax.MultiSteps(optax.sgd(1e-2), 2).gradient_transformation(), 0.9)
    states = [
        state
        for state, _ in training.fit(bound, begin, data, optimizer=optimizer, batch_size=24, num_epochs=3)
    ]
    average = begin["vae"]["d"]
    before = average
    for state in states:  # an epoch is two steps: the first leaves the parameters where they are
        now = state.params["vae"]["d"]
        average = 0.9 * (0.9 * average + 0.1 * before) + 0.1 * now
        before = now
    assert not np.array_equal(before, begin["vae"]["d"])
    np.testing.assert_allclose(training.average_of(states[-1])["vae"]["d"], average, rtol=1e-5)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_that_are_none_are_refused(decay):
    with pytest.raises(ValueError, match="decay must be"):
        training.averaged(optax.sgd(0.1), decay)


def test_only_an_averaged_run_has_an_average():
    state = training.init_state({"a": jnp.zeros(2)}, optax.sgd(0.1), 0)
    with pytest.raises(ValueError, match=r"expected the state of a run with training.averaged\(optimizer\)"):
        training.average_of(state)
