"""How many bad inputs there are."""

import importlib

from tests.support.fuzz import CASES


def test_there_are_thousands_of_bad_inputs():
    for name in ("test_arrays", "test_checkpoints", "test_configs", "test_files"):
        module = importlib.import_module(f"tests.fuzz.{name}")
        assert any(case in CASES for case in vars(module))
    assert sum(CASES.values()) >= 2_000
