"""Checkpoints: written whole or not at all, and never read back as something else than what was written."""

import contextlib
import gc
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae._digest import digest
from hmcvae.training import Checkpoints, TrainState, adam, init_state
from tests.support.trees import assert_same


def state(seed: int = 0, width: int = 40, dtype=jnp.float32) -> TrainState:
    """A TrainState as training has it: dictionaries, tuples, empty nodes, whole numbers, -inf."""
    weights = jax.random.normal(jax.random.key(seed), (width, 50), dtype)
    params = {"vae": {"w": weights, "b": jnp.arange(3.0, dtype=dtype)}, "bound": {}}
    return init_state(params, adam(1e-3, "cosine", 2), seed)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with the checkpoints of epochs 1 and 2, whose states are of these seeds."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for epoch in (1, 2):
        checkpoints.save(epoch, state(epoch))
    checkpoints.close()
    return folder


def test_what_was_saved_is_restored(saved):
    checkpoints = Checkpoints(saved)
    assert checkpoints.epochs() == [1, 2]
    assert_same(checkpoints.restore(state(9)), state(2))
    assert_same(checkpoints.restore(state(9), epoch=1), state(1))


def test_shapes_without_values_are_enough_to_restore(saved):
    shapes = jax.eval_shape(lambda: state(9))
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    assert_same(Checkpoints(saved).restore(like), state(2))


