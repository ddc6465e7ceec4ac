"""The study of one fixed decoder, and its report: whole, resumable, and honest about what it compares."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from experiments.configs import Hvi, preset
from experiments.runs import reference
from experiments.runs.model import Model, build, load_data
from experiments.study import figures, report
from experiments.study.config import StudyConfig
from experiments.study.methods import METHODS
from experiments.study.records import Record, read, read_record
from experiments.study.run import study
from experiments.study.statistics import gain_error, position_rows
from experiments.study.tables import position_table
from experiments.study.training import start_params, with_fixed_decoder
from hmcvae import bounds
from tests.support.runs import files_of

# One of each family, whose gradients are evaluated: the others are traced.
COMPILED = ("HVI-4", "amortised-4, rank 4, recentred twice", "Fisher-4, recentred")
CHOSEN = ("Gaussian", "HVI-4", "RHVI-2, recentred")


def options(folder: Path, **changes) -> StudyConfig:
    settings: dict = {
        "base": "digits_vae",
        "latent_dims": (3,),
        "seeds": (0,),
        "methods": CHOSEN,
        "decoder_epochs": 2,
        "seconds": 0.01,
        "num_train": 200,
        "num_images": 9,
        "eval_samples": 4,
        "num_temperatures": 5,
        "num_chains": 2,
        "folder": folder,
    }
    return StudyConfig(**(settings | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("study")
    study(options(where))
    return where


def paths(folder: Path) -> list[Path]:
    return sorted((folder / "digits-d3-seed0").glob("method-*.json"))


def records(folder: Path) -> list[Record]:
    return [read_record(path) for path in paths(folder)]


def test_every_record_is_written_with_its_counters(folder):
    found = records(folder)
    assert [record.method for record in found] == list(CHOSEN)
    for record in found:
        assert record.training.skipped_steps == 0
        assert record.unconverged <= 1e-4
        assert np.isfinite(record.per_image.bound).all()
        assert len(record.per_image.bound) == 9
    assert 0 < found[2].learned["position_dependence"][0] < 1
    assert 0 < found[1].learned["step_sizes"][0] < 1


def test_a_study_goes_on_with_what_is_missing(folder):
    before = {path: path.stat().st_mtime_ns for path in paths(folder)}
    missing = paths(folder)[1]
    text = json.loads(missing.read_text())
    missing.unlink()
    study(options(folder))
    after = {path: path.stat().st_mtime_ns for path in paths(folder)}
    assert {path for path in before if before[path] != after[path]} == {missing}
    assert json.loads(missing.read_text())["method"] == text["method"]


def test_a_decoder_of_another_length_is_refused(folder):
    with pytest.raises(ValueError, match="another number of epochs than 3"):
        study(options(folder, decoder_epochs=3))


def test_a_record_of_another_method_of_the_same_name_is_refused(folder, monkeypatch):
    monkeypatch.setitem(METHODS, "HVI-4", Hvi(num_steps=3))
    message = r"HVI-4.json was made with .*'num_steps': 4, .*, this method is .*'num_steps': 3, "
    with pytest.raises(ValueError, match=message):
        study(options(folder))


def test_other_settings_are_refused(folder):
    with pytest.raises(ValueError, match="num_images: 9 -> 8"):
        study(options(folder, num_images=8))


def test_the_report_says_gap_and_share_of_it(folder, tmp_path):
    made = report.make(report.ReportConfig(folder, tmp_path), "command")
    gaps = {row["method"]: row["gap"] for row in made["rows"]}
    known = json.loads((folder / "digits-d3-seed0" / "reference.json").read_text())
    expected = np.mean(known["log_likelihood"]) - np.mean(records(folder)[1].per_image.bound)
    np.testing.assert_allclose(gaps["HVI-4"], expected)
    closed = {row["method"]: row["closed"] for row in made["rows"]}
    assert closed["Gaussian"] == 0
    np.testing.assert_allclose(closed["HVI-4"], 1 - gaps["HVI-4"] / gaps["Gaussian"])
    text = (tmp_path / "study.md").read_text()
    assert all(name in text for name in CHOSEN)
    assert {path.name for path in tmp_path.iterdir()} == {
        "study.json",
        "study.md",
        "study_gaps.png",
        "study_curves.png",
        "study_condition.png",
    }


def test_a_grid_is_trained_for_equal_epochs_and_drawn(folder, tmp_path):
    """T x L of each family, every method with the same number of updates, on all test images."""
    where = tmp_path / "grid"
    shutil.copytree(folder, where, ignore=shutil.ignore_patterns("method-*", "settings.json"))
    settings: dict = {"methods": ("Gaussian",), "families": ("HVI",), "transitions": (1, 2), "steps": (1, 2)}
    study(options(where, num_epochs=2.0, **settings))
    found = records(where)
    assert {record.method for record in found} == {
        "Gaussian",
        *(f"HVI, {T} x {L}" for T in (1, 2) for L in (1, 2)),
    }
    assert all(record.training.num_epochs == 2 == len(record.training.curve) for record in found)
    dynamics = {(r.num_transitions, r.num_steps) for r in found if r.method != "Gaussian"}
    assert dynamics == {(1, 1), (1, 2), (2, 1), (2, 2)}
    made = report.make(report.ReportConfig(where, tmp_path), "command")
    assert [row["method"] for row in made["rows"]][1:] == sorted(r.method for r in found if r.num_steps)
    text = (tmp_path / "study.md").read_text()
    assert "trained on 200 training images for about 2 passes a method" in text
    assert "| 3 | HVI, 2 x 1 | 0.1" in text.partition("As learned")[2]
    assert (tmp_path / "study_grid.png").is_file()
    # None of the methods that curves are usually drawn of: the first of those that there are.
    assert set(figures.shown(read(where))) == {row["method"] for row in made["rows"]} - {"Gaussian"}


def test_seeds_that_share_images_are_not_more_images():
    """Of the mean over 3 seeds with a spread of 0.5 of their own on the same 400 images with one of 2."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 2, 400)
    gains = [images + shift for shift in (-0.5, 0.0, 0.5)]
    expected = np.hypot(images.std(ddof=1) / 20, 0.5 / np.sqrt(3))
    np.testing.assert_allclose(gain_error(gains), expected)
    np.testing.assert_allclose(gain_error(gains[:1]), images.std(ddof=1) / 20)


