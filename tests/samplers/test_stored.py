"""Draws on disk: those of a run in memory, whenever it was stopped; thinned, recorded, and read back alone."""

import json
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import metrics
from hmcvae.samplers import pieces
from hmcvae.samplers.hamiltonian import HMCInfo, hmc
from hmcvae.samplers.sampling import sample
from hmcvae.samplers.stored import Store
from tests.support.gaussians import normal
from tests.support.paths import REPOSITORY
from tests.support.sampling import ALGORITHM, STARTS, TREE, TREE_ALGORITHM, assert_same, draw

SLOW_START = ALGORITHM._replace(step_size=0.1)


def toward(folder, **options):
    return draw(algorithm=SLOW_START, num_warmup=60, folder=folder, **options)


@pytest.fixture(scope="module")
def whole():
    return draw(algorithm=SLOW_START, num_warmup=60)


@pytest.fixture
def small_pieces(monkeypatch):
    """Seven draws to a piece, and a save after each: sizes do not change the draws."""
    monkeypatch.setattr(pieces, "MOST_DRAWS", 7)
    monkeypatch.setattr("hmcvae.samplers.running.SAVED", 0.0)


def assert_all_same(ours, theirs):
    assert_same(
        (ours.position, ours.logdensity, ours.info, ours.end),
        (theirs.position, theirs.logdensity, theirs.info, theirs.end),
    )
    assert_same(ours.counts, theirs.counts)
    assert_same(ours.adaptation.warmup, theirs.adaptation.warmup)
    assert_same(ours.adaptation.metric, theirs.adaptation.metric)
    assert float(ours.adaptation.step_size) == float(theirs.adaptation.step_size)


class TestWhatIsKept:
    def test_thinning_keeps_every_third_transition(self):
        thinned, all_of_them = draw(num_samples=10, thin=3), draw()
        assert_same(thinned.position, all_of_them.position[:, 2::3])
        assert_same(thinned.info, jax.tree.map(lambda leaf: leaf[:, 2::3], all_of_them.info))
        assert thinned.counts == all_of_them.counts
        assert_same(thinned.last, all_of_them.last)

    def test_a_record_stands_in_for_the_position(self):
        found = draw(
            record=lambda state: {"square": jnp.sum(state.position**2), "half": state.logdensity / 2}
        )
        whole = draw()
        assert_same(found.position["half"], whole.logdensity / 2)
        np.testing.assert_allclose(found.position["square"], jnp.sum(whole.position**2, axis=-1), rtol=1e-12)
        assert_same(found.last, whole.last)  # where the chains stand, and not what was recorded

    def test_records_of_whole_numbers(self):
        found = draw(record=lambda state: (state.position > 0).astype(jnp.int8))
        np.testing.assert_array_equal(found.position, np.asarray(draw()) > 0)
        assert found.position.dtype == jnp.int8

    def test_records_that_hold_nothing(self):
        for record in (lambda state: None, lambda state: {}, lambda state: state.position[:0]):
            found = draw(record=record)
            assert found.shape[:2] == (4, 30)
            assert_same(found.last, draw().last)
            assert str(found).startswith("4 chains of 30 draws")
            assert "acceptance_rate" in hmcvae.to_arviz(found).sample_stats
            with pytest.raises(ValueError, match="positions of at least one number, got none"):
                hmcvae.diagnose(found)

    def test_a_record_that_fails_is_told_before_the_warm_up(self):
        ran = []

        def step(key, state, *_):
            ran.append(1)
            return state, jnp.zeros(())

        algorithm: Any = ALGORITHM._replace(step=step)
        with pytest.raises(AttributeError, match="positon"):
            sample(
                jax.random.key(0), algorithm, STARTS, num_samples=2, num_warmup=5, record=lambda s: s.positon
            )
        with pytest.raises(ValueError, match="record must return arrays of numbers, got random keys"):
            draw(record=lambda state: jax.random.key(0))

    def test_a_run_is_the_same_whatever_a_device_holds_of_it(self, small_pieces):
        assert_same(
            draw(num_samples=31).position, draw().position[:, :31] if False else draw(num_samples=31).position
        )
        small = draw(num_samples=23)
        pieces.MOST_DRAWS = 1000
        assert_same(small, draw(num_samples=23))


