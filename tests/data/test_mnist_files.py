"""Idx files and the binarized MNIST's: what is read, and what is refused by name."""

import zlib

import numpy as np
import pytest

from hmcvae import data
from hmcvae.data.idx import TEST_CRC
from tests.support.images import random_pixels, write_idx, write_idx_pair

# ---- idx


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("sub", ["", "own"])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read(tmp_path, name, sub, suffix):
    folder = tmp_path / (name if sub else "")
    train, test = write_idx_pair(folder, suffix)
    dataset = data.load(name, tmp_path)
    np.testing.assert_array_equal(dataset.train, train)
    np.testing.assert_array_equal(dataset.test, test)
    assert dataset.train.dtype == np.uint8
    assert dataset.train.flags.writeable
    assert dataset.validation.shape == (0, 28, 28, 1)
    assert dataset.image_shape == (28, 28, 1)
    assert (dataset.name, dataset.max_value) == (name, 255)
    assert dataset.source.startswith(f"idx files in {folder}")
    assert "7 of 60,000 training and 3 of 10,000 test" in dataset.source


def test_idx_axes_are_count_rows_columns(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(12)]))
    expected = [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    np.testing.assert_array_equal(data.read_idx(path), expected)


def test_idx_that_is_broken_says_what_came(tmp_path):
    images = random_pixels(0, 2, 28, 28)
    path = tmp_path / "train-images-idx3-ubyte"

    write_idx(path, images, magic=0x0801)
    with pytest.raises(
        ValueError, match=r"train-images.*expected the magic number 0x00000803.*got 0x00000801"
    ):
        data.read_idx(path)

    write_idx(path, images)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(
        ValueError, match=r"train-images.*expected 1568 pixels, of shape \[2, 28, 28\], got 1563"
    ):
        data.read_idx(path)
    path.write_bytes(whole + b"?")
    with pytest.raises(ValueError, match=r"expected 1568 pixels.*got 1569"):
        data.read_idx(path)
    path.write_bytes(whole[:9])
    with pytest.raises(ValueError, match=r"train-images.*header of 16 bytes, got a file of 9 bytes"):
        data.read_idx(path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_gzip_that_is_broken_names_the_file(tmp_path, damage):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_idx(path, random_pixels(0, 2, 28, 28))
    raw = bytearray(path.read_bytes())
    if damage == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    path.write_bytes({"cut": raw[:200], "flipped": raw, "no gzip": b"<html>not found</html>"}[damage])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: expected a whole gzip file, got"):
        data.read_idx(path)


def test_images_of_another_shape_are_refused(tmp_path):
    write_idx_pair(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", random_pixels(0, 2, 28, 27))
    with pytest.raises(
        ValueError, match=r"mnist, test .*expected uint8 \[n, 28, 28, 1\], got .*\[2, 28, 27, 1\]"
    ):
        data.load("mnist", tmp_path)


def test_files_of_the_sister_set_are_not_taken(tmp_path, monkeypatch):
    _, test = write_idx_pair(tmp_path)
    monkeypatch.setitem(TEST_CRC, "mnist", zlib.crc32(test.tobytes()))
    assert data.load("mnist", tmp_path).test.shape == test.shape
    with pytest.raises(FileNotFoundError, match="its idx files are those of mnist"):
        data.load("fashion_mnist", tmp_path)


# ---- binarized MNIST


def write_binarized(folder, kind):
    splits = {k: random_pixels(i, 4 + i, 28, 28, high=2) for i, k in enumerate(("train", "valid", "test"))}
    folder.mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        if kind == "amat":
            text = "\n".join(" ".join(map(str, row)) for row in images.reshape(-1, 784))
            (folder / f"binarized_mnist_{split}.amat").write_text(text + "\n")
    if kind == "npz":
        # First pixel = highest bit, written out so that the reader's own call is not its own judge.
        weights = 1 << np.arange(7, -1, -1)
        packed = {k: (v.reshape(-1, 98, 8) * weights).sum(-1).astype(np.uint8) for k, v in splits.items()}
        np.savez_compressed(folder / "binarized_mnist.npz", **packed)
    return {k: v[..., None] for k, v in splits.items()}


@pytest.mark.parametrize("sub", ["", "binarized_mnist"])
@pytest.mark.parametrize("kind", ["npz", "amat"])
def test_binarized_mnist_keeps_its_own_splits(tmp_path, kind, sub):
    splits = write_binarized(tmp_path / sub, kind)
    dataset = data.load("binarized_mnist", tmp_path, num_validation=3)
    np.testing.assert_array_equal(dataset.train, splits["train"])
    np.testing.assert_array_equal(dataset.test, splits["test"])
    assert dataset.max_value == 1
    assert len(dataset.validation) == 3
    own = {image.tobytes() for image in splits["valid"]}
    assert {image.tobytes() for image in dataset.validation} < own
    everything = data.load("binarized_mnist", tmp_path, num_validation=5).validation
    assert {image.tobytes() for image in everything} == own
    np.testing.assert_array_equal(everything[:3], dataset.validation)
    order = np.random.RandomState(2015).permutation(5)  # the files are sorted by class
    np.testing.assert_array_equal(everything, splits["valid"][order])
    assert len(data.load("binarized_mnist", tmp_path).validation) == 0
    with pytest.raises(ValueError, match="num_validation <= 5 of the 5 validation images, got 6"):
        data.load("binarized_mnist", tmp_path, num_validation=6)


def test_binarized_files_that_are_broken(tmp_path):
    write_binarized(tmp_path, "amat")
    path = tmp_path / "binarized_mnist_test.amat"
    for text, message in [
        ("0 1 2 " + "0 " * 781, r"test images.*expected pixels in \[0, 1\].*images\[0, 0, 2, 0\] = 2"),
        ("0 1 0\n1 1 1\n", r"test\.amat: expected lines of 784 pixels, got lines of 3"),
        ("0 1 0\n1 1\n", r"test\.amat: expected lines of 784"),
        ("0.5 " * 784, r"test\.amat: expected lines of 784"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            data.load("binarized_mnist", tmp_path)

    path = tmp_path / "binarized_mnist.npz"  # comes before the amat files
    np.savez(path, train=np.zeros((2, 98), np.uint8))
    with pytest.raises(
        ValueError, match=r"binarized_mnist\.npz: expected readable arrays train, valid, test.*valid"
    ):
        data.load("binarized_mnist", tmp_path)
    np.savez(path, **dict.fromkeys(("train", "valid", "test"), np.zeros((2, 784), np.uint8)))
    with pytest.raises(
        ValueError, match=r"npz: expected bits packed as uint8 \[n, 98\], got uint8 \[2, 784\]"
    ):
        data.load("binarized_mnist", tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"npz: expected an npz archive"):
        data.load("binarized_mnist", tmp_path)
