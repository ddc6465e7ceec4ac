"""Parameters read back from a training's checkpoints, without its optimizer."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hmcvae
from hmcvae import training
from hmcvae.training import Checkpoints, load_params
from tests.support.trees import assert_same


def params(size: int = 3) -> dict:
    """With what a model may have: tuples, numbers as names, arrays without entries, every precision."""
    prior = (jnp.arange(2.0), [jnp.ones((2, size)), None])
    nets = {"prior": prior, "e": {7: jnp.zeros((4, 0))}, "w": jnp.full((2,), 1.5, jnp.bfloat16)}
    return {"vae": nets, "bound": {"chain": {}, "scale": jnp.asarray(0.25)}}


def shifted(by: int) -> dict:
    return jax.tree.map(lambda leaf: leaf + by, params())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained") / "best"
    kept = Checkpoints(place)
    for epoch in (1, 2):
        kept.save(epoch, training.init_state(shifted(epoch), optax.adam(1e-2), 0))
    return place


def test_parameters_are_read_by_their_names(folder):
    assert_same(load_params(folder, params()), shifted(2))
    assert_same(load_params(str(folder), params(), epoch=1), shifted(1))
    assert_same(load_params(folder, jax.eval_shape(params)), shifted(2))
    assert_same(load_params(folder, {"vae": params()["vae"]}), {"vae": shifted(2)["vae"]})


def test_they_are_those_that_fit_has_learned(tmp_path):
    vae = hmcvae.VAE(
        encode=lambda params, x: (params["a"] * x, jnp.zeros(2), x),
        decode=lambda params, z: z + params["b"],
        likelihood=hmcvae.likelihoods.gaussian(scale=1.0),
        latent_dim=2,
    )
    bound = hmcvae.bounds.elbo(vae)
    begin = {"vae": {"a": jnp.asarray(0.1), "b": jnp.zeros(2)}, "bound": bound.init(jax.random.key(0))}
    data = jax.random.normal(jax.random.key(1), (20, 2))
    kept = Checkpoints(tmp_path / "run")
    options = {"optimizer": optax.sgd(1e-2, momentum=0.9), "batch_size": 10, "num_epochs": 2}
    *_, (state, _) = training.fit(bound, begin, data, checkpoints=kept, **options)
    found = load_params(tmp_path / "run", begin)
    assert_same(found, state.params)
    assert float(found["vae"]["a"]) != float(begin["vae"]["a"])
    assert_same(load_params(tmp_path / "run", begin, epoch=1)["bound"], state.params["bound"])


def longer() -> dict:
    return params() | {"bound": params()["bound"] | {"more": jnp.zeros(1)}}


WRONG = {
    "another shape": (params(4), r"expected vae.prior.1.0 to be float\d+ \[2, 4\], got float\d+ \[2, 3\]"),
    "an array more": (longer(), r"expected bound.more to be float\d+ \[1\], got nothing"),
    "an array less": ({"bound": {"chain": {}}}, r"expected bound.scale to be absent, got float"),
    "another empty shape": (
        {"vae": params()["vae"] | {"e": {7: jnp.zeros((5, 0))}}},
        r"expected vae.e.7 to be \[5, 0\], got \[4, 0\]",
    ),
    "another precision": (
        {"vae": params()["vae"] | {"w": jnp.zeros(2, jnp.float16)}},
        "expected vae.w to be float16",
    ),
    "a state": ({"params": params()}, r"like must be .*, got \['params'\]"),
    "an array": (jnp.zeros(2), "like must be .*, got Array"),
    "nothing": ({}, r"like must be .*, got \[\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_parameters_of_another_model_are_refused_by_name(folder, name):
    like, message = WRONG[name]
    with pytest.raises(ValueError, match=message.replace("got Array", "got (Array|ArrayImpl)")):
        load_params(folder, like)


def test_what_is_not_there_or_no_training_is_told(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint of epoch 9 in .*best"):
        load_params(folder, params(), epoch=9)
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*nowhere"):
        load_params(tmp_path / "nowhere", params())
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="epoch must be a whole number"):
        load_params(folder, params(), epoch=-1)
    Checkpoints(tmp_path / "other").save(1, {"a": np.ones(3)})
    with pytest.raises(ValueError, match="is not of a training: it has no parameters"):
        load_params(tmp_path / "other", params())
    shutil.copytree(folder, tmp_path / "damaged")
    path = max(
        (tmp_path / "damaged" / "2" / "state").rglob("*"), key=lambda own: own.is_file() * own.stat().st_size
    )
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="is corrupted"):
        load_params(tmp_path / "damaged", params())