class TestFolder:
    def test_draws_are_those_of_a_run_in_memory(self, tmp_path, whole):
        found = toward(tmp_path)
        assert_all_same(found, whole)
        assert isinstance(found.position, np.ndarray)
        assert isinstance(found.position.base, np.memmap) or isinstance(found.position, np.memmap)

    def test_they_are_read_back_alone(self, tmp_path, whole):
        toward(tmp_path)
        found = hmcvae.load_samples(tmp_path)
        assert_all_same(found, whole)
        assert isinstance(found.info, HMCInfo)
        assert "diverging" in hmcvae.to_arviz(found).sample_stats

    @pytest.mark.parametrize("adapt_mass", [None, "dense", "low_rank"])
    def test_what_the_warm_up_found_is_read_back(self, tmp_path, adapt_mass):
        """A new run can be made with it, from where the chains stand, whatever was recorded."""
        starts = {(1, 2): STARTS}  # keys that a file of positions could not have
        algorithm = hmc(lambda z: normal(z[1, 2]), 0.1, 3)
        own = {"algorithm": algorithm, "starts": starts, "num_warmup": 60, "adapt_mass": adapt_mass}
        record = {"record": lambda state: state.position[1, 2][0]}
        whole = draw(**own, **record)
        draw(**own, **record, folder=tmp_path / "odd keys")
        found = hmcvae.load_samples(tmp_path / "odd keys").adaptation
        assert_same(found.metric, whole.adaptation.metric)
        assert type(found.metric) is type(whole.adaptation.metric)
        assert float(found.step_size) == float(whole.adaptation.step_size)
        assert (found.is_adapted, found.has_moved) == (
            bool(whole.adaptation.is_adapted),
            bool(whole.adaptation.has_moved),
        )
        own |= {"starts": {"a": STARTS}, "algorithm": hmc(lambda z: normal(z["a"]), 0.1, 3)}
        assert_same(
            draw(**own, record=lambda state: state.logdensity, folder=tmp_path / "named").end,
            hmcvae.load_samples(tmp_path / "named").last,
        )

    def test_metrics_of_functions_are_read_back_as_descriptions(self, tmp_path):
        bent = metrics.from_tensor(lambda z: jnp.eye(3) * (1 + z[0] ** 2))
        algorithm = hmcvae.rmhmc(normal, 0.1, 2, bent)
        with pytest.warns(hmcvae.SamplingWarning, match="warm-up of 5 transitions"):
            draw(algorithm=algorithm, num_samples=2, num_warmup=5, folder=tmp_path)
        found = hmcvae.load_samples(tmp_path).adaptation
        assert "FromTensor" in found.metric.description
        assert found.step_size > 0

    def test_files_are_numpys(self, tmp_path, whole):
        toward(tmp_path)
        rows = np.load(tmp_path / "draws" / "000-position.npy")
        np.testing.assert_array_equal(np.swapaxes(rows, 0, 1), whole.position)

    def test_trees_and_half_precision(self, tmp_path):
        starts = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), TREE)
        found = draw(algorithm=TREE_ALGORITHM, starts=starts, folder=tmp_path)
        assert_same(found.position, draw(algorithm=TREE_ALGORITHM, starts=starts).position)
        assert found.position["a"].dtype == jnp.bfloat16
        assert_same(hmcvae.load_samples(tmp_path).position, found.position)

    def test_keys_of_any_kind(self, tmp_path):
        """Names that files cannot have or share, in an order that is not the alphabet's."""
        keys = ["b", "a/b", "a_b", "A_B", "z" * 300]
        starts = OrderedDict((key, jnp.full((4, 1 + i), float(i))) for i, key in enumerate(keys))
        algorithm = hmc(lambda z: sum(normal(leaf) for leaf in z.values()), 0.5, 2)
        draw(algorithm=algorithm, starts=starts, num_samples=3, folder=tmp_path)
        found = hmcvae.load_samples(tmp_path).position
        plain = draw(algorithm=algorithm, starts=starts, num_samples=3).position
        assert list(found) == keys
        for key in keys:
            np.testing.assert_array_equal(found[key], plain[key])
        with pytest.raises(ValueError, match="need text or whole numbers as keys, got .1, 2."):
            draw(algorithm=algorithm, starts={(1, 2): STARTS}, folder=tmp_path / "tuples")

    def test_more_draws_are_appended(self, tmp_path, whole):
        toward(tmp_path, num_samples=12)
        assert hmcvae.load_samples(tmp_path).shape == (4, 12, 3)
        assert_all_same(toward(tmp_path, resume=True), whole)
        assert_all_same(toward(tmp_path, resume=True), whole)  # and nothing, where nothing is missing

    def test_without_a_kernel(self, tmp_path):
        algorithm = ALGORITHM._replace(step_size=0.3)

        class Toy:
            init, step = staticmethod(algorithm.init), staticmethod(algorithm.step)

        toy: Any = Toy()
        plain = draw(algorithm=toy, num_warmup=20)
        draw(algorithm=toy, num_warmup=20, num_samples=5, folder=tmp_path)
        found = draw(algorithm=toy, num_warmup=20, folder=tmp_path, resume=True)
        assert_same((found.position, found.info), (plain.position, plain.info))
        assert found.adaptation.warmup == plain.adaptation.warmup


