"""How many bad inputs there are."""

from tests.fuzz import test_arrays, test_checkpoints, test_configs, test_files
from tests.support.fuzz import CASES


def test_there_are_thousands_of_bad_inputs():
    for module in (test_arrays, test_checkpoints, test_configs, test_files):
        assert any(name in CASES for name in vars(module))
    assert sum(CASES.values()) >= 2_000
