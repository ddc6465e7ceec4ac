"""Checkpoints of any name and tree: what is saved is read back, or refused at once; and the blame fits the cause."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hmcvae.training import checkpoints as checkpoints_module
from hmcvae.training.checkpoints import Checkpoints
from tests.support.trees import assert_same

NAMES = ["lr=[0.1]", "a*b", "why?", "back\\slash", "uml\u00e4ut, and {spaces}", "50%"]


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name_are_written_and_read(tmp_path, name):
    checkpoints = Checkpoints(tmp_path / name)
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, {"a": jnp.arange(3.0) + epoch})
    again = Checkpoints(tmp_path / name)
    assert again.epochs() == [2, 3]
    np.testing.assert_array_equal(again.restore({"a": np.zeros(3)})["a"], np.arange(3.0) + 3)
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["2", "3"]


X = np.arange(3.0)
TREES = {
    "a dot in a name": {"a.b": X},
    "dots and slashes": {".": X, "..": X + 1, "a/b": X + 2, "": X + 3},
    "names in brackets": {"[0]": X, "a": [X + 1, (X + 2,)]},
    "whole numbers": {1: X, 2: X + 1},
    "nothing among them": {"a": None, "b": {}, "c": [], "d": X},
    "arrays without entries": {"a": np.zeros((4, 0)), "b": X, "c": np.zeros((0,), np.int32)},
    "nothing but those": {"a": np.zeros((4, 0))},
    "every dtype": [
        jnp.ones(2, dtype) for dtype in ("bfloat16", "float16", "int8", "uint32", "bool", "complex64")
    ],
    "Python's numbers": {"a": 3.0, "b": 2, "c": True},
}


@pytest.mark.parametrize("name", TREES)
def test_trees_of_any_kind_are_read_back(tmp_path, name):
    tree = jax.tree.map(np.asarray, TREES[name])
    Checkpoints(tmp_path).save(1, tree)
    assert_same(Checkpoints(tmp_path).restore(jax.tree.map(np.zeros_like, tree)), tree)


def test_arrays_without_entries_are_told_apart_by_their_shapes(tmp_path):
    Checkpoints(tmp_path).save(1, {"a": np.zeros((4, 0))})
    with pytest.raises(ValueError, match=r"another model: expected a to be \[0, 5\], got \[4, 0\]"):
        Checkpoints(tmp_path).restore({"a": np.zeros((0, 5))})
    with pytest.raises(ValueError, match="another model: expected a to be float64"):
        Checkpoints(tmp_path).restore({"a": np.zeros((4, 1))})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a.b": X, "a": {"b": X + 1}}, r"\['a'\]\['b'\] and \['a.b'\]: both are 'a.b'"),
        ({"a.0": X, "a": [X + 1]}, "both are 'a.0'"),
        ({}, "at least one array, got none"),
        ({"a": "text"}, "holds numbers, got str"),
        ({"a": object()}, "holds numbers, got object"),
        ({"a": jax.random.key(0)}, "got random keys: save jax.random.key_data"),
    ],
)
def test_trees_that_could_not_be_read_back_are_refused_at_once(tmp_path, tree, message):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": X})
    with pytest.raises(ValueError, match=message):
        checkpoints.save(2, tree)
    assert checkpoints.epochs() == [1]


@pytest.mark.parametrize("keep", [0, -1])
def test_how_many_are_kept_is_a_whole_number(tmp_path, keep):
    with pytest.raises(ValueError, match="keep must be a whole number of at least 1, got"):
        Checkpoints(tmp_path, keep=keep)


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Checkpoints("~/run").folder == (tmp_path / "run").resolve()


def test_a_reader_that_stays_open_sees_what_a_writer_does(tmp_path):
    reader, writer = Checkpoints(tmp_path), Checkpoints(tmp_path)
    seen = []
    for epoch in range(1, 5):
        writer.save(epoch, {"a": jnp.array(epoch)})
        seen.append(reader.epochs())
        assert int(reader.restore({"a": 0})["a"]) == epoch
    assert seen == [[1], [1, 2], [2, 3], [3, 4]]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of epoch 1 in .*; there are \[3, 4\]"):
        reader.restore({"a": 0}, epoch=1)


def test_one_that_is_deleted_while_it_is_read_is_not_called_corrupted(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (1, 2):
        checkpoints.save(epoch, {"a": X})
    read = checkpoints_module.damaged_files

    def read_too_late(place):
        shutil.rmtree(place)
        return read(place)

    monkeypatch.setattr(checkpoints_module, "damaged_files", read_too_late)
    with pytest.raises(FileNotFoundError, match=r"2 was deleted while it was read; there are now \[1\]"):
        checkpoints.restore({"a": X})


def test_the_newest_good_one_outlives_those_after_it(tmp_path):
    checkpoints, like = Checkpoints(tmp_path, keep=2), {"a": 0}
    for epoch, is_good in enumerate([True, True, False, False, False], start=1):
        checkpoints.save(epoch, {"a": jnp.array(epoch)}, is_good=is_good)
    assert checkpoints.epochs() == [2, 4, 5]
    assert Checkpoints(tmp_path).last_good() == 2
    assert int(Checkpoints(tmp_path).restore(like, 2)["a"]) == 2
    checkpoints.save(6, {"a": jnp.array(6)})
    assert (checkpoints.epochs(), checkpoints.last_good()) == ([5, 6], 6)


def test_no_space_left_is_said_in_the_systems_words(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)

    def fail(*args, **settings):
        raise ValueError("RESOURCE_EXHAUSTED: a page of words\nand more: No space left on device [a spec]")

    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(
        OSError, match=r"epoch 1 could not be written \(No space left on device\); there is none before"
    ):
        checkpoints.save(1, {"a": X})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="the folder of the checkpoints is gone"):
        checkpoints.save(1, {"a": X})