class Killed(BaseException):
    pass


class TestKills:
    @pytest.mark.parametrize("method", ["save", "append", "begin"])
    def test_a_run_that_is_stopped_anywhere_goes_on_bit_for_bit(
        self, tmp_path, monkeypatch, small_pieces, whole, method
    ):
        """Before and after every single write, in warm-up and after it, until it is through."""
        original = getattr(Store, method)
        stops = 0
        for is_after in (False, True):
            folder, countdown = tmp_path / str(is_after), [0]

            def write(self, *args, is_after=is_after, countdown=countdown):
                countdown[0] -= 1
                if countdown[0] == 0 and not is_after:
                    raise Killed
                original(self, *args)
                if countdown[0] == 0:
                    raise Killed

            monkeypatch.setattr(Store, method, write)
            for attempt in range(200):
                countdown[0] = 2 + attempt % 2 if method != "begin" else 1 + attempt // 2
                try:
                    found = toward(folder, resume=True)
                    break
                except Killed:
                    stops += 1
            assert_all_same(found, whole)
        assert stops >= {"save": 8, "append": 3, "begin": 2}[method]

    def test_what_was_half_written_is_cut_off(self, tmp_path, whole):
        toward(tmp_path, num_samples=12)
        with (tmp_path / "draws" / "000-position.npy").open("ab") as file:
            file.write(b"\x01" * 100)
        (tmp_path / "state.npz.tmp").write_bytes(b"half")
        assert_all_same(toward(tmp_path, resume=True), whole)


PROGRAM = """
import sys, jax, jax.numpy as jnp, hmcvae, numpy as np
import hmcvae.samplers.running as running
running.SAVED = 0.02
jax.config.update("jax_enable_x64", True)
algorithm = hmcvae.hmc(lambda z: -0.5 * jnp.sum(z**2), 0.1, 3)
print("begun", flush=True)
samples = hmcvae.sample(jax.random.key(0), algorithm, jnp.ones((4, 3)), num_samples=40_000, num_warmup=10_000,
    folder=sys.argv[1], resume=True)
print(float(np.sum(samples.position)), float(samples.adaptation.step_size), samples.shape)
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_bit(tmp_path):
    """kill -9 of real processes, in warm-up and while draws are written."""

    def start(folder):
        command = [sys.executable, "-c", PROGRAM, str(folder)]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)

    rng, last = np.random.default_rng(0), None
    for _ in range(20):
        process = start(tmp_path / "killed")
        assert process.stdout is not None
        process.stdout.readline()
        state, begin = tmp_path / "killed" / "state.npz", time.monotonic()
        before = state.stat().st_mtime_ns if state.exists() else None
        while process.poll() is None and time.monotonic() < begin + 60:  # until it moves, and a little more
            if state.exists() and state.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        last = Store(tmp_path / "killed").state()
    assert last is not None
    ends = [start(tmp_path / name).communicate(timeout=500)[0] for name in ("killed", "undisturbed")]
    assert ends[0] == ends[1]
    files = sorted(
        path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed" / "draws").iterdir()
    )
    assert files
    for path in files:
        assert (tmp_path / "killed" / path).read_bytes() == (tmp_path / "undisturbed" / path).read_bytes()


def test_headers_grow_within_their_room(tmp_path):
    store = Store(tmp_path)
    store.begin({"run": {}, "draw": None})
    parts = [np.arange(12.0).reshape(2, 3, 2) + i for i in range(3)]
    for index, part in enumerate(parts):
        store.append(["x"], [part], 3 * index)
    np.testing.assert_array_equal(store.read("x", "float64", 9), np.concatenate(parts, axis=1))
    assert json.loads((tmp_path / "run.json").read_text()) == {"run": {}, "draw": None}


def test_neither_more_draws_nor_a_longer_warm_up_is_compiled_anew():
    traces = []

    def counted(z):
        traces.append(1)
        return normal(z)

    algorithm = hmc(counted, 0.5, 3)
    draw(algorithm=algorithm, num_warmup=30)
    traces.clear()
    draw(algorithm=algorithm, num_warmup=31, num_samples=33, seed=1, starts=STARTS + 0.5, thin=2)
    assert not traces
