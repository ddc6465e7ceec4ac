"""Training and evaluation spread over devices: the numbers of one device, and one exchange of gradients a step.

In processes of their own, since the number of (virtual) devices is fixed when JAX starts.
"""

import json

import numpy as np
import pytest

from tests.support.processes import output_of, start_module


@pytest.fixture(scope="module")
def curves():
    """What tests/support/on_devices.py prints of eight devices."""
    process = start_module("tests.support.on_devices", "curves", num_devices=8)
    return json.loads(output_of(process, 900).splitlines()[-1])


@pytest.mark.parametrize("name", ["elbo", "hvi", "fisher", "rhvi"])
def test_eight_devices_train_as_one(curves, name):
    one, eight = curves[name]["one"], curves[name]["mesh"]
    assert len(one["bound"]) == 3
    for key in ("bound", "validation_bound", "grad_norm", "energy_error"):
        np.testing.assert_allclose(eight[key], one[key], rtol=1e-5)
        if "split" in curves[name]:
            np.testing.assert_allclose(curves[name]["split"][key], one[key], rtol=1e-5)
    assert one["bound"][-1] > one["bound"][0]


def test_batches_from_the_host_are_split_likewise(curves):
    np.testing.assert_allclose(curves["stream"]["mesh"]["bound"], curves["stream"]["one"]["bound"], rtol=1e-5)


def test_a_run_resumes_on_another_number_of_devices(curves):
    np.testing.assert_allclose(curves["resumed"]["bound"], curves["elbo"]["one"]["bound"][2:], rtol=1e-5)


def test_estimates_of_eight_devices_are_those_of_one(curves):
    """13 examples: the last device has fewer."""
    for name in ("estimate", "ais"):
        one, eight = np.array(curves[name]["one"]), np.array(curves[name]["mesh"])
        assert one.shape == (13,)
        np.testing.assert_allclose(eight, one, rtol=1e-8)


def test_a_step_moves_the_gradients_once(curves):
    """Bytes that XLA's program moves between devices, against those of the parameters."""
    moved, params = curves["bytes"]["moved"], curves["bytes"]["params"]
    assert params <= moved <= params + 200
    assert curves["bytes"]["kinds"] == ["all-reduce"]


def test_split_parameters_lie_in_parts(curves):
    assert [name for name in ("elbo", "hvi", "fisher", "rhvi") if "split" in curves[name]] == ["elbo", "rhvi"]
    assert curves["split_share"] < 0.2


def test_a_batch_that_cannot_be_split_is_refused(curves):
    assert curves["refused"] == [
        "batch_size must be a multiple of the 8 devices, got 12",
        "a batch must be a multiple of the 8 devices of its process, got 12",
    ]
