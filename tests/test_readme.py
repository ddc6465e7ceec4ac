"""What the README says runs: its Python blocks, and the claims behind their last lines."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import REPOSITORY

BLOCKS = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)


@pytest.fixture(scope="module")
def namespace() -> dict:
    """The names after all blocks have run one after the other, as a reader would paste them."""
    names: dict = {}
    for block in BLOCKS:
        exec(block, names)
    return names


def test_sampler_example_gives_the_variances_it_claims(namespace):
    variances = namespace["samples"].position.var(axis=(0, 1))
    np.testing.assert_allclose(variances, [1.0, 4.0], rtol=0.15)


def test_bound_example_gives_the_likelihood_it_claims(namespace):
    log_weights = namespace["log_weights"]
    estimate = jnp.log(jnp.mean(jnp.exp(log_weights - namespace["exact"])))
    np.testing.assert_allclose(estimate, 0.0, atol=0.02)
    assert jnp.mean(log_weights) < namespace["exact"]


def test_annealing_example_agrees_with_the_likelihood(namespace):
    np.testing.assert_allclose(namespace["below"].log_likelihood[0], namespace["exact"], atol=0.06)


def test_the_test_command_stands_there_once_for_ci_to_run():
    text = (REPOSITORY / "README.md").read_text()
    section = text.split("<!-- test command -->")[1].split("<!-- end -->")[0]
    commands = [line for line in section.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 1
    assert "pytest" in commands[0]
    assert "pyright" in commands[0]
