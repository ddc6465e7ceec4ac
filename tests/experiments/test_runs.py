"""The experiments: a run from its command line to its pictures, resumed runs, and what is refused before it is lost."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import configs
from experiments.configs import PRESETS, Elbo, FullCovariance, Hvi, Options, Rhvi, TrainConfig
from experiments.reporting import plots
from experiments.runs import evaluation as evaluate
from experiments.runs import model as runs
from experiments.runs import pictures as generate
from experiments.runs import training as train
from experiments.support import failures
from experiments.support.records import EpochRecord, Monitored
from hmcvae import bounds, data, training
from hmcvae.data import Dataset, loading
from hmcvae.data.dataset import FORMATS
from hmcvae.evaluation import Estimate
from hmcvae.solvers import exact_info
from hmcvae.training import NotFiniteError, loop
from tests.support.paths import REPOSITORY
from tests.support.runs import HVI, files_of, tiny, write_cifar

LIKELIHOOD_FIGURES = ("log_likelihood", "gap", "draws", "ess")
PICTURES = {"bound", "samples", "reconstructions", "interpolations", "manifold"}


def metrics_of(folder: Path) -> list[dict]:
    """The records, without the times."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record | {"seconds": 0} for record in records]


def assert_picture(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG"), path
    assert path.stat().st_size > 2000, path


# One whole run, and the commands on its folder.


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> tuple[Path, dict]:
    """(folder, result) of Hamiltonian variational inference on the digits; nobody writes into the folder."""
    folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
    config = tiny(folder, method=HVI, num_epochs=2)
    path, result = train.train(config, quiet=True)
    assert path == folder
    return folder, result


@pytest.fixture
def copied_run(whole_run, tmp_path) -> Path:
    return Path(shutil.copytree(whole_run[0], tmp_path / "run"))


def test_a_run_folder_holds_everything(whole_run):
    folder, result = whole_run
    config = runs.RunFolder(folder).config()
    assert config == tiny(folder, method=HVI, num_epochs=2)
    records = metrics_of(folder)
    assert [record["epoch"] for record in records] == [1, 2]
    assert all(-60 < record["bound"] < -40 and -60 < record["test_bound"] < -40 for record in records)
    assert records[1]["test_bound"] > records[0]["test_bound"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["jax"] == jax.__version__
    assert environment["data"]["source"] == "scikit-learn digits"
    assert {int(path.name) for path in (folder / "checkpoints").iterdir()} == {1, 2}
    assert not (folder / "best").exists()
    for name in PICTURES:
        assert_picture(folder / f"{name}.png")
    (events,) = (folder / "tensorboard").iterdir()
    assert b"test_bound" in events.read_bytes()
    assert json.loads((folder / "evaluation.json").read_text()) == result | {"epoch": 2}
    assert not list(folder.rglob("*.tmp"))


def test_a_runs_evaluation_has_both_proposals(whole_run):
    _, result = whole_run
    assert set(result["proposals"]) == {"encoder", "hvi"}
    assert (result["num_images"], result["num_samples"], result["latent_dim"]) == (12, 3, 2)
    for figures in result["proposals"].values():
        assert figures["log_likelihood"]["mean"] > figures["bound"]["mean"]
        assert figures["bound"]["error"] > 0
        assert (figures["nonfinite"], figures["unconverged"]) == (0.0, 0.0)
    lines = evaluate.table(result).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["proposal", "encoder", "hvi", "caution:", "caution:"]
    assert "effective size of" in lines[4]
    bound = result["proposals"]["hvi"]["bound"]
    assert f"{bound['mean']:.2f} ± {bound['error']:.2f}" in lines[3]


@pytest.mark.slow
def test_evaluation_of_a_k_sample_bound_has_the_bound_that_was_trained():
    """The 4-sample bound lies above the bound of one draw, and is not the many-draw estimate."""
    config = tiny(Path("unused"), method=Elbo(num_samples=4))
    dataset = runs.load_data(config)
    model = runs.build(config, dataset)
    examples = runs.test_examples(model, dataset, 12)
    result = evaluate.evaluate(config, model, model.params, examples, num_samples=200)
    encoder = result["proposals"]["encoder"]
    assert encoder["bound"]["mean"] < result["trained_bound"]["mean"] < encoder["log_likelihood"]["mean"]


@pytest.mark.slow
def test_annealing_comes_with_its_sandwich_and_the_size_of_its_weights():
    """In the coordinates that were trained, on test images and on as many made ones as there are quarters of them."""
    config = tiny(
        Path("unused"), method=dataclasses.replace(HVI, posterior=FullCovariance(num_centre_steps=1))
    )
    dataset = runs.load_data(config)
    model = runs.build(config, dataset)
    examples = runs.test_examples(model, dataset, 12)
    result = evaluate.evaluate(
        config, model, model.params, examples, num_samples=200, num_temperatures=200, num_chains=4
    )
    ais, made = result["ais"], result["ais"]["made"]
    assert 1 <= ais["effective_sample_size"] <= 4
    assert (made["num_images"], ais["num_temperatures"], ais["num_chains"]) == (3, 200, 4)
    assert made["width"]["mean"] == pytest.approx(made["upper"]["mean"] - made["lower"]["mean"], abs=1e-9)
    # With 20 temperatures the width is 0.5; it falls as one over their number.
    assert abs(made["width"]["mean"]) < 0.2
    # Both are from below, and these importance weights are the worse ones.
    assert ais["mean"] > result["proposals"]["encoder"]["log_likelihood"]["mean"] - 0.1
    assert f"a width of {made['width']['mean']:.2f}" in evaluate.table(result)


def test_evaluate_goes_over_a_run(copied_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", str(copied_run), "--num-samples", "4", "--num-images", "6"])
    before = (copied_run / "evaluation.json").read_text()
    evaluate.main()
    assert (copied_run / "evaluation.json").read_text() == before, (
        "the training's evaluation was written over"
    )
    result = json.loads((copied_run / "evaluation-epoch2-k4-n6-seed0.json").read_text())
    assert (result["num_images"], result["num_samples"], result["epoch"]) == (6, 4, 2)
    assert f"epoch 2 of {copied_run}" in capsys.readouterr().out


def test_generate_draws_the_pictures_of_a_run(copied_run, monkeypatch, capsys):
    for path in copied_run.glob("*.png"):
        path.unlink()
    monkeypatch.setattr(sys, "argv", ["generate", str(copied_run), "--num-samples", "20"])
    generate.main()
    for name in PICTURES - {"bound"}:
        assert_picture(copied_run / f"{name}.png")
    assert str(copied_run / "manifold.png") in capsys.readouterr().out


def test_a_run_folder_that_exists_is_not_touched(copied_run):
    before = files_of(copied_run)
    with pytest.raises(
        FileExistsError, match=f"{copied_run} exists and is not empty; go on with it by --resume"
    ):
        train.train(tiny(copied_run, method=HVI), quiet=True)
    assert files_of(copied_run) == before
    file = copied_run / "config.json"
    with pytest.raises(FileExistsError, match=r"config.json exists"):
        train.train(tiny(file), quiet=True)
    assert files_of(copied_run) == before


def test_a_run_of_another_config_is_not_resumed(copied_run):
    before = files_of(copied_run)
    other = tiny(copied_run, resume=True, latent_dim=3, learning_rate=0.5, eval_samples=7, num_epochs=9)
    with pytest.raises(ValueError, match="has another config") as caught:
        train.train(other, quiet=True)
    listed = str(caught.value).split(": ", 1)[1].split("; ")
    assert listed == ["latent_dim: 2 -> 3", "method: Hvi -> Elbo", "learning_rate: 0.001 -> 0.5"]
    assert files_of(copied_run) == before


def test_a_run_on_other_images_is_not_resumed(copied_run):
    """tensorflow-datasets shuffles what the idx files have in order: another run, though of the same set."""
    config = runs.RunFolder(copied_run).config()
    dataset = runs.load_data(config)
    resumed = dataclasses.replace(config, resume=True)
    runs.RunFolder(copied_run).create(resumed, dataset)
    before = files_of(copied_run)
    turned = dataset._replace(train=dataset.train[::-1].copy(), source="elsewhere")
    with pytest.raises(ValueError, match="expected those from scikit-learn digits, got elsewhere"):
        runs.RunFolder(copied_run).create(resumed, turned)
    assert files_of(copied_run) == before


def test_a_folder_without_a_run_is_named(tmp_path):
    for action in (
        lambda: runs.load_run(tmp_path),
        lambda: train.train(tiny(tmp_path, resume=True), quiet=True),
    ):
        with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path}"):
            action()
    assert not list(tmp_path.iterdir())


def test_a_config_that_cannot_be_read_is_named(copied_run):
    path = copied_run / "config.json"
    for text, message in (("{", "cannot be read as a config"), ('{"a": 1}', "must have the fields")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            runs.RunFolder(copied_run).config()
        assert str(path) in str(caught.value)


def test_a_corrupted_checkpoint_stops_a_resumed_run_and_nothing_is_lost(copied_run):
    (copied_run / "checkpoints" / "2" / "state" / "_METADATA").write_text("{")
    before = files_of(copied_run)
    config = dataclasses.replace(runs.RunFolder(copied_run).config(), run_dir=copied_run, resume=True)
    with pytest.raises(ValueError, match="checkpoints/2 is corrupted: .* away to go on from epoch 1"):
        train.train(config, quiet=True)
    after = files_of(copied_run)
    assert json.loads(after.pop("config.json"))["resume"] is True
    before.pop("config.json")
    assert after == before


def test_a_run_without_a_best_state_is_loaded_from_its_newest(copied_run):
    (copied_run / "best").mkdir()
    *_, epoch = runs.load_run(copied_run)
    assert epoch == 2


# Runs that are stopped and go on.


COMPILED: dict = {}


@pytest.fixture
def finished(monkeypatch) -> list:
    """Runs without their evaluation and pictures: the states that `finish` was given. Runs of one model share what
    was compiled for it (`COMPILED`), whatever their number of epochs."""
    states: list = []
    make_epoch, make_monitor, build = loop.make_epoch, training.make_monitor, train.build
    make_optimizer = Options.optimizer  # of a constant rate in these runs

    def epoch(bound, optimizer, options, *rest):
        key = ("epoch", bound, optimizer, dataclasses.replace(options, num_epochs=1, patience=0), *rest)
        return COMPILED.get(key) or COMPILED.setdefault(key, make_epoch(bound, optimizer, options, *rest))

    def optimizer(self, num_batches):
        key = ("optimizer", self.learning_rate)
        return COMPILED.get(key) or COMPILED.setdefault(key, make_optimizer(self, num_batches))

    def monitor(*args):
        return COMPILED.get(args) or COMPILED.setdefault(args, make_monitor(*args))

    def model(config, dataset):
        return COMPILED.get("model") or COMPILED.setdefault("model", build(config, dataset))

    monkeypatch.setattr(loop, "make_epoch", epoch)
    monkeypatch.setattr(Options, "optimizer", optimizer)
    for module in (loop, training):
        monkeypatch.setattr(module, "make_monitor", monitor)
    monkeypatch.setattr(train, "build", model)
    monkeypatch.setattr(
        train, "finish", lambda config, run, dataset, model, state, *rest: states.append(state)
    )
    return states


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, monkeypatch, finished):
    """Killed between the second epoch's checkpoint and its line in metrics.jsonl, of which a piece was written."""
    train.train(tiny(tmp_path / "whole"), quiet=True)
    log = runs.RunFolder.log

    def die_at_two(self, record):
        if record["epoch"] == 2:
            with self.metrics_path.open("a") as file:
                file.write('{"epoch": 2, "bou')
            raise Killed
        log(self, record)

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "log", die_at_two)
        with pytest.raises(Killed):
            train.train(tiny(folder), quiet=True)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"1", "2"}
    COMPILED.clear()  # as in the process that goes on
    train.train(tiny(folder, resume=True), quiet=True)
    assert [record["epoch"] for record in metrics_of(folder)] == [1, 2, 3]
    assert metrics_of(folder) == metrics_of(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, *finished)


