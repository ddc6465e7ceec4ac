"""Configs and their numbers: presets, the command line, what is refused, what a resumed run may change."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import configs
from experiments.comparison.run import CompareConfig
from experiments.configs import (
    PRESETS,
    Elbo,
    Fisher,
    FullCovariance,
    Hvi,
    Options,
    Rhvi,
    SketchedFisher,
    TrainConfig,
    parse,
)
from experiments.runs import model as runs
from experiments.runs.evaluation import EvaluateConfig
from experiments.runs.pictures import GenerateConfig
from experiments.samplers.comparison import SamplersConfig
from experiments.samplers.logistic import LogisticConfig
from experiments.study.run import StudyConfig
from tests.support.runs import made_up

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


def test_help_says_what_each_preset_is(capsys):
    with pytest.raises(SystemExit):
        configs.parse(["--help"])
    shown = capsys.readouterr().out
    for name in configs.PRESETS:
        assert re.search(rf"^ *{name} +\S.*latents$", shown, re.MULTILINE), name
    assert re.search(r"mnist_conv_hvi +HVI, 16 leapfrog steps; mnist, conv 450, 32 latents", shown)


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
    ("arguments", "rate"),
    [
        ([], 1e-3),
        (["--optimizer", "muon"], 1e-2),
        (["--preset", "mnist_conv_vae", "--optimizer", "muon"], 1e-2),
        (["--optimizer", "muon", "--learning-rate", "0.03"], 0.03),
        (["--learning-rate", "0.01"], 1e-2),
    ],
)
def test_each_optimizer_has_a_rate_of_its_own_where_none_is_given(arguments, rate):
    config = configs.parse(arguments)
    assert config.training.rate == rate == configs.to_json(config)["training"]["learning_rate"]


def test_a_run_goes_on_with_its_own_config(tmp_path):
    """No preset and no field need be told again; what is told is changed."""
    own = configs.parse(["--preset", "mnist_vae", "--latent-dim", "7", "--run-dir", str(tmp_path / "run")])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(configs.to_json(own)))
    again = ["--run-dir", str(tmp_path / "run"), "--resume"]
    assert configs.differences(own, configs.parse(again)) == []
    assert configs.parse(again).resume
    assert configs.parse([*again, "--num-epochs", "99"]).training.num_epochs == 99
    # A preset that is named is meant, and what cannot be read is told when the run is opened.
    assert configs.parse([*again, "--preset", "digits_vae"]).dataset == "digits"
    (tmp_path / "run" / "config.json").write_text("{")
    assert configs.parse(again) == dataclasses.replace(TrainConfig(), run_dir=tmp_path / "run", resume=True)


def test_a_rate_left_out_and_the_same_rate_given_are_one_training():
    """Folders of runs hold a number, those of earlier versions too."""
    own, given, other = (TrainConfig(training=Options(learning_rate=rate)) for rate in (None, 1e-3, 2e-3))
    assert configs.differences(own, given) == []
    assert configs.differences(own, other) == ["learning_rate: 0.001 -> 0.002"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "svhn"}, "dataset must be one of digits, mnist, .* got 'svhn'"),
        ({"method": None}, "method must be one of Elbo, Hvi, Hierarchical, Rhvi, Uha, got None"),
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


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_gives_a_log_weight(name):
    config = configs.preset(name)
    again = configs.from_json(configs.to_json(config))
    assert configs.to_json(again) == configs.to_json(config)
    assert configs.differences(again, config) == []
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
    with pytest.raises(ValueError, match="a run's config must have the fields"):
        configs.from_json(values | {"dropout": 0.5})
    # What was added since has its default.
    earlier = configs.from_json({name: value for name, value in values.items() if name != "devices"})
    assert configs.to_json(earlier) == values


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("hvi", "a run's method must have a kind among Elbo, Hvi, Hierarchical, Rhvi, Uha, got 'hvi'"),
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


def test_derivatives_are_counted_for_every_sample():
    assert PRESETS["mnist_vae"].derivatives_per_image == 1
    assert PRESETS["mnist_iwae"].derivatives_per_image == 5
    assert PRESETS["mnist_hvi"].derivatives_per_image == 5
    assert PRESETS["mnist_fisher"].derivatives_per_image == 4 + 1 + 1 + 20
    # Two steps and a start, each with a metric; their gradients; the posterior's metric; one step of the centre.
    assert PRESETS["mnist_rhvi"].derivatives_per_image == 3 * 20 + 3 + 20 + 1
    assert Hvi(num_transitions=3, num_steps=2, annealed=True).derivatives(20) == 3 * (2 + 1)
    assert PRESETS["mnist_hierarchical"].derivatives_per_image == PRESETS["mnist_hvi"].derivatives_per_image


# Numbers, checked when a config is made.

COUNTS = [
    (
        lambda **v: TrainConfig(**v),
        ["latent_dim", "eval_samples"],
    ),
    (lambda **v: Hvi(**v), ["num_samples", "num_transitions", "num_steps", "reverse_hidden"]),
    (lambda **v: Elbo(**v), ["num_samples"]),
    (lambda **v: Fisher(**v), ["num_centre_steps", "rank"]),
    (lambda **v: SketchedFisher(**v), ["num_probes"]),
    (lambda **v: Rhvi(**v), ["num_iterations"]),
    (
        lambda **v: EvaluateConfig(Path("x"), **v),
        ["num_samples", "num_images", "chunk_size", "num_chains", "seed"],
    ),
    (lambda **v: GenerateConfig(Path("x"), **v), ["num_samples", "seed"]),
    (lambda **v: CompareConfig(**v), ["eval_samples", "eval_images", "eval_temperatures"]),
    (lambda **v: StudyConfig(**v), ["decoder_epochs", "num_train", "num_chains"]),
    (lambda **v: SamplersConfig(**v), ["num_chains", "num_samples", "seed"]),
    (lambda **v: LogisticConfig(**v), ["num_runs", "num_samples", "num_warmup"]),
]


@pytest.mark.parametrize(("make", "name"), [(make, name) for make, names in COUNTS for name in names])
def test_counts_of_every_command_are_checked_and_normalised(make, name):
    for wrong in (True, 2.5, -1, 10**20, "3", None):
        with pytest.raises(ValueError, match=f"{name} must be"):
            make(**{name: wrong})
    assert type(getattr(make(**{name: np.int64(4)}), name)) is int


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (Hvi, {"num_transitions": 3_000_000_000}, "num_transitions must be a whole number .* got 3000000000"),
        (Hvi, {"num_transitions": 10_001}, "num_transitions must be at most 10000, got 10001"),
        (
            Hvi,
            {"num_transitions": 200, "num_steps": 200},
            "num_transitions times num_steps must be at most 10000",
        ),
        (Hvi, {"initial_step_size": -0.1}, "initial_step_size must be finite and greater than 0, got -0.1"),
        (Hvi, {"initial_step_size": float("nan")}, "initial_step_size must be finite"),
        (TrainConfig, {"hidden": (4, 10**6)}, "hidden must be at most 100000, got 1000000"),
        (Fisher, {"distillation": float("nan")}, "distillation must be a finite number of at least 0"),
        (Fisher, {"random_directions": True}, "random_directions needs a rank of at least 1, got 0"),
        (Rhvi, {"position_dependence": 1.5}, r"position_dependence must be a finite number in \[0, 1\]"),
    ],
)
def test_what_would_abort_the_process_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "mnist_iwae", "--num-samples", "3"], 3),
        (["--preset", "mnist_iwae"], 5),
        ([], 1),
    ],
)
def test_the_number_of_samples_is_the_presets_own_where_it_is_not_given(arguments, expected):
    assert parse(arguments).method.num_samples == expected
