"""Batches from the host whose place is saved: a run that is stopped goes on with the batch that was next."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hmcvae import training
from hmcvae.training import Checkpoints
from hmcvae.training.streams import Stream, _as_json, _from_json, go_to
from tests.support.training import P, of_log_weight, plain_images

NUM_STEPS = 40  # an epoch
# p is a record of the batches in their order: each step halves what was and adds the batch's level.
BOUND = of_log_weight(lambda params, x, _: params["p"] * 255 * jnp.mean(x) - params["p"] ** 2 / 4)
PLAIN = training.Pixels(255)


class Levels:
    """An endless iterator of batches whose levels are drawn, and which can be sent back."""

    def __init__(self, seed=0):
        self._rng = np.random.default_rng(seed)

    def __iter__(self):
        return self

    def __next__(self):
        return plain_images(*self._rng.integers(0, 256, 2))

    def get_state(self):
        return {"rng": self._rng.bit_generator.state, "name": b"\x00levels"}

    def set_state(self, state):
        assert state["name"] == b"\x00levels"
        self._rng.bit_generator.state = state["rng"]


class Loader:
    """Begins anew each epoch, in another order, and knows itself where it stands, as PyTorch's stateful loaders do."""

    def __init__(self):
        self._epoch, self._next, self._is_set = 0, 0, False

    def __len__(self):
        return NUM_STEPS

    def __iter__(self):
        """At once, and not when the first batch is asked for. A state that was set is gone on from by the next iterator
        alone; those after it begin anew."""
        if self._is_set:
            self._is_set = False
        else:
            self._epoch, self._next = self._epoch + 1, 0
        return self._batches(np.random.default_rng(self._epoch).permutation(NUM_STEPS + 5))

    def _batches(self, order):
        while self._next < len(order):
            self._next += 1
            yield plain_images(int(order[self._next - 1]), 200)

    def state_dict(self):
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state):
        self._epoch, self._next, self._is_set = state["epoch"], state["next"], True


class Reiterable:
    """Begins anew each epoch; the iterator, and not the iterable, can be sent back."""

    def __len__(self):
        return NUM_STEPS

    def __iter__(self):
        return itertools.islice(Levels(5), NUM_STEPS) if self.is_plain else Levels(5)

    is_plain = False


class Forgetful(Reiterable):
    """And where it cannot either, it is read again."""

    is_plain = True


def grain_batches():
    grain = pytest.importorskip("grain", reason="Grain is not installed")
    source = grain.MapDataset.source(np.arange(90)).shuffle(seed=3).repeat(None)
    return iter(source.batch(2).map(lambda levels: plain_images(*levels)).to_iter_dataset())


def batch_list():
    levels = np.random.default_rng(1).integers(0, 256, (NUM_STEPS, 2))
    return [plain_images(*pair) for pair in levels]


SOURCES = [Levels, Loader, Reiterable, Forgetful, batch_list, grain_batches]


def fit(data, **options):
    length = {} if hasattr(data, "__len__") else {"steps_per_epoch": NUM_STEPS}
    settings = {"num_epochs": 3, "optimizer": optax.sgd(1.0), "preprocess": PLAIN} | length
    records = training.fit(BOUND, P, data, **(settings | options))
    return [(state, record["bound"]) for state, record in records]


class Resetting(Levels):
    """Its own iterator, which begins anew; and its state is the very object that it goes on changing."""

    def __init__(self):
        super().__init__()
        self._at = {"index": 0}

    def __iter__(self):
        self._at["index"] = 0
        return self

    def __len__(self):
        return NUM_STEPS

    def __next__(self):
        self._at["index"] += 1
        if self._at["index"] > NUM_STEPS:
            raise StopIteration
        return plain_images(self._at["index"], 200)

    def get_state(self):
        return self._at

    def set_state(self, state):
        self._at.update(state)


class Killed(Exception):
    pass


def stop(state):
    raise Killed


