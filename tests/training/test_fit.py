"""A whole training of the digits, every option at work: what it keeps, and that a resumed run is the same run."""

import dataclasses

import jax
import numpy as np
import pytest

from hmcvae import bounds, training
from hmcvae.training import Checkpoints, loop
from tests.support.training import DIGITS, linear_vae

ELBO, START = bounds.elbo(linear_vae()[0]), linear_vae()[1]
NUM_TRACES = {"evaluate": 0}


def _counted(*args):
    NUM_TRACES["evaluate"] += 1
    return ELBO.draw(*args)


COUNTED = dataclasses.replace(ELBO, draw=_counted)


def fit_digits(folder, **changes):
    return training.fit(
        COUNTED,
        START,
        DIGITS.train[:410],  # ten left over each epoch
        optimizer=training.adam(0.02, "cosine", 40),
        preprocess=training.Pixels(DIGITS.max_value, True),
        num_epochs=4,
        batch_size=40,
        clip_norm=20.0,
        kl_warmup_epochs=2,
        seed=3,
        validation=DIGITS.validation,
        checkpoints=Checkpoints(folder / "checkpoints"),
        best=Checkpoints(folder / "best", keep=1),
        **changes,
    )


@pytest.fixture(scope="module", autouse=True)
def compile_digits_once():
    """The digits' epoch and monitor are of one compilation for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("make_epoch", "make_monitor"):
            make, made = getattr(loop, name), {}

            def memoised(bound, *args, make=make, made=made, **settings):
                if bound is not COUNTED:
                    return make(bound, *args, **settings)
                if not made:
                    made[bound] = make(bound, *args)
                return made[bound]

            patch.setattr(loop, name, memoised)
        yield


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """(states, records, traces after each epoch) of four epochs in one go."""
    states, records, traces = [], [], []
    for state, record in fit_digits(tmp_path_factory.mktemp("whole")):
        states.append(state)
        records.append(record)
        traces.append(NUM_TRACES["evaluate"])
    return states, records, traces


def test_the_bound_goes_up(whole_run):
    _, records, _ = whole_run
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    validation = [record["validation_bound"] for record in records]
    assert validation[-1] > validation[0] + 3
    assert -35 < validation[-1] < -15  # nats for 64 bits; they start at 64 log 2 = 44
    assert all(record["seconds"] > 0 and record["skipped_steps"] == 0 for record in records)


def test_an_epoch_is_compiled_once(whole_run):
    _, _, traces = whole_run
    assert traces[0] > 0
    assert traces == [traces[0]] * 4


def test_a_resumed_run_is_the_same_run_bit_for_bit(whole_run, tmp_path):
    states, records, _ = whole_run
    interrupted = fit_digits(tmp_path)
    next(interrupted), next(interrupted)
    interrupted.close()
    resumed = list(fit_digits(tmp_path, resume=True))
    assert [record["epoch"] for _, record in resumed] == [3, 4]
    for (state, record), expected, expected_record in zip(resumed, states[2:], records[2:], strict=True):
        assert record | {"seconds": 0} == expected_record | {"seconds": 0}
        jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert not list(fit_digits(tmp_path, resume=True))  # nothing left to do
    again = fit_digits(tmp_path, resume=True, resume_epoch=3)
    jax.tree.map(np.testing.assert_array_equal, next(again)[0], states[3])


def test_the_best_state_is_kept_by_validation_bound(whole_run):
    states, records, _ = whole_run
    validation = [record["validation_bound"] for record in records]
    assert int(states[-1].best_epoch) == 1 + int(np.argmax(validation))
    assert float(states[-1].best_bound) == max(validation)