def of_before(record: Path) -> dict:
    """A record as it was written before: its training's figures beside the others, and less of them."""
    values = json.loads(record.read_text())
    training = values.pop("training")
    values["passes"] = values.pop("planned_epochs")
    values["epochs"], values["training_bound"] = training.pop("num_epochs"), training.pop("curve")
    values["training_unconverged"] = training.pop("unconverged")
    return values | training


def test_a_study_of_before_is_read_and_gone_on_with(folder, tmp_path):
    """With its reference estimate, records and settings under their names of before."""
    where = tmp_path / "study"
    shutil.copytree(folder, where)
    own = where / "digits-d3-seed0"
    (own / "reference.json").rename(own / "pinned.json")
    for path in paths(where):
        path.write_text(json.dumps(of_before(path)))
    settings = json.loads((own / "settings.json").read_text())
    settings["passes"] = settings.pop("num_epochs")
    (own / "settings.json").write_text(json.dumps(settings))
    before = files_of(where)
    study(options(where))
    assert files_of(where) == before
    with pytest.raises(ValueError, match="num_epochs: 0.0 -> 2.0"):
        study(options(where, num_epochs=2.0))
    made = [report.make(report.ReportConfig(one, tmp_path), "command") for one in (folder, where)]
    assert made[0] == made[1]
    # What the first studies did not keep is said to be missing, or is no hindrance.
    first = of_before(paths(folder)[0])
    for name in ("definition", "num_transitions", "num_steps", "passes"):
        first.pop(name)
    first["per_image"].pop("effective_sample_size")
    assert Record.from_json(first).per_image.effective_sample_size is None
    paths(where)[0].write_text(json.dumps(first | {"per_image": {}}))
    with pytest.raises(
        ValueError, match=r"method-Gaussian.json is no record of a study: missing are bound, "
    ):
        read(where)


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no study in"):
        read(tmp_path)


