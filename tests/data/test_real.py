"""The real sets, where the project's data directory exists."""

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from hmcvae import data
from hmcvae.data import prepared
from tests.support.paths import REPOSITORY

REAL = Path(os.environ.get("HMCVAE_DATA_DIR") or REPOSITORY.parent / "shared" / "data")


def needs_data(path):
    return pytest.mark.skipif(not (REAL / path).exists(), reason=f"no {path} in the data directory {REAL}")


@needs_data("mnist")
def test_real_mnist():
    dataset = data.load("mnist", REAL, num_validation=10_000)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (50_000, 10_000, 10_000)
    assert dataset.source == f"idx files in {REAL / 'mnist'}"
    dataset = data.load("mnist", REAL)
    header = struct.pack(">4I", 0x0803, 60_000, 28, 28), struct.pack(">4I", 0x0803, 10_000, 28, 28)
    digests = [
        hashlib.md5(header[i] + (dataset.train, dataset.test)[i].tobytes()).hexdigest() for i in (0, 1)
    ]
    assert digests == ["6bbc9ace898e44ae57da46a324031adb", "2646ac647ad5339dbf082846283269ea"]


@needs_data("tfds/mnist")
@needs_data("mnist")
def test_real_prepared_mnist_is_the_same_set_in_another_order():
    tfds = prepared.import_tfds()
    path = prepared.prepared_folder(REAL / "tfds", "mnist")
    test = prepared.read_split(tfds.builder_from_directory(str(path)), "test")
    idx = data.read_idx(REAL / "mnist" / "t10k-images-idx3-ubyte.gz")[..., None]
    assert test.shape == idx.shape
    assert test.dtype == np.uint8
    assert sorted(map(bytes, test)) == sorted(map(bytes, idx))


@pytest.mark.slow
@needs_data("tfds/mnist")
@needs_data("mnist")
def test_real_prepared_mnist_is_loaded_whole(tmp_path):
    copy, idx = data.load("mnist", REAL / "tfds"), data.load("mnist", REAL)
    assert copy.source == f"tensorflow-datasets copy in {REAL / 'tfds' / 'mnist' / '3.0.1'}"
    assert sorted(map(bytes, copy.train)) == sorted(map(bytes, idx.train))
    assert sorted(map(bytes, copy.test)) == sorted(map(bytes, idx.test))


@needs_data("fashion_mnist")
@needs_data("mnist")
def test_real_fashion_mnist_is_told_from_mnist(tmp_path):
    dataset = data.load("fashion_mnist", REAL)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    for name, other in [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")]:
        with pytest.raises(FileNotFoundError, match=f"its idx files are those of {other}"):
            data.load(name, REAL / other)


@needs_data("binarized_mnist.npz")
def test_real_binarized_mnist():
    dataset = data.load("binarized_mnist", REAL, num_validation=10_000)
    splits = dataset.train, dataset.validation, dataset.test
    assert [len(images) for images in splits] == [50_000, 10_000, 10_000]
    means = [images.mean(dtype=np.float64) for images in splits]
    np.testing.assert_allclose(means, [0.1306, 0.1311, 0.1325], atol=5e-5)
    # Neighbours along a column agree in 92 % of places; with the bits of each byte in reverse, in 77 %.
    images = dataset.test[..., 0]
    assert np.mean(images[:, 1:] == images[:, :-1]) > 0.9
    assert dataset.max_value == 1
    assert dataset.source == f"static binarization in {REAL / 'binarized_mnist.npz'}"


@needs_data("cifar10_subset.npz")
def test_real_cifar10_subset():
    dataset = data.load("cifar10", REAL, num_validation=500)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4500, 500, 1000)
    assert "NOT the whole set: 5,000 of 50,000 training and 1,000 of 10,000 test" in dataset.source
