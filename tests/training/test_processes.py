"""Training by several processes on this machine: the curves of one, one writer, errors that all of them see."""

import json
import subprocess

import numpy as np
import pytest

from tests.support.processes import free_port, output_of, start_module

BOUNDS = ("elbo", "hvi", "fisher", "rhvi")


def start(num_processes: int, num_devices: int, *arguments: str) -> list[subprocess.Popen]:
    """tests/support/on_devices.py in so many processes of so many devices each."""
    common = ["processes", f"127.0.0.1:{free_port()}", str(num_processes)]
    return [
        start_module("tests.support.on_devices", *common, str(index), *arguments, num_devices=num_devices)
        for index in range(num_processes)
    ]


def results(processes: list[subprocess.Popen]) -> list[dict]:
    return [json.loads(output_of(process, 1500).splitlines()[-1]) for process in processes]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return results(start(1, 1, str(tmp_path_factory.mktemp("alone"))))[0]


@pytest.mark.slow
@pytest.mark.parametrize(("num_processes", "num_devices"), [(2, 2), (4, 1)])
def test_processes_train_as_one(alone, tmp_path, num_processes, num_devices):
    for index, own in enumerate(results(start(num_processes, num_devices, str(tmp_path)))):
        names = BOUNDS if num_processes < 4 else ("elbo", "hvi")
        for name in (*names, "stream"):
            for key in ("bound", "validation_bound", "grad_norm", "energy_error"):
                np.testing.assert_allclose(own[name][key], alone[name][key], rtol=1e-5)
        np.testing.assert_allclose(own["resumed"]["bound"], alone["elbo"]["bound"][2:], rtol=1e-5)
        assert (own["epochs"], own["last_good"]) == ([1, 2], 2)
        assert "is of another model" in own["refused"]
        if index == 0:
            assert own["failed"] == ["ZeroDivisionError", "division by zero"]
        else:
            assert own["refused"].startswith("the first process could not go on")
            assert own["failed"] == [
                "RuntimeError",
                "the first process could not go on: division by zero",
            ]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]