def test_condition_number_is_one_where_the_encoder_whitens(folder):
    (decoder,) = read(folder)
    assert min(decoder.reference.condition_number) >= 1
    config = preset("digits_vae")
    dataset = load_data(config)
    model = build(config, dataset)
    params = jax.tree.map(jnp.zeros_like, model.params["vae"])  # decodes nothing: G = I, q = N(0, I)
    found = reference.condition_numbers(model, params, jnp.zeros((4, 8, 8, 1)))
    np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_metric_variation_is_that_of_the_metric_and_none_where_it_is_constant():
    """G = I + exp(2 b z₁) e₁ e₁ᵀ for a Gaussian decoder of mean exp(b z₁) / b; with b → 0 it is constant."""

    def variation(b: float) -> float:
        vae = hmcvae.VAE(
            lambda p, x: (x, jnp.zeros(2), x),
            lambda p, z: jnp.exp(b * z[:1]) / b,
            hmcvae.likelihoods.gaussian(1.0),
            2,
        )
        model = Model(vae, bounds.elbo(vae), {}, False, bounds.elbo(vae), 2)
        found = reference.metric_variations(model, {}, jnp.zeros((400, 2)), jax.random.key(0))
        return float(np.sqrt(np.mean(found**2)))

    assert variation(1e-4) < 1e-3
    z = np.random.default_rng(0).normal(0, np.sqrt(0.5), 100_000)
    expected = np.sqrt(np.mean(np.log((1 + np.exp(2 * z)) / 2) ** 2) / 2)
    np.testing.assert_allclose(variation(1.0), expected, rtol=0.05)


def test_the_report_says_what_position_dependence_adds(folder, tmp_path):
    (decoder,) = read(folder)
    moving = decoder.records["RHVI-2, recentred"]
    # Each image's gain is its place in the order of variation: 0 … 8.
    place = np.argsort(np.argsort(decoder.reference.metric_variation))
    per_image = dataclasses.replace(moving.per_image, bound=moving.per_image.bound - place)
    frozen = dataclasses.replace(moving, per_image=per_image)
    decoder.records["RHVI-2, recentred, position dependence 0"] = frozen
    (found,) = position_rows([decoder])
    assert (found.gain, found.gain_least, found.gain_most) == pytest.approx((4.0, 1.0, 7.0))
    assert "| 3 | RHVI-2, recentred | 1 |" in "\n".join(position_table([found]))


@pytest.mark.parametrize("name", METHODS)
def test_the_decoder_is_held_fixed_and_the_rest_has_a_gradient(name):
    config = dataclasses.replace(preset("digits_vae"), method=METHODS[name])
    model = build(config, load_data(config))
    bound = with_fixed_decoder(
        config.method.build(model.vae, model.num_features), model.params["vae"]["decoder"]
    )
    params = start_params(config, bound, model.params["vae"]["encoder"], 0)

    def value(params):
        return bound(params, jax.random.key(0), jnp.zeros((8, 8, 1)))[0]

    if name not in COMPILED:
        assert set(jax.eval_shape(jax.grad(value), params)["vae"]) == {"encoder"}
        return
    gradient = jax.jit(jax.grad(value))(params)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        # What starts at zero behind a zero: the hidden layer of r and q, and the last bias of a fresh head.
        assert np.isfinite(leaf).all(), path
    moving = {
        jax.tree_util.keystr(path[:2]) for path, leaf in jax.tree.leaves_with_path(gradient) if np.any(leaf)
    }
    expected = {"['vae']['encoder']"} | {
        f"['bound']['{part}']" for part, own in params["bound"].items() if own
    }
    assert moving == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("HVI-5",)}, "methods must be among"),
        ({"seconds": 0.0}, "seconds must be finite and greater than 0"),
        ({"num_images": 1}, "num_images must be 0 .all. or at least 2"),
        ({"families": ("VAE",)}, "families must be among"),
        ({"families": ("HVI",), "steps": (0,)}, "steps must be a whole number of at least 1"),
        ({"num_epochs": -1.0}, "num_epochs must be a finite number of at least 0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(**changes)