def test_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for epoch in range(1, 6):
        checkpoints.save(epoch, {"a": jnp.array(epoch)})
    assert checkpoints.epochs() == [3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5"]
    assert Checkpoints(tmp_path, keep=3).epochs() == [3, 4, 5]


def test_saving_an_epoch_again_replaces_it_and_ends_the_epochs_after_it(tmp_path):
    """A run that is taken back to an earlier epoch writes its epochs once more."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, {"a": jnp.array(epoch)})
    checkpoints.save(3, {"a": jnp.array(33)})
    assert checkpoints.epochs() == [1, 2, 3]
    assert int(checkpoints.restore({"a": 0})["a"]) == 33
    checkpoints.save(2, {"a": jnp.array(22)})
    assert checkpoints.epochs() == [1, 2]
    assert int(checkpoints.restore({"a": 0})["a"]) == 22
    best = Checkpoints(tmp_path / "best", keep=1)
    best.save(8, {"a": jnp.array(8)})
    best.save(5, {"a": jnp.array(5)})
    assert best.epochs() == [5]


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint in {tmp_path}"):
        Checkpoints(tmp_path).restore(state())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of epoch 7 in .*; there are \[1, 2\]"):
        Checkpoints(saved).restore(state(), epoch=7)


def test_checkpoints_of_another_model_are_refused_by_name(saved):
    before = files_of(saved)
    checkpoints = Checkpoints(saved)
    with pytest.raises(ValueError, match=r"2 is of another model: .*got float32 \[40, 50\]") as caught:
        checkpoints.restore(state(width=41))
    assert "expected params.vae.w to be float32 [41, 50]" in str(caught.value)
    assert "corrupted" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"another model: .*to be float64 \[3\], got float32 \[3\].* and 3 more"
    ):
        checkpoints.restore(state(dtype=jnp.float64))
    more, fewer = {"bound": {"m": jnp.zeros(2)}}, {"vae": {"b": state().params["vae"]["b"]}}
    with pytest.raises(ValueError, match=r"params.bound.m to be float64 \[2\], got nothing"):
        checkpoints.restore(state()._replace(params=state().params | more))
    with pytest.raises(ValueError, match=r"params.vae.w to be absent, got float32 \[40, 50\]"):
        checkpoints.restore(state()._replace(params=fewer))
    assert files_of(saved) == before


DAMAGES = {
    "cut short": lambda raw: raw[: len(raw) // 2],
    "a bit flipped": lambda raw: (
        raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 16]) + raw[len(raw) // 2 + 1 :]
    ),
    "emptied": lambda raw: b"",
    "gone": None,
}


def try_to_restore(folder: Path) -> str | None:
    """The message of restore's ValueError; or None, after making sure of what it gave."""
    checkpoints = Checkpoints(folder)
    newest = checkpoints.epochs()[-1]  # 1 if Orbax does not find the mark of a finished save in 2
    try:
        assert_same(checkpoints.restore(state(9)), state(newest))
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_error_that_names_the_checkpoint_and_the_way_out(saved, tmp_path, damage):
    """Each file of the newest checkpoint in turn: an error, or exactly what was saved; never other numbers."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    newest = folder / "2"
    paths = [path for path in newest.rglob("*") if path.is_file()]
    for path in paths:
        whole = path.read_bytes()
        if DAMAGES[damage] is None:
            path.unlink()
        else:
            path.write_bytes(DAMAGES[damage](whole))
        before = files_of(folder)
        message = try_to_restore(folder)
        assert files_of(folder) == before
        if path.parent != newest:  # Orbax's own remarks on the save may come and go
            assert message is not None, path
            name = path.relative_to(newest)
            assert f"the checkpoint {newest} is corrupted: {name} is " in message
            assert message.endswith(f"move {newest} away to go on from epoch 1")
        path.write_bytes(whole)
    assert try_to_restore(folder) is None


# Orbax leaves other reads behind a failed one, and closes their event loop under them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut short", "a bit flipped"])
def test_damage_is_seen_without_the_files_checksums(saved, tmp_path, damage):
    """A save that was killed just before it wrote them."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    (folder / "2" / "checksums.json").unlink()
    assert try_to_restore(folder) is None
    largest = max(
        (path for path in (folder / "2").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    largest.write_bytes(DAMAGES[damage](largest.read_bytes()))
    message = try_to_restore(folder)
    assert message is not None
    assert str(folder / "2") in message
    assert "is corrupted" in message
    assert message.endswith("away to go on from epoch 1")
    assert "\n" not in message
    gc.collect()


def test_moving_a_damaged_checkpoint_away_goes_on_from_the_one_before(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    largest = max(
        (path for path in (folder / "2").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    largest.write_bytes(b"")
    with pytest.raises(ValueError, match="away to go on from epoch 1"):
        Checkpoints(folder).restore(state(9))
    (folder / "2").rename(tmp_path / "damaged")
    assert_same(Checkpoints(folder).restore(state(9)), state(1))


def test_the_only_checkpoint_damaged_says_so(saved, tmp_path):
    shutil.copytree(saved / "2", tmp_path / "2")
    for path in (tmp_path / "2" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is corrupted: .*; it is the only one"):
        Checkpoints(tmp_path).restore(state(9))


def test_other_numbers_under_a_sound_file_system_are_seen_by_the_checksum(saved, tmp_path):
    """Files of one checkpoint in another: each is whole, and only the digest can tell."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    (folder / "2" / "checksums.json").unlink()
    shutil.rmtree(folder / "2" / "state")
    shutil.copytree(folder / "1" / "state", folder / "2" / "state")
    with pytest.raises(ValueError, match=r"is corrupted: expected checksum \w{8}, got \w{8}; move"):
        Checkpoints(folder).restore(state(9))


def test_ctrl_c_in_mid_save_is_raised_when_the_checkpoint_is_whole(tmp_path, monkeypatch):
    plain = Checkpoints._save

    def slow(*arguments):
        time.sleep(1.0)
        plain(*arguments)

    monkeypatch.setattr(Checkpoints, "_save", slow)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # tests in the background have it ignored
    checkpoints = Checkpoints(tmp_path)
    tree = {"a": np.arange(3.0)}
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(1, tree)
        # At once, as the process may end now.
        assert [path.name for path in tmp_path.glob("[0-9]*")] == ["1"]
    finally:
        signal.signal(signal.SIGINT, before)
    np.testing.assert_array_equal(checkpoints.restore(tree)["a"], tree["a"])


def test_a_kill_in_mid_save_leaves_the_checkpoint_before_it_whole(saved, tmp_path, monkeypatch):
    """The save dies before its last act, the renaming of the temporary folder."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    before = files_of(folder)

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        for module in (os, Path):
            patch.setattr(module, "rename", die)
        with pytest.raises(Killed):
            Checkpoints(folder).save(3, state(3))
    after = files_of(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before), "the save did not begin"
    checkpoints = Checkpoints(folder)
    assert checkpoints.epochs() == [1, 2]
    assert_same(checkpoints.restore(state(9)), state(2))
    checkpoints.save(3, state(3))
    assert checkpoints.epochs() == [2, 3]
    assert_same(checkpoints.restore(state(9)), state(3))


def test_digest_sees_values_dtypes_and_shapes():
    array = np.arange(6, dtype=np.int32)
    others = [array + 1, array[::-1], array.astype(np.uint32), array.reshape(2, 3)]
    assert digest({"a": array}) == digest({"a": jnp.asarray(array)})
    assert len({digest({"a": other}) for other in [array, *others]}) == 5


@pytest.mark.parametrize("epoch", [2, 3])  # one that is there, and a new one
def test_a_full_disk_is_an_error_in_one_line_and_costs_nothing_of_before(saved, tmp_path, epoch):
    """The system refuses to write more than a few bytes to a file, as it does when the disk is full."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    before, limits = files_of(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    checkpoints = Checkpoints(folder)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
        with pytest.raises(
            OSError, match=rf"epoch {epoch} could not be written .*; that of epoch 2 is kept"
        ) as caught:
            checkpoints.save(epoch, state(5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert files_of(folder) == before
    assert_same(Checkpoints(folder).restore(state(9)), state(2))
    checkpoints.save(3, state(3))
    assert_same(Checkpoints(folder).restore(state(9)), state(3))
    gc.collect()


def test_a_folder_that_is_removed_while_many_arrays_are_written_is_one_error(tmp_path, caplog, capfd):
    """The writes that are under way when the first one fails end in silence (pytest makes errors of their ends)."""
    failed = 0
    for number in range(20):  # some of them in mid-write
        folder = tmp_path / str(number)
        checkpoints = Checkpoints(folder, asynchronous=True)
        checkpoints.save(1, {f"array {index}": np.ones(3000) for index in range(200)})
        time.sleep(0.01 * number)
        while folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            checkpoints.wait()
            continue
        failed += 1
    gc.collect()
    assert failed
    assert "Event loop is closed" not in capfd.readouterr().err
    assert "Traceback" not in caplog.text
