"""The data that a likelihood is of: what is in its support, and that nothing else comes in by any door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import likelihoods
from tests.support.likelihoods import MAKERS

UNIT = np.linspace(0, 1, 18).reshape(2, 3, 3)
LEVELS = np.arange(256).reshape(16, 16) / 255


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", MAKERS)
def test_data_in_the_support_pass_in_every_dtype(name, dtype):
    likelihood = MAKERS[name]()
    likelihoods.check_data(likelihood, jnp.asarray(LEVELS, dtype))
    likelihoods.check_data(likelihood, {"a": LEVELS.astype(np.float32), "b": [np.array(0), np.array(True)]})
    if not name.startswith("discretised"):
        likelihoods.check_data(likelihood, jnp.asarray(UNIT, dtype))


def with_one(value, array=LEVELS):
    array = array.copy()
    array.flat[7] = value
    return array


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("value", "refused_by"),
    [
        (np.nan, set(MAKERS)),
        (np.inf, set(MAKERS)),
        (-np.inf, set(MAKERS)),
        (-1.0, {"bernoulli", "discretised logistic"}),
        (1.01, {"bernoulli", "discretised logistic"}),
        (255.0, {"bernoulli", "discretised logistic"}),
        (0.3, {"discretised logistic"}),
        (1 / 255**2, {"discretised logistic"}),
    ],
)
def test_one_value_out_of_the_support_is_found_and_shown(value, refused_by, dtype):
    if value == 0.3:
        value += 1 / 512  # 0.3 itself is nearly 77/255
    for name, make in MAKERS.items():
        data = with_one(value).astype(dtype)
        if name not in refused_by:
            likelihoods.check_data(make(), data)
            continue
        with pytest.raises(
            ValueError, match=rf"no {name.partition(',')[0].split()[0]}\w* likelihood of images"
        ) as caught:
            likelihoods.check_data(make(), data, "images")
        assert f"1 of 256 are refused, the first of them {value:.6g}" in str(caught.value)


@pytest.mark.parametrize("data", [np.array(["a"]), np.array([1j]), np.array([None])])
def test_data_that_are_no_real_numbers_are_refused(data):
    for make in MAKERS.values():
        with pytest.raises(ValueError, match="x must be (real )?numbers, got (an array|ndarray) of dtype"):
            likelihoods.check_data(make(), data)


def test_a_large_set_is_checked_whole_and_in_pieces(monkeypatch):
    monkeypatch.setattr(likelihoods.base, "CHUNK", 100)
    sizes = []
    likelihood = likelihoods.bernoulli()
    spying = likelihood._replace(check=lambda x: (sizes.append(x.size), likelihood.check(x)))
    data = np.zeros((1000, 7))
    likelihoods.check_data(spying, data)
    assert max(sizes) <= 100
    assert sum(sizes) == data.size
    data[999, 6] = 2.0
    with pytest.raises(ValueError, match="the first of them 2"):
        likelihoods.check_data(likelihood, data)


def test_a_likelihood_of_ones_own_needs_no_check_and_may_have_one():
    four = likelihoods.bernoulli()[:4]
    own = likelihoods.Likelihood(*four, 1, "own")
    likelihoods.check_data(own, np.array([-7.0, 12.0]))
    with pytest.raises(ValueError, match="no own likelihood of x: expected finite numbers"):
        likelihoods.check_data(own, np.array([-7.0, np.nan]))


def vae_of(likelihood):
    return hmcvae.VAE(lambda params, x: (x[:1], x[:1], x), lambda params, z: params["w"] * z, likelihood, 1)


DOORS = {
    "log_likelihood": lambda vae, params, xs: vae.log_likelihood(params, xs[0], jnp.zeros(3)),
    "logdensity_fn": lambda vae, params, xs: vae.logdensity_fn(params, xs[0])(jnp.zeros(3)),
    "estimate": lambda vae, params, xs: hmcvae.evaluation.estimate(
        hmcvae.bounds.elbo(vae), {"vae": params, "bound": {}}, jax.random.key(0), xs, num_samples=2
    ),
    "ais": lambda vae, params, xs: hmcvae.annealing.ais(
        vae, params, jax.random.key(0), xs, num_temperatures=2, num_chains=2, num_steps=1
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_data_out_of_the_support_come_in_by_no_door(door):
    """Concrete data are seen; data that are being traced pass."""
    params, enter = {"w": jnp.ones(3)}, DOORS[door]
    good = jnp.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    for bad in (2 * good - 1, good.at[0, 1].set(jnp.nan), 255 * good):
        with pytest.raises(ValueError, match="no bernoulli likelihood of"):
            enter(vae_of(likelihoods.bernoulli()), params, bad)
    if not door.startswith("log"):  # one image may be dark, a set of them is divided twice
        with pytest.raises(ValueError, match="expected examples .* no pixel above 0.00392.* twice"):
            enter(vae_of(likelihoods.bernoulli()), params, good / 255)
    enter(vae_of(likelihoods.bernoulli()), params, good)
    enter(vae_of(likelihoods.gaussian(1.0)), params, 2 * good - 1)
    if door.startswith("log"):
        jax.jit(lambda x: enter(vae_of(likelihoods.bernoulli()), params, x))(2 * good - 1)
