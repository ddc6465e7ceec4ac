"""What is handed in by mistake is refused in words that name it; runs that are not what they seem say so."""

import json
import re
import subprocess
import sys

import jax.numpy as jnp
import optax
import pytest

import hmcvae
from hmcvae import bounds, metrics, training
from tests.support.paths import REPOSITORY
from tests.support.wrong_arguments import CASES, fit, net, normal, run


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[str, str]]:
    """(kind of error, message) of each case."""
    command = [sys.executable, "-m", "tests.support.wrong_arguments"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (kind, message) for name, kind, message in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_argument_is_named(found, name):
    kind, message = found[name]
    assert kind == "ValueError", message
    assert re.search(CASES[name][1], message), message
    assert len(message) < 600


def test_chains_that_accept_and_stand_still_are_said_not_to_move():
    """Such as a kernel of the user's own whose trajectories have no steps."""
    hmc = hmcvae.hmc(normal, 0.3, 2)
    still = hmc._replace(kernel=lambda key, state, *_: (state, hmc.step(key, state)[1]))
    with pytest.warns(hmcvae.SamplingWarning, match="never moved in 60 draws"):
        run(algorithm=still, num_samples=60)


def test_a_metric_that_is_not_definite_on_the_way_is_thought_of():
    algorithm = hmcvae.rmhmc(normal, 0.5, 3, metrics.from_tensor(lambda z: jnp.eye(3) * (1.2 - z[0] ** 2)))
    with pytest.warns(hmcvae.SamplingWarning, match="whether the metric is positive definite"):
        run(algorithm=algorithm, num_samples=60)


def test_a_training_that_collapses_says_so_and_one_that_goes_on_does_not():
    with pytest.warns(
        training.TrainingWarning, match="ended at a bound of -.* far below the -.* lower learning_rate"
    ):
        fit(num_epochs=3, optimizer=optax.adam(1e6))
    fit()  # a warning would be an error


def test_a_training_whose_last_epoch_took_no_step_is_an_error():
    """Though there were too few of them to stop it before."""
    vae = net()
    broken = hmcvae.VAE(vae.encode, lambda p, z: vae.decode(p, z) / (p["d"][0, 0] < 1e3), vae.likelihood, 2)
    with pytest.raises(training.NotFiniteError, match="no step of the last epoch, 3, had a finite loss"):
        fit(bounds.elbo(broken), num_epochs=3, optimizer=optax.adam(1e4), max_bad_share=1.0)
