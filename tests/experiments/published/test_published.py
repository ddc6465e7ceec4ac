"""Comparisons on published nets: their settings, the search, pieces that are kept, the tables, and one run of all."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.configs import NETS, Elbo, Fisher, Hvi, TrainConfig, Uha, method_from_json, method_to_json
from experiments.configs.evidence import BaseMethod
from experiments.published import run as published_run
from experiments.published import search as searching
from experiments.published.config import PublishedConfig
from experiments.published.evaluation import in_pieces
from experiments.published.methods import METHODS, label
from experiments.published.search import Setting, settings
from experiments.runs.folder import RunFolder
from experiments.runs.model import describe_model
from experiments.support.files import with_ending
from hmcvae.bounds.base import DOUBLY, PATH, TOTAL
from hmcvae.training import NotFiniteError
from tests.support.comparisons import SMALL, options
from tests.support.runs import made_up


def test_the_nets_are_those_of_the_papers():
    """By the number of their parameters: encoder, two heads, decoder."""
    expected = {
        # 784-200-200-(50, 50), 50-200-200-784
        "burda": 784 * 200 + 200 + 200 * 201 + 2 * 50 * 201 + 50 * 200 + 200 + 200 * 201 + 784 * 201,
        "vlae": 784 * 500 + 500 + 500 * 501 + 2 * 50 * 501 + 50 * 500 + 500 + 500 * 501 + 784 * 501,
        "uha": 784 * 450 + 450 + 2 * 64 * 451 + 64 * 450 + 450 + 784 * 451,
    }
    for name, count in expected.items():
        _, init_params, _ = describe_model(NETS[name].config(Elbo()), made_up("mnist")).build()
        leaves = jax.tree.leaves(jax.eval_shape(init_params, jax.random.key(0)))
        assert sum(leaf.size for leaf in leaves) == count, name
    assert [NETS[name].activation for name in expected] == ["tanh", "relu", "relu"]
    assert NETS["burda_static"].dataset == "binarized_mnist"
    assert [NETS[f"salimans_{width}"].hidden for width in (300, 450, 800)] == [(300,), (450,), (800,)]
    cifar = NETS["cifar10"]
    assert (cifar.likelihood, cifar.architecture, cifar.activation) == (
        "discretised_logistic",
        "conv",
        "softplus",
    )
    vae, init_params, _ = describe_model(cifar.config(Elbo()), made_up("cifar10")).build()
    assert vae.latent_dim == 128
    assert jax.tree.leaves(jax.eval_shape(init_params, jax.random.key(0)))


def test_an_activation_reaches_the_net_and_its_folder():
    config = NETS["vlae"].config(Elbo())
    assert "relu" in config.folder.name
    with pytest.raises(
        ValueError, match="activation must be None or one of tanh, softplus, relu, elu, got 'gelu'"
    ):
        dataclasses.replace(config, activation="gelu")


def test_methods_survive_json_and_have_labels_of_their_own():
    for method in METHODS.values():
        assert method_from_json(json.loads(json.dumps(method_to_json(method)))) == method
        method.check(50)
        assert isinstance(method, BaseMethod)
    assert len({label(name) for name in METHODS}) == len(METHODS)
    assert label("vlae2") == "VLAE, T = 2"
    assert len({(method.tag, method.num_samples) for method in METHODS.values()}) == len(METHODS)
    # A run of before knew none of what was added since.
    values = method_to_json(Elbo(Fisher(num_centre_steps=1)))
    del values["path_gradient"], values["posterior"]["fresh"]
    assert method_from_json(values) == Elbo(Fisher(num_centre_steps=1))


def test_settings_of_methods_become_bounds():
    vae, _, num_features = describe_model(TrainConfig(), made_up("digits")).build()

    def bound_of(method):
        return method.build(vae, num_features)

    assert bound_of(Elbo()).gradient == TOTAL
    assert bound_of(Elbo(path_gradient=True)).gradient == PATH
    assert bound_of(Elbo(path_gradient=True, num_samples=3)).gradient == DOUBLY
    assert bound_of(Uha(num_samples=2)).name == "uha, 2 samples"
    with pytest.raises(ValueError, match="path_gradient would leave a distilled posterior untaught"):
        Elbo(Fisher(distillation=1.0), path_gradient=True)
    with pytest.raises(ValueError, match="fresh needs num_centre_steps of at least 1, got 0"):
        Fisher(fresh=True)
    # T metrics at the centres and one at the start, T gradients; a gradient a temperature and one for the start.
    assert METHODS["vlae2"].derivatives(50) == 3 * 50 + 2
    assert METHODS["uha8"].derivatives(50) == 8


def test_every_method_has_the_same_number_of_trials():
    assert [own.learning_rate for own in settings(Elbo(), 4, 1e-3)] == [1e-3, 2e-3, 5e-4, 4e-3]
    tried = settings(Hvi(initial_step_size=0.3), 4, 1e-3)
    assert [(own.learning_rate, round(own.initial_step_size or 0, 3)) for own in tried] == [
        (1e-3, 0.3),
        (1e-3, 0.1),
        (2e-3, 0.3),
        (2e-3, 0.1),
    ]
    assert tried[1].of(Hvi()).initial_step_size == pytest.approx(0.1)
    for method in METHODS.values():
        found = settings(method, 5, 1e-3)
        assert len(set(found)) == 5
        assert found[0].of(method) == method


def test_the_best_trial_is_taken_and_kept(tmp_path, monkeypatch):
    own = options(tmp_path, num_trials=4)
    (tmp_path / "runs/search").mkdir(parents=True)
    asked = []

    def trained(config):
        asked.append(config)
        if config.training.learning_rate == 4e-3:
            raise NotFiniteError("too fast")
        run = RunFolder(config.folder)
        run.records = lambda: [None]  # type: ignore[method-assign]
        return run

    scores = {1e-3: -90.0, 2e-3: float("nan"), 5e-4: -80.0}
    monkeypatch.setattr(searching, "trained", trained)
    monkeypatch.setattr(searching, "held_out", lambda run: scores[asked[-1].training.learning_rate])
    found = searching.search(own, "vae", 1)
    assert found["chosen"] == {"learning_rate": 5e-4, "initial_step_size": None}
    assert [trial["log_likelihood"] for trial in found["trials"]] == [-90.0, None, -80.0, None]
    assert len(asked) == 4
    assert all(config.num_validation and config.training.schedule == "cosine" for config in asked)
    assert {config.training.batch_size for config in asked} == {own.own.batch_size}
    chosen = searching.run_config(dataclasses.replace(own, batch_size=7), "vae", 0, Setting(1e-3), 1, "x")
    assert chosen.training.batch_size == 7
    assert searching.search(own, "vae", 1) == found
    assert len(asked) == 4
    with pytest.raises(ValueError, match="is another one .epochs was 1, is 2.; give another --folder"):
        searching.search(own, "vae", 2)
    assert searching.search(dataclasses.replace(own, num_trials=0), "vae", 1)["trials"] == []


def test_pieces_that_are_there_are_not_computed_again(tmp_path):
    values, calls = np.arange(7.0), []

    def compute(index, chosen):
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"value": values[chosen], "square": values[chosen] ** 2}

    with pytest.raises(KeyboardInterrupt):
        in_pieces(tmp_path, "some", 7, 3, compute)
    found = in_pieces(tmp_path, "some", 7, 3, compute)
    assert calls == [0, 1, 2, 2]
    np.testing.assert_array_equal(found["square"], values**2)


def test_equal_seconds_are_epochs_at_each_methods_pace(tmp_path):
    by_seconds = options(tmp_path, num_epochs=0, seconds=100.0)
    assert [published_run.epochs_of(by_seconds, pace) for pace in (1.0, 8.0, 1e6)] == [100, 12, 1]
    assert published_run.epochs_of(by_seconds, 1.0, 0.05) == 5
    assert published_run.epochs_of(options(tmp_path, num_epochs=7), 3.0) == 7


def test_settings_that_make_no_sense_are_refused(tmp_path):
    for changes, message in (
        ({"methods": ("gan",)}, "methods must be among vae, .*, got 'gan'"),
        ({"seeds": ()}, "at least one seed"),
        ({"seconds": 0.0}, "seconds must be"),
        ({"trial_share": 2.0}, "trial_share must be"),
        ({"made_images": 1}, "made_images must be a whole number of at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            options(tmp_path, **changes)
    with pytest.raises(ValueError, match="net must be one of digits, burda, .*, got 'lenet'"):
        PublishedConfig("lenet")


def test_paces_of_other_settings_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(published_run, "seconds_per_epoch", lambda configs, **_: dict.fromkeys(configs, 1.0))
    own = options(tmp_path, methods=("vae",))
    own.place.mkdir()
    assert published_run.paces(own) == published_run.paces(own) == {"vae": 1.0}
    for changes in ({"batch_size": 7}, {"optimizer": "muon"}, {"num_train": 500}):
        with pytest.raises(ValueError, match="give another --folder"):
            published_run.paces(dataclasses.replace(own, **changes))


def test_names_of_results_may_have_dots(tmp_path):
    first, second = (options(tmp_path, name=f"rate_0.0{digit}") for digit in (1, 2))
    assert with_ending(first.stem, ".json").name == "rate_0.01.json"
    assert with_ending(second.stem, ".md").name == "rate_0.02.md"


def test_a_method_that_cannot_be_trained_is_told_and_stops_no_other(tmp_path, monkeypatch):
    own = options(tmp_path, num_trials=0, methods=("vae", "iwae5"), num_epochs=1)
    tried = []

    def trained(config):
        tried.append(config.method)
        raise NotFiniteError("all steps were bad")

    monkeypatch.setattr(published_run, "trained", trained)
    monkeypatch.setattr(published_run, "seconds_per_epoch", lambda configs, **_: dict.fromkeys(configs, 1.0))
    report = published_run.published(own, "the command")
    assert tried == [METHODS["vae"], METHODS["iwae5"]]
    assert [failure["method"] for failure in report["failed"]] == ["VAE", "IWAE, K = 5"]
    assert "No method has been trained." in own.stem.with_suffix(".md").read_text()


@pytest.mark.slow
def test_a_comparison_from_end_to_end_that_repeats_nothing(tmp_path, monkeypatch):
    own = options(tmp_path, **SMALL)
    report = published_run.published(own, "the command")
    (found,) = report["rows"]
    assert found["num_seeds"] == 1
    assert np.isfinite(found["log_likelihood"]["mean"])
    assert found["log_likelihood"]["mean"] > found["bound"]["mean"]
    for ending in ("json", "md", "tex", "png"):
        assert (tmp_path / f"runs/published_digits.{ending}").stat().st_size > 100

    further = dataclasses.replace(own, start_from=own.place, folder=tmp_path / "further", learning_rate=1e-3)
    report_further = published_run.published(further, "the command")
    before, after = report_further["rows"]
    assert [before[name] for name in ("epochs", "bound")] == [1.0, found["bound"]]
    assert after["epochs"] == 2.0
    assert after["bound"]["mean"] > found["bound"]["mean"]
    assert len(report_further["curves"]["vae"][0]) == 2
    page = (tmp_path / "further/published_digits.md").read_text()
    assert "went on from the end of its run in runs, whose epochs" in page
    with pytest.raises(ValueError, match="must hold iwae5-seed0, trained to its end"):
        further.start_of("iwae5", 0)

    def refuse(*_, **__):
        raise AssertionError("what is there was made again")

    monkeypatch.setattr(searching, "train", refuse)
    monkeypatch.setattr(published_run, "seconds_per_epoch", refuse)
    monkeypatch.setattr("experiments.published.evaluation.estimate", refuse)
    assert published_run.published(own, "the command")["rows"] == report["rows"]
    with pytest.raises(ValueError, match="has no pace of iwae5"):
        published_run.published(dataclasses.replace(own, methods=("vae", "iwae5")), "the command")
    with pytest.raises(ValueError, match="is of another config: learning_rate"):
        published_run.published(dataclasses.replace(own, learning_rate=3e-3), "the command")
