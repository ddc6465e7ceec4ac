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


def test_the_configs_are_found():
    assert len(CONFIGS) > 20


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_field_is_not_is_refused_in_words(name):
    fields = dataclasses.fields(CONFIGS[name])
    needed = {
        own.name: NEEDED.get(own.name, "runs")
        for own in fields
        if own.default is dataclasses.MISSING and own.default_factory is dataclasses.MISSING
    }
    for own in fields:
        for junk in JUNK:
            said = None
            try:
                CONFIGS[name](**(needed | {own.name: junk}))
            except ValueError as error:
                said = str(error)
            assert said is None or len(said) > 10, (own.name, junk)