def test_a_run_goes_on_for_more_epochs(tmp_path, finished):
    train.train(tiny(tmp_path / "run", num_epochs=1), quiet=True)
    first = metrics_of(tmp_path / "run")
    train.train(tiny(tmp_path / "run", num_epochs=2, resume=True), quiet=True)
    assert metrics_of(tmp_path / "run")[:1] == first
    assert [record["epoch"] for record in metrics_of(tmp_path / "run")] == [1, 2]
    assert [int(state.epoch) for state in finished] == [1, 2]
    train.train(tiny(tmp_path / "run", num_epochs=2, resume=True), quiet=True)  # nothing left to train
    assert len(metrics_of(tmp_path / "run")) == 2
    jax.tree.map(np.testing.assert_array_equal, finished[2], finished[1])


def test_monitoring_log_likelihood_adds_to_the_record_and_changes_nothing_else(tmp_path, finished):
    train.train(tiny(tmp_path / "plain"), quiet=True)
    train.train(tiny(tmp_path / "monitored", monitor_samples=3), quiet=True)
    jax.tree.map(np.testing.assert_array_equal, *finished)
    records = metrics_of(tmp_path / "monitored")
    added = [{f"test_{name}": r.pop(f"test_{name}") for name in LIKELIHOOD_FIGURES} for r in records]
    assert records == metrics_of(tmp_path / "plain")
    assert [figures["test_draws"] for figures in added] == [3, 3, 3]
    assert all(figures["test_gap"] > 0 for figures in added)
    assert added[0]["test_log_likelihood"] < added[2]["test_log_likelihood"] < -20
    # A run of before goes on with it, and its first epochs stay as they were.
    train.train(tiny(tmp_path / "plain", num_epochs=4, monitor_samples=3, resume=True), quiet=True)
    assert ["test_draws" in record for record in metrics_of(tmp_path / "plain")] == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("epochs", "recorded", "expected"),
    [([], 0, 0), ([1, 2], 2, 2), ([2, 3], 2, 2), ([1], 0, 0), ([2, 3], 1, 2), ([3], 2, 3), ([1, 2], 5, 2)],
)
def test_where_a_run_goes_on(tmp_path, epochs, recorded, expected):
    run = runs.RunFolder(tmp_path)
    run.metrics_path.write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in range(1, recorded + 1)))
    assert run.start_epoch(epochs) == expected


