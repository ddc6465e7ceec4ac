"""The kinds of public numbers, by themselves and wherever the library takes one."""

import dataclasses
import inspect
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import networks, training
from hmcvae._checks import check_count, check_positive, check_real, check_seed, check_vector
from tests.support.numbers_table import ROWS
from tests.support.paths import REPOSITORY

NAMES = [row.name for row in ROWS]


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """Complaints by row: see `tests.support.numbers_table`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.numbers_table"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_a_number_is_taken_in_every_form_and_nothing_else_is(found, name):
    assert not found[name], "\n".join(found[name])


# Arguments that are no numbers to check, or are arrays that are traced; by name, wherever they stand.
NO_NUMBERS = {"bool", "str", "Callable", "PyTree"}
MODULES = (
    "solvers",
    "geodesics",
    "transitions",
    "posteriors",
    "bounds",
    "samplers",
    "metrics",
    "integrators",
    "likelihoods",
    "evaluation",
    "annealing",
)


def numbers_of(function) -> set[str]:
    """The arguments whose annotation is a whole or a real number."""
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if inspect.formatannotation(parameter.annotation).strip("'")
        in ("int", "float", "int | None", "float | None")
    }


def test_the_table_has_every_number_of_every_public_function():
    """Those that are pure functions of arrays, called inside `jit`, aside."""
    inner = {"estimate_example", "summarise", "check_whole"}
    missing = set()
    for module_name in MODULES:
        module = getattr(hmcvae, module_name)
        for name, function in vars(module).items():
            if name.startswith("_") or name in inner or not inspect.isfunction(function):
                continue
            if not function.__module__.startswith(module.__name__):
                continue
            missing |= {f"{module_name}.{name}.{argument}" for argument in numbers_of(function)} - set(NAMES)
    for name in ("build_vae", "reverse_model"):
        missing |= {f"networks.{name}.{a}" for a in numbers_of(getattr(networks, name))} - set(NAMES)
    settings = {f"Settings.{field.name}" for field in dataclasses.fields(training.Settings)}
    assert not missing - KNOWN, sorted(missing - KNOWN)
    assert settings <= set(NAMES)


# Checked by another's row: an argument that is handed on, or one whose neighbours are in the table.
KNOWN = {
    "annealing.reverse_ais.num_temperatures",
    "annealing.reverse_ais.num_chains",
    "annealing.reverse_ais.num_steps",
    "annealing.reverse_ais.batch_size",
    "annealing.simulate.latent_dim",
    "bounds.hvi.latent_dim",
    "posteriors.full_covariance.initial_scale",
    "transitions.hamiltonian.latent_dim",
    "likelihoods.independent.num_outputs",
}


WHOLE = [2, np.int64(2), np.int8(2), np.uint64(2), np.array(2), jnp.array(2), jnp.uint8(2)]


@pytest.mark.parametrize("value", WHOLE)
def test_whole_numbers_come_back_as_pythons(value):
    for number in (check_count("n", value, 0), check_seed("n", value)):
        assert type(number) is int
        assert number == 2
    assert check_real("x", value) == 2.0
    assert check_positive("x", value) is value


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float16(0.5), np.array(0.5), jnp.bfloat16(0.5)])
def test_real_numbers_come_back_as_pythons(value):
    assert type(check_real("x", value)) is float
    assert check_real("x", value, 0, 1, is_open=True) == 0.5
    with pytest.raises(ValueError, match="n must be a whole number of at least 0.*, got "):
        check_count("n", value, 0)


@pytest.mark.parametrize(
    "value", [None, True, np.bool_(False), "2", 2j, [2], (2,), {}, np.array([2]), b"2", object()]
)
def test_what_is_no_number_is_none_of_any_kind(value):
    for check in (check_real, lambda name, v: check_count(name, v, 0), check_seed):
        with pytest.raises(ValueError, match="^x must be a .*number.*, got "):
            check("x", value)


@pytest.mark.parametrize(
    ("value", "minimum", "maximum", "is_open", "words"),
    [
        (-1, 0, np.inf, False, "of at least 0, got -1"),
        (0, 0, np.inf, True, "greater than 0, got 0"),
        (2, 0, 1, False, r"in \[0, 1\], got 2"),
        (1, 0, 1, True, r"in \(0, 1\), got 1"),
        (np.nan, -np.inf, np.inf, False, ", got nan"),
        (np.inf, 0, np.inf, False, "of at least 0, got inf"),
    ],
)
def test_ranges_are_said(value, minimum, maximum, is_open, words):
    with pytest.raises(ValueError, match=f"x must be a finite number.*{words}"):
        check_real("x", value, minimum, maximum, is_open=is_open)


def test_counts_have_room_for_loops_and_seeds_for_keys():
    assert check_count("n", 2**31 - 1, 0) == 2**31 - 1
    with pytest.raises(ValueError, match="at most 2147483647, got 2147483648"):
        check_count("n", 2**31, 0)
    assert check_seed("seed", 2**63 - 1) == 2**63 - 1
    for seed in (2**63, -1):
        with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
            check_seed("seed", seed)
    jax.random.key(2**63 - 1)


def test_traced_values_pass_unseen_where_they_may():
    def use(value):
        check_positive("x", value)
        return check_vector("z", jnp.ones(3) * value)

    np.testing.assert_array_equal(jax.jit(use)(-1.0), -np.ones(3))


def test_lists_become_arrays_and_none_passes_where_it_is_optional():
    np.testing.assert_array_equal(check_positive("x", [1, 2.5], is_array=True), [1.0, 2.5])
    assert check_positive("x", None, optional=True) is None
    for value in ([1.0], np.ones(2)):
        with pytest.raises(ValueError, match="x must be a positive number, got"):
            check_positive("x", value)
    for bad in ([1.0, -1.0], [], [[1.0], [1.0, 2.0]], ["a"], [True]):
        with pytest.raises(ValueError, match="x must be"):
            check_positive("x", bad, is_array=True)


@pytest.mark.parametrize("value", [1.0, [1, 2], [[1.0]], jnp.array([1.0, jnp.nan]), np.array([1.0, np.inf])])
def test_vectors_are_floats_finite_and_of_one_axis(value):
    with pytest.raises(ValueError, match="z must be"):
        check_vector("z", value)
