"""`hmcvae.load`: a run's model from its folder alone, in a process that has neither the data nor the experiments."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from experiments.runs import model as runs
from experiments.runs import training as train
from hmcvae import saved
from tests.support.runs import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    train.train(tiny(folder, num_epochs=2, num_validation=50), quiet=True)
    return folder


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def test_a_model_is_that_of_its_run(run):
    model = hmcvae.load(run)
    assert repr(model).startswith("TrainedModel(epoch=")
    assert "Array" not in repr(model)
    _, _, ours, params, epoch = runs.load_run(run)
    assert model.epoch == epoch
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(params["vae"]), strict=True):
        np.testing.assert_array_equal(a, b)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 8, 8, 1)), jnp.float32)
    np.testing.assert_array_equal(
        model.encode(x), jax.vmap(lambda one: ours.vae.encode(params["vae"], one)[0])(x)
    )
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(jax.random.key(0), 5).shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(model.reconstruct(x), model.decode(model.encode(x)))
    below = model.log_likelihood(jax.random.key(1), x, num_temperatures=500, num_chains=40)
    bound = hmcvae.bounds.elbo(model.vae)
    many = hmcvae.evaluation.estimate(
        bound, {"vae": model.params, "bound": {}}, jax.random.key(2), x, num_samples=5000
    )
    np.testing.assert_allclose(below.log_likelihood, many.log_likelihood, atol=1.0)


def test_grey_values_are_told_of_where_bits_were_trained(run):
    """Their log p(x) is of another size, and nothing in it shows that."""
    model = hmcvae.load(run)
    with pytest.warns(UserWarning, match="grey values, and this model is of bits"):
        model.log_likelihood(jax.random.key(1), jnp.full((1, 8, 8, 1), 0.3), num_temperatures=2, num_chains=1)


def test_it_needs_neither_the_data_nor_the_experiments(copied, tmp_path):
    for name in ("config.json", "environment.json", "metrics.jsonl"):
        (copied / name).unlink()
    code = f"""
import sys
sys.modules["experiments"] = None
import jax, hmcvae
model = hmcvae.load({str(copied)!r})
print(model.sample(jax.random.key(0), 2).shape, model.epoch)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.startswith("(2, 8, 8, 1)")


def damage_description(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remove_checkpoints(folder):
    for name in ("best", "checkpoints"):
        shutil.rmtree(folder / name)


def flip_a_byte(folder):
    newest = max((folder / "best").glob("[0-9]*"))
    path = max((newest / "state").rglob("*"), key=lambda own: own.stat().st_size if own.is_file() else 0)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


DAMAGES = {
    "no folder": (
        shutil.rmtree,
        "no trained model in .*model.json is not there .for checkpoints of training.fit: training.load_params",
    ),
    "no JSON": (lambda folder: (folder / "model.json").write_text("{"), "does not describe a model"),
    "another likelihood": (
        lambda folder: damage_description(folder, likelihood="laplace"),
        "likelihood must be one of .* got 'laplace'",
    ),
    "another field": (lambda folder: damage_description(folder, dropout=0.5), "does not describe a model"),
    "a negative size": (lambda folder: damage_description(folder, latent_dim=-1), "latent_dim must be"),
    "another size": (lambda folder: damage_description(folder, latent_dim=3), "is of another model than"),
    "no checkpoints": (remove_checkpoints, "no checkpoint in .* has not been trained yet"),
    "a flipped byte": (flip_a_byte, "is corrupted"),
    "no checksums": (
        lambda folder: [path.unlink() for path in folder.rglob("checksums.json")],
        "checksums.json is missing",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_named(copied, name):
    damage, message = DAMAGES[name]
    damage(copied)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        hmcvae.load(copied)


X = np.zeros((2, 8, 8, 1), np.float32)
MISUSES = {
    "raw pixels": (lambda model: model.encode(X + 16), r"numbers in \[0, 1\] .pixels divided by"),
    "raw pixels as whole numbers": (lambda model: model.reconstruct(X.astype(np.uint8) + 9), r"in \[0, 1\]"),
    "NaN": (lambda model: model.encode(X + np.nan), "256 NaN|128 NaN"),
    "one image": (lambda model: model.encode(X[0]), r"examples must be \[n, 8, 8, 1\].*\[8, 8, 1\]"),
    "no images": (lambda model: model.reconstruct(X[:0]), r"n at least 1, got shape \[0, 8, 8, 1\]"),
    "words": (lambda model: model.encode(np.array(["a"])), "array of numbers|real numbers"),
    "complex": (lambda model: model.encode(X + 1j), "real numbers, got dtype complex"),
    "one position": (lambda model: model.decode(np.zeros(2)), r"positions must be \[n, 2\].*got shape \[2\]"),
    "another width": (lambda model: model.decode(np.zeros((2, 3))), r"positions must be \[n, 2\]"),
    "infinite positions": (lambda model: model.decode(np.full((2, 2), np.inf)), "must be finite"),
    "a seed": (lambda model: model.sample(3, 2), "rng_key must be one key"),
    "two keys": (lambda model: model.sample(jax.random.split(jax.random.key(0)), 2), "must be one key"),
    "a seed for the likelihood": (lambda model: model.log_likelihood(0, X), "rng_key must be one key"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_a_model_refuses_what_it_cannot_take(run, name):
    call, message = MISUSES[name]
    # Of types the tests' own checker may be first.
    with pytest.raises((ValueError, TypeError), match=f"{message}|Type-check error"):
        call(hmcvae.load(run))


def test_a_model_of_divided_pixels_refuses_whole_ones_whatever_its_likelihood(run):
    model = hmcvae.load(run)
    other = dataclasses.replace(
        model,
        vae=dataclasses.replace(model.vae, likelihood=hmcvae.likelihoods.gaussian(1.0)),
        description=dataclasses.replace(model.description, max_value=16),
    )
    assert np.all(np.isfinite(other.encode(X)))
    with pytest.raises(ValueError, match="examples are pixels divided by 16: expected numbers in"):
        other.encode(X + 16)


@pytest.mark.parametrize("likelihood", saved.LIKELIHOODS)
def test_every_likelihood_can_be_described(likelihood):
    options = {
        "categorical": {"num_classes": 3},
        "discretised_logistic_mixture": {"num_components": 2},
        "gaussian": {"min_scale": 0.1},
    }.get(likelihood)
    description = saved.Description((8, 8, 1), 2, likelihood, options, "conv", (4,))
    again = saved.Description(**json.loads(json.dumps(description.to_json())))
    vae, init_params, _ = again.build()
    assert vae.likelihood.name == likelihood
    vae.likelihood.check_outputs(
        vae.decode(init_params(jax.random.key(0)), jnp.zeros(2)), jnp.zeros((8, 8, 1))
    )
