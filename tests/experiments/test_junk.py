"""Every field of every script's config, given what it is not: refused by a ValueError with words, or allowed."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import experiments

JUNK = ([], {}, [[]], ([],), ({},), object(), "no such", ("no such",), -5, float("nan"), None, True)
# Fields without a default.
NEEDED = {"net": "burda"}


def _configs() -> dict[str, type]:
    found = {}
    for module in pkgutil.walk_packages(experiments.__path__, "experiments."):
        if not module.name.endswith("__main__"):
            members = vars(importlib.import_module(module.name)).values()
            found |= {
                f"{own.__module__}.{own.__name__}": own
                for own in members
                if inspect.isclass(own) and dataclasses.is_dataclass(own) and own.__name__.endswith("Config")
            }
    return found


CONFIGS = _configs()


def _needed(name: str) -> dict:
    return {
        own.name: NEEDED.get(own.name, "runs")
        for own in dataclasses.fields(CONFIGS[name])
        if own.default is dataclasses.MISSING and own.default_factory is dataclasses.MISSING
    }


def test_the_configs_are_found():
    assert len(CONFIGS) > 20


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_field_is_not_is_refused_in_words(name):
    for own in dataclasses.fields(CONFIGS[name]):
        for junk in JUNK:
            said = None
            try:
                CONFIGS[name](**(_needed(name) | {own.name: junk}))
            except ValueError as error:
                said = str(error)
            assert said is None or len(said) > 10, (own.name, junk)


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_are_refused_below_zero_and_where_they_are_none(name):
    for own in dataclasses.fields(CONFIGS[name]):
        is_tuple = isinstance(own.default, tuple) and own.default
        number = own.default[0] if is_tuple else own.default
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        for junk in (-5, float("nan"), "no such"):
            with pytest.raises(ValueError, match="."):
                CONFIGS[name](**(_needed(name) | {own.name: (junk,) if is_tuple else junk}))
