"""Epochs saved in parts, and checkpoints written beside the training: nothing changes, and nothing is lost."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hmcvae import bounds, training
from hmcvae.training import Checkpoints
from tests.support.training import DIGITS, P, linear_vae, of_log_weight, plain_images

VAE, PARAMS = linear_vae()
BOUND = bounds.elbo(VAE)


def fit(images=DIGITS.train, **options):
    """All (state, record), without the times; 29 steps an epoch."""
    pixels = training.Pixels(DIGITS.max_value, binarize=True)
    settings = {"num_epochs": 2, "batch_size": 50, "optimizer": optax.adam(0.01), "preprocess": pixels}
    return [
        (state, {name: value for name, value in record.items() if name != "seconds"})
        for state, record in training.fit(BOUND, PARAMS, images, **(settings | options))
    ]


def assert_same(ours, theirs):
    assert [record for _, record in ours] == [record for _, record in theirs]
    for a, b in zip(jax.tree.leaves(ours[-1][0]), jax.tree.leaves(theirs[-1][0]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(autouse=True)
def optimize():
    """Parts are the whole bit for bit where XLA optimizes, as it does for users."""
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def undisturbed():
    return fit()


@pytest.fixture
def whole(optimize):
    return undisturbed()


@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_parts_make_up_the_same_epochs(whole, tmp_path, num_steps):
    saved = []
    kept = Checkpoints(tmp_path / "partial")
    ours = fit(partial=kept, steps_per_part=num_steps, after_part=lambda state: saved.append(int(state.step)))
    assert_same(ours, whole)
    assert len(saved) == {1: 2 * 28, 7: 2 * 4, 100: 0}[num_steps]
    assert kept.epochs() == []


class Killed(Exception):
    pass


def test_a_run_that_is_stopped_in_an_epoch_goes_on_from_the_part(whole, tmp_path):
    """Twice in the first epoch, once in the second: and ends as the one that was not."""
    places = {name: Checkpoints(tmp_path / name) for name in ("checkpoints", "partial")}
    steps: list[int] = []

    def stop(state):
        steps.append(int(state.step))
        raise Killed

    records = []
    for attempt in range(10):
        options = {"after_part": stop, "steps_per_part": 12, "resume": attempt > 0}
        try:
            records += fit(**places, **options)
            break
        except Killed:
            continue
    assert steps == sorted(set(steps))  # no step twice
    assert steps == [12, 24, 29 + 12, 29 + 24]
    assert_same(records[-1:], whole[-1:])


def test_the_share_of_solves_that_failed_is_none_where_none_did():
    """And not what rounding leaves of one minus a mean, 6e-8 of 41 ones."""
    ((_, record),) = fit(DIGITS.train[:82], batch_size=41, num_epochs=1)
    assert record["unconverged"] == 0.0


@pytest.mark.parametrize("name", ["checkpoints", "best", "partial"])
def test_what_a_training_has_written_is_not_trained_over(whole, tmp_path, name):
    """Where `resume` was forgotten: nothing is deleted."""
    kept = Checkpoints(tmp_path)
    kept.save(3, {"a": np.ones(2)})
    options = {name: kept} | ({"steps_per_part": 12} if name == "partial" else {})
    with pytest.raises(ValueError, match=f"holds a training's {name}, the newest of 3: give resume=True"):
        fit(**options)
    assert kept.epochs() == [3]


def test_a_training_goes_on_as_itself_alone(tmp_path):
    """With another seed, other batches or other data it is another one."""
    kept, images = Checkpoints(tmp_path), DIGITS.train[:100]
    fit(images, num_epochs=1, checkpoints=kept)
    for options, words in (
        ({"seed": 9}, "holds another training: seed was 0, is 9"),
        ({"batch_size": 20}, "batch_size was 50, is 20"),
        ({"images": DIGITS.train[100:200]}, "checksum of the data was .* see training.load_params"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(**({"images": images, "checkpoints": kept, "resume": True} | options))
    assert kept.epochs() == [0, 1]
    assert len(fit(images, checkpoints=kept, resume=True)) == 1


def test_a_training_that_had_not_begun_is_begun_again(whole, tmp_path):
    """Epoch 0 is from before the first step."""
    kept = Checkpoints(tmp_path)
    kept.save(0, {"a": np.ones(2)})
    assert_same(fit(checkpoints=kept), whole)


def test_a_part_of_another_run_is_not_taken_for_this_ones(whole, tmp_path):
    kept = Checkpoints(tmp_path / "partial")

    def stop(state):
        raise Killed

    with pytest.raises(Killed):
        fit(seed=9, partial=kept, steps_per_part=12, after_part=stop)
    assert kept.epochs() == [12]
    fit(num_epochs=1, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    (tmp_path / "checkpoints" / "1").rename(
        tmp_path / "aside"
    )  # back to the start, the other's part in place
    again = fit(
        checkpoints=Checkpoints(tmp_path / "checkpoints"), partial=kept, steps_per_part=12, resume=True
    )
    assert_same(again, whole)


def test_bad_steps_are_counted_over_all_parts_of_an_epoch(tmp_path):
    """In each epoch 12 of 32 steps are bad, 6 in each half: more than a quarter, which a half alone would not show."""
    images = plain_images(*range(32))

    def log_weight(params, x, _):
        return jnp.where(jnp.max(x) < 12 / 255, jnp.nan, params["p"])

    settings = {"batch_size": 1, "num_epochs": 3, "max_bad_steps": 30, "max_bad_share": 1.0}
    runs = []
    for options in ({}, {"partial": Checkpoints(tmp_path), "steps_per_part": 16}):
        epochs = list(
            training.fit(
                of_log_weight(log_weight),
                P,
                images,
                optimizer=optax.adam(0.1),
                preprocess=training.Pixels(255),
                **settings,
                **options,
            )
        )
        runs.append([record["skipped_steps"] for _, record in epochs])
    assert runs[0] == runs[1] == [12, 24, 36]


def test_checkpoints_beside_the_training_are_the_same(whole, tmp_path):
    kept = Checkpoints(tmp_path, asynchronous=True)
    assert_same(fit(checkpoints=kept), whole)
    assert kept.epochs() == [1, 2]
    like = training.init_state(PARAMS, optax.adam(0.01), 0)
    for a, b in zip(jax.tree.leaves(kept.restore(like)), jax.tree.leaves(whole[-1][0]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert kept.last_good() == 2


def test_saving_does_not_wait_and_the_next_call_does(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, asynchronous=True)
    gate, write = threading.Event(), kept._save

    def slow(*arguments):
        assert gate.wait(30)
        write(*arguments)

    monkeypatch.setattr(kept, "_save", slow)
    kept.save(1, {"a": jnp.arange(3.0)})
    assert not (tmp_path / "1").exists()
    gate.set()
    assert kept.epochs() == [1]
    kept.save(2, {"a": jnp.arange(3.0)})
    kept.close()
    assert Checkpoints(tmp_path).epochs() == [1, 2]


def test_what_fails_beside_the_training_is_raised_by_the_next_call(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, asynchronous=True)

    def full(*arguments):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(kept, "_save", full)
    kept.save(1, {"a": jnp.zeros(2)})
    with pytest.raises(OSError, match="No space left"):
        kept.save(2, {"a": jnp.zeros(2)})
    kept.save(3, {"a": jnp.zeros(2)})
    with pytest.raises(OSError, match="No space left"):
        kept.wait()
    kept.wait()
    with pytest.raises(OSError, match="No space left"):
        fit(checkpoints=kept)


def test_a_part_of_epochs_of_another_length_says_what_differs(tmp_path):
    def stop(state):
        raise Killed

    places = {name: Checkpoints(tmp_path / name) for name in ("checkpoints", "partial")}
    batches = list(DIGITS.train[: 29 * 50].reshape(29, 50, *DIGITS.train.shape[1:]))
    with pytest.raises(Killed):
        fit(batches, **places, steps_per_part=12, after_part=stop)
    with pytest.raises(
        ValueError, match=r"not of one of 14 steps .*bound to be float32 \[14\], got float32 \[29\]"
    ):
        fit(batches[:14], **places, steps_per_part=12, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partial": True, "steps_per_part": 2, "checkpoints": True}, "need folders of their own, got"),
        ({"steps_per_part": 3}, "partial and steps_per_part go together, got None and steps_per_part = 3"),
        ({"partial": True}, "go together, got .* and steps_per_part = None"),
        (
            {"partial": True, "steps_per_part": 0},
            "steps_per_part must be a whole number of at least 1, got 0",
        ),
        ({"after_part": print}, "after_part is called after each save of a part: it needs partial, got None"),
        ({"resume_epoch": 3}, "resume_epoch is for resume=True, got 3 without it"),
        ({"optimizer": optax.lbfgs()}, "a step from gradients, its state and the parameters alone.*raised"),
    ],
)
def test_bad_arguments(options, message, tmp_path):
    if "partial" in options:
        options = options | {"partial": Checkpoints(tmp_path)}
    if "checkpoints" in options:
        options = options | {"checkpoints": Checkpoints(tmp_path)}
    with pytest.raises(ValueError, match=message):
        fit(**options)