@pytest.mark.parametrize("has_state", [True, False])
def test_an_iterator_that_begins_anew_gives_each_batch_once(monkeypatch, has_state):
    if not has_state:
        monkeypatch.delattr(Levels, "get_state")
        monkeypatch.delattr(Resetting, "get_state")
    stream = Stream(Resetting())
    for _ in range(2):
        stream.first()
        levels = [int(stream.take()[0, 0, 0, 0]) for _ in range(NUM_STEPS)]
        assert levels == list(range(1, NUM_STEPS + 1))
        stream.end_epoch()


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("steps_per_part", [16, None])
def test_a_stopped_run_goes_on_with_the_next_batch(tmp_path, make, steps_per_part):
    """In mid-epoch, wherever it is stopped, or after each epoch: the same parameters, bit for bit."""
    whole = fit(make())
    folders = {"checkpoints": Checkpoints(tmp_path / "checkpoints")}
    if steps_per_part:
        folders["partial"] = Checkpoints(tmp_path / "partial")
        folders |= {"steps_per_part": steps_per_part, "after_part": stop}
    found, num_stops = [], 0
    for attempt in range(20):
        epochs = training.fit(
            BOUND,
            P,
            make(),
            optimizer=optax.sgd(1.0),
            preprocess=PLAIN,
            num_epochs=3,
            steps_per_epoch=NUM_STEPS,
            resume=attempt > 0,
            **folders,
        )
        try:
            for state, record in epochs:
                found.append((state, record["bound"]))
                if steps_per_part is None:
                    epochs.close()
                    break
            else:
                break
        except Killed:
            num_stops += 1
    assert num_stops == (3 * 2 if steps_per_part else 0)
    assert [bound for _, bound in found] == [bound for _, bound in whole]
    assert float(found[-1][0].params["vae"]["p"]) == float(whole[-1][0].params["vae"]["p"])


def test_parts_of_a_stream_make_up_the_same_epochs(tmp_path):
    whole = fit(Levels())
    parts = fit(Levels(), partial=Checkpoints(tmp_path), steps_per_part=4)  # rounded up to 16
    assert [bound for _, bound in parts] == [bound for _, bound in whole]
    assert float(parts[-1][0].params["vae"]["p"]) == float(whole[-1][0].params["vae"]["p"])


def test_a_generator_goes_on_from_where_it_is(tmp_path):
    """It has no state to be saved, and is not read ahead."""
    levels = (plain_images(level, 200) for level in itertools.count(1))
    folder = Checkpoints(tmp_path)
    assert [bound for _, bound in fit(levels, num_epochs=1, checkpoints=folder)]
    fit(levels, num_epochs=2, checkpoints=folder, resume=True)
    assert int(next(levels)[0, 0, 0, 0]) == 2 * NUM_STEPS + 1


def test_what_cannot_go_on_is_said(tmp_path):
    folder = Checkpoints(tmp_path)
    fit(Levels(), num_epochs=1, checkpoints=folder)
    with pytest.raises(
        ValueError, match="expected data with get_state and set_state or state_dict and .*, got list"
    ):
        fit(batch_list(), num_epochs=2, checkpoints=folder, resume=True)
    stream = Stream(batch_list())
    with pytest.raises(
        ValueError, match="41 batches of the epoch were taken before, got data that end after 40"
    ):
        stream.go_to({"num_taken": 41, "state": None})
    with pytest.raises(ValueError, match="a stream that 2 processes have read.*got 1"):
        go_to(stream, [stream.position()] * 2)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch 1 of epoch 1 must have examples, got none"):
        fit([plain_images(1, 255), plain_images(1, 255)[:0]])


def test_a_state_that_cannot_be_saved_is_refused_before_the_training(tmp_path):
    source = Levels()
    source.get_state, source.set_state = lambda: {"rng": object()}, lambda state: None
    with pytest.raises(ValueError, match="the state of the data must be made of numbers, .*, got object"):
        fit(source, checkpoints=Checkpoints(tmp_path))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda own: st.lists(own) | st.tuples(own, own) | st.dictionaries(st.text() | st.integers(), own),
    max_leaves=8,
)


@hypothesis.given(VALUES)
@hypothesis.settings(derandomize=True, deadline=None, database=None)
def test_states_come_back_as_they_were(state):
    found = _from_json(training.stored.as_json(_as_json(state)))
    assert repr(found) == repr(state)  # equality would take True for 1


def test_arrays_in_states_come_back_as_they_were():
    state = {"order": np.arange(5, dtype=np.uint16), "scale": np.float32(0.1)}
    found = _from_json(_as_json(state))
    assert found["order"].dtype == np.uint16
    np.testing.assert_array_equal(found["order"], state["order"])
    assert found["scale"] == state["scale"]
