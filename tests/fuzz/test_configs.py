"""Configs that are not what they should be: valid after all, or refused in words."""

import contextlib
import dataclasses
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hmcvae
from experiments.configs import PRESETS, TrainConfig, from_json, parse, to_json
from experiments.runs.folder import RunFolder
from experiments.support.failures import fail_cleanly
from hmcvae.saved import Description
from tests.support.fuzz import JUNK, changed_json, fuzz, refusal

BASES = {name: to_json(PRESETS[name]) for name in ("digits", "mnist_fisher", "mnist_rhvi", "mnist_sketched")}
FLAGS = sorted({f"--{own.name.replace('_', '-')}" for own in dataclasses.fields(TrainConfig)})
FLAGS += [
    "--preset",
    "--num-epochs",
    "--learning-rate",
    "--batch-size",
    "--seed",
    "--schedule",
    "--num-steps",
]
FLAGS += ["--posterior", "--method", "--nothing", "-h", ""]
VALUES = st.one_of(
    st.sampled_from(
        ["digits", "mnist_fisher", "hvi", "1e400", "nan", "-1", "0", "1.5", "True", "None", "1_0", "auto"]
    ),
    st.integers(-5, 10**20).map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5),
)
DESCRIPTION = Description((8, 8, 1), 2, "gaussian", {"min_scale": 0.1}, "mlp", (4,), None, 16).to_json()


@fuzz(700)
@given(st.sampled_from(sorted(BASES)).flatmap(lambda name: changed_json(BASES[name])))
@example(BASES["digits"] | {"training": BASES["digits"]["training"] | {"optimizer": []}})
@example(BASES["digits"] | {"training": BASES["digits"]["training"] | {"schedule": {}}})
@example(BASES["digits"] | {"likelihood": [[]], "architecture": {}})
def test_a_changed_config_is_valid_or_refused(values):
    said = refusal(lambda: from_json(values), ValueError)
    if said is None:
        own = to_json(from_json(values))
        assert to_json(from_json(json.loads(json.dumps(own)))) == own
    else:
        assert len(said) > 10


@fuzz(150)
@given(JUNK)
@example([])
def test_what_is_no_config_is_refused(values):
    with pytest.raises(ValueError, match="config"):
        from_json(values)


@fuzz(150)
@given(st.sampled_from(sorted(BASES)).flatmap(lambda name: changed_json(BASES[name])))
def test_the_config_of_a_run_is_refused_with_its_name(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp() / "configs"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    said = refusal(lambda: RunFolder(folder).config(), ValueError)
    assert said is None or "config.json cannot be read as a config: " in said


def exit_of(function):
    """What a function ends the process with; None: it does not."""
    try:
        function()
    except SystemExit as end:
        return end.code


@fuzz(60)
@given(st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), max_size=3), st.booleans())
def test_a_command_line_is_a_config_or_ends_in_words(pairs, with_equals):
    arguments = [
        text for flag, value in pairs for text in ([f"{flag}={value}"] if with_equals else [flag, value])
    ]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = exit_of(lambda: fail_cleanly(lambda: parse(arguments)))
    assert code in (None, 0) or said.getvalue() or (isinstance(code, str) and len(code) > 10)


@fuzz(250)
@given(changed_json(DESCRIPTION))
def test_a_changed_description_of_a_model_is_refused_or_has_no_checkpoint(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp() / "models"
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps(values))
    with pytest.raises(
        (ValueError, FileNotFoundError), match=r"does not describe a model: .|no checkpoint in"
    ):
        hmcvae.load(folder)
