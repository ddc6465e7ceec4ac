"""CIFAR-10 from its own batches, from an archive and from a subset that says so."""

import pickle
import struct

import numpy as np
import pytest

from hmcvae import data
from hmcvae.data import cifar
from tests.support.images import Malicious, random_pixels
from tests.support.paths import REPOSITORY


def old_batch(images):
    """A batch as Python 2 and the NumPy of 2009 pickled it: {'labels': [], 'data': uint8 [n, 3072]}."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)

    def text(value):  # SHORT_BINSTRING: bytes in Python 3
        return b"U" + bytes([len(value)]) + value

    def number(value):  # BININT
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"  # align=0, copy=1
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"tR"
    )
    buffer = b"T" + struct.pack("<i", rows.size) + rows.tobytes()
    array += (
        b"(" + number(1) + number(rows.shape[0]) + number(3072) + b"\x86" + dtype + b"\x89" + buffer + b"tb"
    )
    return b"\x80\x02}(" + text(b"labels") + b"]" + text(b"data") + array + b"u."


@pytest.mark.parametrize("protocol", ["old", 2, 4, 5])
def test_cifar10_python_batches(tmp_path, protocol):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = random_pixels(0, 12, 32, 32, 3)
    for i, filename in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        part = images[2 * i : 2 * i + 2]
        if protocol == "old":
            raw = old_batch(part)
        else:
            raw = pickle.dumps({b"data": part.transpose(0, 3, 1, 2).reshape(2, 3072)}, protocol)
        (folder / filename).write_bytes(raw)
    dataset = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.train, images[:10])
    np.testing.assert_array_equal(dataset.test, images[10:])
    assert (dataset.image_shape, dataset.max_value) == ((32, 32, 3), 255)
    (folder / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_4\n"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"data": Malicious()}, r"got an array of dtype \[\] and shape None"),
        ({b"labels": []}, "got no key 'data'"),
        (
            {b"data": np.zeros((2, 30), np.uint8)},
            r"'data' as uint8 \[n, 3072\], got an array of dtype \['u1'\] and shape \(2, 30\)",
        ),
        ({b"data": [1]}, "got nothing in it"),
        ({b"data": np.zeros((2, 3072), np.float32)}, r"got an array of dtype \['f4'\] and shape \(2, 3072\)"),
        ({b"data": np.zeros((2, 3072), np.uint8, order="F")}, "shape .2, 3072., by columns"),
    ],
)
def test_cifar10_batch_that_is_broken(tmp_path, monkeypatch, batch, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(batch))
    with pytest.raises(ValueError, match=f"data_batch_1: .*{message}"):
        cifar.read_cifar10_batch(path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)})[:-9])
    with pytest.raises(ValueError, match="data_batch_1: expected a pickled CIFAR-10 batch"):
        cifar.read_cifar10_batch(path)


def test_cifar10_subset_says_so_and_comes_last(tmp_path):
    train, test = random_pixels(0, 5, 32, 32, 3), random_pixels(1, 2, 32, 32, 3)
    np.savez(tmp_path / "cifar10_subset.npz", train=train, test=test)
    dataset = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.train, train)
    np.testing.assert_array_equal(dataset.test, test)
    assert "cifar10_subset.npz (NOT the whole set: 5 of 50,000 training and 2 of 10,000" in dataset.source
    np.savez(tmp_path / "cifar10.npz", train=test, test=train)
    np.testing.assert_array_equal(data.load("cifar10", tmp_path).train, test)
    np.savez(tmp_path / "cifar10.npz", train=test.astype(np.float32), test=train)
    with pytest.raises(
        ValueError, match=r"cifar10, train .*expected uint8 \[n, 32, 32, 3\], got float32 \[2, 32"
    ):
        data.load("cifar10", tmp_path)


def test_cifar10_batches_of_any_size_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_MAX_BYTES", 1000)
    (tmp_path / "data_batch_1").write_bytes(bytes(1001))
    with pytest.raises(ValueError, match="at most 1000 bytes, got 1001 bytes"):
        cifar.read_cifar10_batch(tmp_path / "data_batch_1")


def test_nothing_in_the_library_unpickles():
    """What a stranger can write is never executed."""
    sources = [
        path.read_text() for room in ("hmcvae", "experiments") for path in (REPOSITORY / room).rglob("*.py")
    ]
    assert len(sources) > 100
    assert not any(
        "pickle.load" in text or "Unpickler" in text or "allow_pickle=True" in text for text in sources
    )