@pytest.mark.filterwarnings("ignore::hmcvae.training.TrainingWarning")
def test_the_best_state_on_validation_is_the_one_that_is_used(tmp_path, finished):
    """With an absurd learning rate the bound soon falls, and the newest state is not the best."""
    config = tiny(tmp_path / "run", num_validation=100, patience=2, learning_rate=1.0, num_epochs=20)
    train.train(config, quiet=True)
    values = [record["validation_bound"] for record in metrics_of(config.run_dir)]
    best = 1 + int(np.argmax(values))
    assert len(values) == best + 2 < 20
    assert [int(state.epoch) for state in finished] == [best]
    *_, params, epoch = runs.load_run(config.run_dir)
    assert epoch == best
    jax.tree.map(np.testing.assert_array_equal, params, finished[0].params)


# Configs and the command line.


def test_the_command_line_changes_a_preset():
    assert configs.parse([]) == PRESETS["digits"] == TrainConfig()
    parsed = configs.parse(
        [
            "--latent-dim",
            "3",
            "--preset",
            "mnist_vae",
            "--num-epochs",
            "7",
            "--hidden",
            "5",
            "4",
            "--run-dir",
            "x",
        ]
    )
    mnist = PRESETS["mnist_vae"]
    options = dataclasses.replace(mnist.training, num_epochs=7)
    expected = dataclasses.replace(mnist, latent_dim=3, hidden=(5, 4), training=options, run_dir=Path("x"))
    assert parsed == expected
    assert configs.parse(["--preset=mnist_vae"]) == mnist


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "nope"], "preset must be one of digits, .*, got 'nope'"),
        (["--preset=nope"], "preset must be one of digits, .*, got 'nope'"),
        (["--num-steps", "-1"], "num_steps must be a whole number of at least 0, got -1"),
    ],
)
def test_unknown_presets_and_bad_fields_of_a_method_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        configs.parse(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "svhn"], "dataset must be one of digits, mnist, .* got 'svhn'"),
        (["--preset", "digits_vae", "--num-steps", "2"], "Unrecognized options: --num-steps"),
        (["--num-epochs", "-1"], "num_epochs must be a whole number of at least 1, got -1"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number .*, got nan"),
        (["--colour", "red"], "Unrecognized options: --colour"),
    ],
)
def test_bad_arguments_end_with_their_message(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        configs.parse(arguments)
    assert caught.value.code == 2
    words = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert re.search(message, words), words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "svhn"}, "dataset must be one of digits, mnist, .* got 'svhn'"),
        ({"method": None}, "method must be one of Elbo, Hvi, Rhvi, got None"),
        ({"likelihood": "poisson"}, "likelihood must be one of bernoulli, .* got 'poisson'"),
        ({"monitor_samples": -1}, "monitor_samples must be a whole number of at least 0, got -1"),
        ({"eval_samples": 0}, "eval_samples must be a whole number of at least 1, got 0"),
        ({"eval_images": -1}, "eval_images must be a whole number of at least 0, got -1"),
        ({"eval_images": 1}, "eval_images must be 0 .all. or at least 2, .* got 1"),
        ({"training": Options(patience=3)}, "patience = 3 needs num_validation > 0, got 0"),
    ],
)
def test_configs_that_cannot_be_run_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be a whole number of at least 1, got 0"),
        ({"batch_size": 1501}, "batch_size must be at most the number of training examples, 1500, got 1501"),
        ({"likelihood": "discretised_logistic"}, "needs 8-bit pixels .* got digits with 0 … 16"),
        ({"num_validation": 1500}, "expected num_validation <= 1499"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train.train(tiny(tmp_path / "run", **({"method": HVI} | changes)), quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_unknown_preset_is_one_line_on_the_command_line():
    command = [sys.executable, "-m", "experiments.train", "--preset", "nope"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: preset must be one of digits, ")


@pytest.mark.parametrize(
    "kind", [ValueError, FileExistsError, FileNotFoundError, ImportError, NotFiniteError]
)
def test_errors_that_a_user_can_mend_end_in_their_message(kind):
    def main():
        raise kind("do this")

    with pytest.raises(SystemExit, match="error: do this"):
        failures.fail_cleanly(main)


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        failures.fail_cleanly(lambda: 1 / 0)


def made_up(name: str, num_images: int = 4) -> Dataset:
    """Images of a data set's shape and range, without its files."""
    shape, max_value = FORMATS[name][:2]
    pixels = np.random.default_rng(0).integers(0, max_value + 1, (num_images, *shape), np.uint8)
    return Dataset(name, pixels, pixels[:0], pixels, max_value, "made up")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_gives_a_log_weight(name):
    config = configs.preset(name)
    assert configs.from_json(configs.to_json(config)) == config
    dataset = made_up(config.dataset)

    def log_weights():
        model = runs.build(config, dataset)
        x = model.preprocess(jax.random.key(0), jnp.asarray(dataset.test))
        keys = jax.random.split(jax.random.key(1), len(x))
        return jax.vmap(model.bound, (None, 0, 0))(model.params, keys, x)[0]

    shape = jax.eval_shape(log_weights)
    assert (shape.shape, shape.dtype) == ((4,), jnp.float32)


def test_presets_have_the_method_of_their_name():
    for name, config in PRESETS.items():
        assert name.startswith(config.dataset.split("_")[0])
        own = config.method.tag.partition("-")[0]
        assert own in name or config.method.posterior.tag or name in ("digits", "digits_2d", "mnist_2d")
        assert config.folder.name.startswith(f"{config.dataset}-{own}")
    assert len({config.folder for config in PRESETS.values()}) == len(PRESETS)


def test_configs_of_another_version_are_refused():
    values = configs.to_json(TrainConfig())
    with pytest.raises(ValueError, match="a run's config must have the fields"):
        configs.from_json({name: value for name, value in values.items() if name != "method"})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("hvi", "a run's method must have a kind among Elbo, Hvi, Rhvi, got 'hvi'"),
        ({"kind": "Gan"}, "must have a kind among"),
        ({"kind": "Elbo", "posterior": {"kind": "Encoder"}}, r"a run's method must have the fields \["),
        (
            {"kind": "Elbo", "num_samples": 1, "posterior": {"kind": "Flow"}},
            "a run's posterior must have a kind",
        ),
        (
            {"kind": "Elbo", "num_samples": 1, "posterior": {"kind": "Encoder", "rank": 1}},
            "got .'rank'.: was it",
        ),
    ],
)
def test_methods_of_another_version_are_refused(method, message):
    with pytest.raises(ValueError, match=message):
        configs.method_from_json(method)


def test_only_the_length_of_a_run_without_a_schedule_is_free():
    def with_options(**options):
        return TrainConfig(training=Options(**options))

    assert not configs.differences(with_options(num_epochs=3), with_options(num_epochs=5))
    cosine = {"schedule": "cosine"}
    changed = configs.differences(with_options(num_epochs=3, **cosine), with_options(num_epochs=5, **cosine))
    assert changed == ["num_epochs: 3 -> 5"]
    free = TrainConfig(run_dir=Path("a"), data_dir=Path("b"), resume=True, eval_samples=3, monitor_samples=2)
    assert not configs.differences(TrainConfig(), free)
    assert configs.differences(TrainConfig(), TrainConfig(hidden=(5,))) == ["hidden: [100, 100] -> [5]"]
    assert configs.differences(TrainConfig(), TrainConfig(method=Hvi(num_steps=2))) == [
        "method.num_steps: 4 -> 2"
    ]
    found = configs.differences(TrainConfig(method=Elbo()), TrainConfig(method=Elbo(FullCovariance(rank=1))))
    assert found == ["posterior: Encoder -> FullCovariance"]
    found = configs.differences(
        TrainConfig(method=Elbo(FullCovariance())), TrainConfig(method=Elbo(FullCovariance(rank=1)))
    )
    assert found == ["posterior.rank: 0 -> 1"]


# What a run reads and draws.


def test_pixels_that_are_not_whole_numbers_in_range_are_refused(tmp_path, monkeypatch):
    images = np.zeros((5, 32, 32, 3), np.float32)
    images[2, 0, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"cifar10, train images from .*: expected uint8 .* got float32"):
        train.train(write_cifar(tmp_path, images), quiet=True)
    with pytest.raises(
        ValueError, match=r"expected pixels in \[0, 1.0\], got 1 NaN, .* images\[2, 0, 1, 2\] = nan"
    ):
        data.check_pixels(images, 1.0)
    from sklearn import datasets

    digits = datasets.load_digits()
    digits.images[7, 0, 0] = 99
    monkeypatch.setattr(datasets, "load_digits", lambda: digits)
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 16\], got 0 NaN, 0 negative and 1 above"):
        train.train(tiny(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_every_source_passes_the_same_check(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        loading, "check_pixels", lambda images, max_value: seen.append((len(images), max_value))
    )
    runs.load_data(tiny(tmp_path))
    runs.load_data(write_cifar(tmp_path, np.zeros((5, 32, 32, 3), np.uint8)))
    assert seen == [(1500, 16), (297, 16), (5, 255), (5, 255)]


def test_missing_data_says_what_to_do(tmp_path):
    config = dataclasses.replace(PRESETS["mnist_vae"], data_dir=tmp_path, run_dir=tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"no data for 'mnist'(.|\n)*--data-dir(.|\n)*--download"):
        train.train(config, quiet=True)
    assert not (tmp_path / "run").exists()


def test_test_examples_are_even_and_the_same_for_every_run():
    dataset = made_up("mnist", 10)
    grey_model, model = (SimpleNamespace(preprocess=training.Pixels(255, bits)) for bits in (False, True))
    grey = np.asarray(runs.test_examples(grey_model, dataset, 4))
    np.testing.assert_allclose(grey, dataset.test[[0, 3, 6, 9]] / 255, rtol=1e-6)
    bits = runs.test_examples(model, dataset, 0)
    assert bits.shape == (10, 28, 28, 1)
    assert set(np.unique(bits)) == {0.0, 1.0}
    np.testing.assert_array_equal(bits, runs.test_examples(model, dataset, 0))


def test_monitored_images_are_of_the_validation_set_or_else_even_test_images():
    dataset = made_up("digits", 2500)
    split, images = runs.monitored_images(dataset)
    assert (split, len(images)) == ("test", 1000)
    np.testing.assert_array_equal(images[[0, -1]], dataset.test[[0, -1]])
    split, images = runs.monitored_images(dataset._replace(validation=dataset.train[:3]))
    assert split == "validation"
    np.testing.assert_array_equal(images, dataset.train[:3])


def stub(vae):
    """A bound whose log weight is the number of bits set, and ±1 with even odds."""

    def weigh(params, rng_key, x, kl_weight):
        weight = jnp.sum(x) + jax.random.rademacher(rng_key, (), jnp.float32)
        return weight, bounds.BoundInfo(weight, weight, x, x, weight, exact_info(x.dtype))

    return bounds.Bound(vae, lambda _: {}, lambda params, key, x: x, weigh, "stub")


def test_log_likelihood_is_that_of_the_monitored_bits():
    dataset = made_up("mnist", 200)
    config = tiny(Path("unused"), monitor_samples=2000)
    model = runs.build(config, dataset)
    model = dataclasses.replace(model, eval_bound=stub(model.vae))
    key = jax.random.key(3)
    monitor = evaluate.make_likelihood_monitor(config, model, key, dataset.test)
    figures = monitor(model.params)
    assert monitor(model.params) == figures
    bits = training.preprocess_all(model.preprocess, jax.random.split(key)[0], jnp.asarray(dataset.test))
    count = float(np.asarray(bits).sum(axis=(1, 2, 3)).mean())
    assert figures.draws == 2000
    # Of draws ±1: log mean exp is log cosh 1. Its standard error is tanh 1 / √(2000 × 200).
    assert figures.log_likelihood == pytest.approx(count + np.log(np.cosh(1)), abs=0.006)
    assert figures.gap == pytest.approx(np.log(np.cosh(1)), abs=0.006)
    # One draw an image: a standard error of 0.07. Of other bits it is 0.8.
    bound_fn = training.make_monitor(model.eval_bound, model.preprocess)
    assert float(bound_fn(model.params, key, jnp.asarray(dataset.test))) == pytest.approx(count, abs=0.25)


def test_what_is_monitored_of_rhvi_solves_to_tolerance():
    """Its training does not: with one iteration a solve, hardly any is converged."""
    config = tiny(
        Path("unused"), method=Rhvi(num_iterations=1, num_steps=1, initial_step_size=0.3, reverse_hidden=4)
    )
    model = runs.build(config, made_up("mnist", 4))
    keys, x = jax.random.split(jax.random.key(0), 8), jnp.zeros((28, 28, 1))

    def share(bound):
        return float(jnp.mean(jax.vmap(lambda key: bound(model.params, key, x)[1].solver.converged)(keys)))

    assert share(model.bound) < 0.5
    assert share(model.eval_bound) == 1.0
    flat = runs.build(tiny(Path("unused"), method=HVI), made_up("mnist", 4))
    assert flat.eval_bound is flat.bound


def test_log_likelihood_takes_an_even_few_of_many_images_and_whole_terms_of_a_k_sample_bound(monkeypatch):
    dataset = made_up("mnist", 300)
    config = tiny(Path("unused"), method=Elbo(num_samples=3), monitor_samples=4)
    model = runs.build(config, dataset)
    seen = {}

    def spy(bound, params, rng_key, examples, *, num_samples, batch_size):
        seen.update(bound=bound, examples=examples, num_terms=num_samples)
        return Estimate(*(jnp.zeros(2) for _ in Estimate._fields))

    monkeypatch.setattr(evaluate, "estimate", spy)
    monitor = evaluate.make_likelihood_monitor(config, model, jax.random.key(0), dataset.test)
    assert monitor(model.params).draws == 6
    assert seen["num_terms"] == 2
    assert seen["bound"].name == model.bound.name
    x = training.preprocess_all(
        model.preprocess, jax.random.split(jax.random.key(0))[0], jnp.asarray(dataset.test)
    )
    assert len(seen["examples"]) == evaluate.NUM_WEIGHTED == 200
    np.testing.assert_array_equal(np.asarray(seen["examples"])[[0, 1, 2, -1]], np.asarray(x)[[0, 1, 3, -1]])


def test_log_likelihood_needs_a_bound_that_can_be_weighted():
    dataset = made_up("mnist", 4)
    config = tiny(Path("unused"), monitor_samples=2)
    model = runs.build(config, dataset)
    model = dataclasses.replace(model, bound=bounds.elbo(model.vae, kl="analytic"))
    with pytest.raises(ValueError, match="monitor_samples needs a bound .* got 2 and elbo, analytic KL"):
        evaluate.make_likelihood_monitor(config, model, jax.random.key(0), dataset.test)
    off = dataclasses.replace(config, monitor_samples=0)
    monitor = evaluate.make_likelihood_monitor(off, model, jax.random.key(0), dataset.test)
    assert monitor(model.params) is None


def test_derivatives_are_counted_for_every_sample():
    assert PRESETS["mnist_vae"].derivatives_per_image == 1
    assert PRESETS["mnist_iwae"].derivatives_per_image == 5
    assert PRESETS["mnist_hvi"].derivatives_per_image == 5
    assert PRESETS["mnist_fisher"].derivatives_per_image == 4 + 1 + 1 + 20
    # Two steps and a start, each with a metric; their gradients; the posterior's metric; one step of the centre.
    assert PRESETS["mnist_rhvi"].derivatives_per_image == 3 * 20 + 3 + 20 + 1
    assert Hvi(num_transitions=3, num_steps=2, annealed=True).derivatives(20) == 3 * (2 + 1)


def test_bound_curves_are_drawn_over_gaps(tmp_path):
    """A bound that is not finite in some epoch, or in all, costs no picture."""
    for name, values in (("some", [-5.0, float("nan"), -3.0, float("-inf")]), ("all", [float("nan")])):
        records = [
            EpochRecord(epoch, value, 1.0, 0.0, 0, 0, Monitored("test", value))
            for epoch, value in enumerate(values, start=1)
        ]
        plots.bound_curves("a", records, tmp_path / f"{name}.png", "title")
        assert_picture(tmp_path / f"{name}.png")


def test_tiles_stand_row_by_row_with_gaps_between():
    images = np.arange(3)[:, None, None, None] * np.full((3, 2, 2, 1), 0.25)
    picture = plots.tile(images, 2)[..., 0]
    assert picture.shape == (7, 7)
    gaps = np.ones(7, bool)
    gaps[[1, 2, 4, 5]] = False
    assert np.all(picture[gaps] == 1)
    assert np.all(picture[:, gaps] == 1)
    assert [picture[1, 1], picture[1, 4], picture[4, 1], picture[4, 4]] == [0, 0.25, 0.5, 1]
