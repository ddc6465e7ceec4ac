"""What the README says runs: its Python blocks, and the claims behind their last lines."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hmcvae
from hmcvae import training
from tests.support.paths import REPOSITORY

BLOCKS = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)


@pytest.fixture(scope="module")
def namespace() -> dict:
    """The names after all blocks have run one after the other, as a reader would paste them."""
    names: dict = {}
    with jax.numpy_rank_promotion("allow"):  # as a reader has it; NumPyro promotes ranks
        for block in BLOCKS:
            exec(block, names)
    return names


def test_sampler_example_gives_the_variances_it_claims(namespace):
    variances = namespace["samples"].position.var(axis=(0, 1))
    np.testing.assert_allclose(variances, [1.0, 4.0], rtol=0.15)


def test_constrained_example_gives_values_that_obey(namespace):
    """A gamma with mean 1 and variance 1/3; shares of a Dirichlet(2, 2, 2)."""
    values = namespace["values"]
    assert values["shares"].shape == (4, 500, 3)
    np.testing.assert_allclose(jnp.sum(values["shares"], axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(jnp.mean(values["shares"], axis=(0, 1)), 1 / 3, atol=0.03)
    np.testing.assert_allclose(jnp.mean(values["rate"]), 1.0, atol=0.08)


def test_bound_example_gives_the_likelihood_it_claims(namespace):
    log_weights = namespace["log_weights"]
    estimate = jnp.log(jnp.mean(jnp.exp(log_weights - namespace["exact"])))
    np.testing.assert_allclose(estimate, 0.0, atol=0.02)
    assert jnp.mean(log_weights) < namespace["exact"]


def test_annealing_example_agrees_with_the_likelihood(namespace):
    np.testing.assert_allclose(namespace["below"].log_likelihood[0], namespace["exact"], atol=0.06)


def test_training_example_trains_the_model_of_another_library(namespace):
    assert namespace["record"]["epoch"] == 3
    assert namespace["record"]["skipped_steps"] == 0
    start, end = jax.tree.leaves(namespace["begin"]["vae"]), jax.tree.leaves(namespace["state"].params["vae"])
    assert all(not np.array_equal(a, b) for a, b in zip(start, end, strict=True))


def test_counts_with_missing_entries_are_trained(namespace):
    assert namespace["counts_record"]["skipped_steps"] == 0
    assert np.isnan(namespace["table"]).any()
    start, end = (
        jax.tree.leaves(tree)
        for tree in (namespace["counts_params"], namespace["counts_state"].params["vae"])
    )
    assert all(not np.array_equal(a, b) for a, b in zip(start, end, strict=True))


IMAGES = np.array([[0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]], np.uint8)


def train(vae, params, num_epochs: int = 2) -> list:
    return list(
        training.fit(
            hmcvae.bounds.hvi(vae),
            {"vae": params, "bound": hmcvae.bounds.hvi(vae).init(jax.random.key(0))},
            IMAGES,
            optimizer=optax.adam(1e-3),
            preprocess=training.Pixels(1),
            num_epochs=num_epochs,
            batch_size=2,
        )
    )


def test_the_recipe_for_layers_with_a_state_gives_a_density_that_is_trained(namespace):
    vae, params = namespace["deep_vae"], namespace["deep_params"]
    first, second = jnp.asarray(IMAGES[0], jnp.float32), jnp.asarray(IMAGES[1], jnp.float32)
    means = [vae.encoded(params, x).mean for x in (first, first, second)]
    np.testing.assert_array_equal(means[0], means[1])
    assert not np.allclose(means[0], means[2])
    state, record = train(vae, params)[-1]
    assert record["skipped_steps"] == 0
    start, end = jax.tree.leaves(params), jax.tree.leaves(state.params["vae"])
    assert all(
        not np.array_equal(a, b) for a, b in zip(start, end, strict=True)
    )  # the norm's scale and bias too


def of_deep_net(namespace, **settings):
    """The recipe's net in training mode, with some of its layers on: (vae, parameters)."""
    nnx = namespace["nnx"]
    net = namespace["DeepNet"](nnx.Rngs(0))
    net.eval()
    net.set_attributes(**settings)
    graph, params, fixed = nnx.split(net, nnx.Param, ...)
    return namespace["deep_vae"].__class__(
        encode=lambda params, x: nnx.merge(graph, params, fixed).encode(x),
        decode=lambda params, z: nnx.merge(graph, params, fixed).decoder(z),
        likelihood=hmcvae.likelihoods.bernoulli(),
        latent_dim=2,
    ), params


def test_the_same_net_in_training_mode_is_refused_with_the_recipe(namespace):
    vae, params = of_deep_net(namespace, use_running_average=False)
    with pytest.raises(ValueError, match=r"encode to depend on its input, got the same .*net.eval\(\)"):
        train(vae, params)


def test_what_the_filter_keeps_out_of_training_is_refused_in_it(namespace):
    """Without the filter, the keys and counters of Dropout are among the parameters."""
    nnx = namespace["nnx"]
    net = namespace["DeepNet"](nnx.Rngs(0))
    net.eval()
    graph, everything = nnx.split(net)
    vae = hmcvae.VAE(
        encode=lambda params, x: nnx.merge(graph, params).encode(x),
        decode=lambda params, z: nnx.merge(graph, params).decoder(z),
        likelihood=hmcvae.likelihoods.bernoulli(),
        latent_dim=2,
    )
    with pytest.raises(
        ValueError, match=r"parameters that are floats, got params.*dropout.* of dtype .*net.eval"
    ):
        train(vae, everything)


def test_a_net_that_keeps_drawing_masks_is_refused(namespace):
    """Dropout that is on, in a net that is called as an object with a state."""
    nnx = namespace["nnx"]
    net, plain = namespace["DeepNet"](nnx.Rngs(0)), namespace["nnx_vae"]
    net.set_attributes(use_running_average=True)
    vae = hmcvae.VAE(lambda params, x: net.encode(x), plain.decode, plain.likelihood, 2)
    with pytest.raises(ValueError, match=r"encode to be a function, got two results for the same input"):
        train(vae, namespace["net_params"])


def test_the_test_command_stands_there_once_for_ci_to_run():
    text = (REPOSITORY / "README.md").read_text()
    section = text.split("<!-- test command -->")[1].split("<!-- end -->")[0]
    commands = [line for line in section.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 1
    assert "pytest" in commands[0]
    assert "pyright" in commands[0]
