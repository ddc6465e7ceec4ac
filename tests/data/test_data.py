"""Data sets: from tiny files made up here and, where the project's data directory exists, from real ones."""

import gzip
import hashlib
import importlib
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
import types
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from hmcvae import data
from hmcvae.data import cifar, prepared
from hmcvae.data.dataset import FORMATS
from hmcvae.data.idx import TEST_CRC

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("HMCVAE_DATA_DIR") or ROOT.parent / "shared" / "data")


def needs_data(path):
    return pytest.mark.skipif(not (REAL / path).exists(), reason=f"no {path} in the data directory {REAL}")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and no data but what the test itself names."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"went to the network: {args}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HMCVAE_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def random_pixels(seed, *shape, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def write_idx(path, images, magic=0x0803):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = struct.pack(">4I", magic, *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_idx_pair(folder, suffix="", num_train=7, num_test=3):
    train, test = random_pixels(0, num_train, 28, 28), random_pixels(1, num_test, 28, 28)
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", train)
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", test)
    return train[..., None], test[..., None]


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


# ---- CIFAR-10


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


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"data": Malicious()}, "mkdir, which is no part of an array"),
        ({b"labels": []}, "KeyError"),
        (
            {b"data": np.zeros((2, 30), np.uint8)},
            r"expected 'data' as uint8 \[n, 3072\], got uint8 \[2, 30\]",
        ),
        ({b"data": [1]}, "got list"),
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


# ---- digits and validation images


def test_digits_need_no_files():
    from sklearn.datasets import load_digits

    dataset = data.load("digits")
    assert (len(dataset.train), len(dataset.test)) == (1500, 297)
    assert (dataset.image_shape, dataset.max_value, dataset.source) == ((8, 8, 1), 16, "scikit-learn digits")
    assert (dataset.train.min(), dataset.train.max()) == (0, 16)
    ours = sorted(image.tobytes() for image in np.concatenate([dataset.train, dataset.test])[..., 0])
    assert ours == sorted(image.tobytes() for image in load_digits().images.astype(np.uint8))
    # A recorded figure rests on this very split: a change of it must be seen.
    digest = hashlib.md5(dataset.train.tobytes()).hexdigest()
    assert digest == "dda6b4b845b2312a4845d90d3b38ef23"


def test_validation_images_leave_the_training_set(tmp_path):
    train, test = write_idx_pair(tmp_path, num_train=200)
    dataset = data.load("mnist", tmp_path, num_validation=60)
    assert (len(dataset.train), len(dataset.validation)) == (140, 60)
    np.testing.assert_array_equal(dataset.test, test)
    position = {image.tobytes(): i for i, image in enumerate(train)}
    kept = [position[image.tobytes()] for image in dataset.train]
    taken = [position[image.tobytes()] for image in dataset.validation]
    assert sorted(kept + taken) == list(range(200))
    assert kept == sorted(kept)
    assert min(taken) < 30 < 170 < max(taken)  # from all over
    assert np.any(np.diff(taken) < 0)  # not sorted: a part of it is a fair sample too
    permutation = np.random.RandomState(2015).permutation(200)
    assert taken == permutation[140:].tolist()
    again = data.load("mnist", tmp_path, num_validation=60)
    np.testing.assert_array_equal(again.validation, dataset.validation)
    one = data.load("mnist", tmp_path, num_validation=1).validation
    np.testing.assert_array_equal(one, dataset.validation[-1:])


@pytest.mark.parametrize("num_validation", [-1, 1500, 2000])
def test_number_of_validation_images_out_of_range(num_validation):
    with pytest.raises(ValueError, match=f"expected num_validation .*got {num_validation}"):
        data.load("digits", num_validation=num_validation)


def test_all_but_one_image_may_be_set_aside():
    assert len(data.load("digits", num_validation=1499).train) == 1


# ---- pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64, np.bool_])
def test_check_pixels_accepts_the_range(dtype):
    data.check_pixels(np.array([0, 1, 1, 0], dtype).reshape(1, 2, 2, 1), 1)


def test_check_pixels_says_what_came():
    images = np.zeros((2, 3, 4, 1), np.float32)
    images[1, 2, 3, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"\[0, 1\], got 1 NaN, 0 negative and 0 above.*images\[1, 2, 3, 0\] = nan"
    ):
        data.check_pixels(images, 1)
    images[1, 0, 1, 0], images[1, 0, 2, 0], images[1, 1, 0, 0] = -0.5, np.inf, 1.5
    with pytest.raises(
        ValueError, match=r"1 NaN, 1 negative and 2 above; the first is images\[1, 0, 1, 0\] = -0\.5"
    ):
        data.check_pixels(images, 1)
    with pytest.raises(
        ValueError, match=r"\[0, 16\], got 0 NaN, 0 negative and 2 above.*images\[0, 0, 1, 0\] = 17"
    ):
        data.check_pixels(np.array([16, 17, 255, 0], np.uint8).reshape(1, 2, 2, 1), 16)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.array([0, -1]).reshape(1, 1, 2, 1),
            r"got 0 NaN, 1 negative and 0 above.*images\[0, 0, 1, 0\] = -1",
        ),
        (np.zeros((28, 28)), r"shape \[n, h, w, c\], got an array of shape \[28, 28\]"),
        (np.zeros((0, 28, 28, 1)), r"at least one image, got an empty array of shape \[0, 28, 28, 1\]"),
        (np.zeros((1, 1, 1, 1), complex), "real numbers, got dtype complex128"),
        (np.full((1, 1, 1, 1), "a"), "real numbers, got dtype <U1"),
    ],
)
def test_check_pixels_says_what_it_wants(images, message):
    with pytest.raises(ValueError, match=message):
        data.check_pixels(images, 255)


# ---- files made to fill memory, or to be run


def peak_of(function) -> int:
    """Bytes of memory that a call asks for, at most at one time."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claimed", [(2, 28, 28), (2**16, 2**10, 2), (2**16, 2**16, 2**16)])
def test_a_small_gzip_file_cannot_fill_memory(tmp_path, claimed):
    """64 MB of zeros in 64 kB, whatever the header says of them."""
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x0803, *claimed) + bytes(2**26)))

    def read():
        with pytest.raises(
            ValueError, match=r"ubyte\.gz: expected \d+ pixels|ubyte\.gz: expected at most 100000 pix"
        ):
            data.read_idx(path, 100_000)

    assert peak_of(read) < 2**22


def test_as_many_pixels_as_a_data_set_never_has_are_not_read(tmp_path, monkeypatch):
    write_idx_pair(tmp_path, ".gz", num_train=30)
    monkeypatch.setitem(FORMATS, "mnist", FORMATS["mnist"]._replace(num_train=10))
    with pytest.raises(ValueError, match=r"at most 15680 pixels, got 23520, of shape \[30, 28, 28\]"):
        data.load("mnist", tmp_path)


def write_npz(path, key, shape, stored=b"", dtype="|u1"):
    """An npz archive of one array, whose header says what it likes."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header + stored)


@pytest.mark.parametrize(
    ("shape", "stored", "message"),
    [
        (
            (10**13,),
            b"",
            r"npz: expected train to have 10000000000000 bytes, of uint8 \[10000000000000\], got 0",
        ),
        ((10**30, 2), b"", "npz: expected train to have 20{30} bytes"),
        ((2, 98), bytes(2**26), "npz: expected train to have 196 bytes, .* got 67108864"),
        ((10**9,), bytes(2**10), "npz: expected train to have 1000000000 bytes, .* got 1024"),
    ],
)
def test_an_array_is_not_made_room_for_before_its_size_is_seen(tmp_path, shape, stored, message):
    write_npz(tmp_path / "binarized_mnist.npz", "train", shape, stored)

    def read():
        with pytest.raises(ValueError, match=message):
            data.load("binarized_mnist", tmp_path)

    assert peak_of(read) < 2**22


def test_arrays_of_python_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "cifar10.npz", "train", (1,), pickle.dumps(Malicious()), dtype="|O")
    with zipfile.ZipFile(tmp_path / "cifar10.npz", "a") as archive:
        archive.writestr("test.npy", archive.read("train.npy"))
    with pytest.raises(ValueError, match=r"cifar10\.npz: expected readable arrays .*allow_pickle=False"):
        data.load("cifar10", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
@pytest.mark.parametrize("is_nested", [True, False])
def test_a_prepared_copy_cannot_have_a_module_imported(tmp_path, monkeypatch, key, is_nested):
    splits = {"train": random_pixels(0, 2, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)}
    folder = write_prepared(tmp_path, "cifar10", splits)
    (tmp_path / "named_by_a_file.py").write_text("import os; os.mkdir(os.environ['HOME'] + '-ran')")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads((folder / "features.json").read_text())
    wanted = {key: "named_by_a_file.Feature", "content": {}}
    if is_nested:
        features["featuresDict"]["features"]["other"] = wanted
    else:
        features = {"json": json.dumps(features), "inside": json.dumps([wanted])}
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(ValueError, match="features of images alone, got .*named_by_a_file.Feature"):
        data.load("cifar10", tmp_path)
    assert "named_by_a_file" not in sys.modules
    assert not (tmp_path / "home-ran").exists()


@pytest.mark.parametrize("num_validation", [True, 1.5, "2", None])
def test_number_of_validation_images_is_a_whole_number(num_validation):
    with pytest.raises(ValueError, match="num_validation to be a whole number"):
        data.load("digits", num_validation=num_validation)
    assert len(data.load("digits", num_validation=np.int64(2)).validation) == 2


# ---- no data, and the way through tensorflow-datasets


def test_unknown_name_lists_the_names():
    with pytest.raises(
        ValueError, match="digits, mnist, fashion_mnist, binarized_mnist, cifar10; got 'imagenet'"
    ):
        data.load("imagenet")
    assert data.NAMES == ("digits", "mnist", "fashion_mnist", "binarized_mnist", "cifar10")


@pytest.mark.parametrize("name", data.NAMES[1:])
@pytest.mark.parametrize("where", ["empty", "absent", None])
def test_without_data_an_error_at_once_says_what_to_do(tmp_path, monkeypatch, name, where):
    (tmp_path / "empty").mkdir()
    for module in ("tensorflow_datasets", "tensorflow"):
        monkeypatch.setitem(sys.modules, module, None)  # nothing of it is needed to say this
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as raised:
        data.load(name, None if where is None else tmp_path / where)
    assert time.perf_counter() - start < 1
    message = str(raised.value)
    for words in (
        "--data-dir",
        "--download",
        "pip install -e '.[tfds]'",
        "HMCVAE_DATA_DIR",
        f"{name}/<version>",
    ):
        assert words in message
    if where is None:
        assert str(tmp_path / "home" / "tensorflow_datasets" / name) in message
    else:
        stem = {"cifar10": "data_batch_1", "binarized_mnist": "binarized_mnist.npz"}.get(
            name, "train-images-idx3"
        )
        for folder in (tmp_path / where / name, tmp_path / where):
            assert f"{folder}/" in message
        assert stem in message
    assert ("no such folder" in message) == (where == "absent")


def test_a_half_copied_set_names_the_missing_file(tmp_path):
    write_idx_pair(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"mnist/t10k-images-idx3-ubyte\[\.gz\]"):
        data.load("mnist", tmp_path)


def test_environment_variable_names_the_data_directory(tmp_path, monkeypatch):
    train, _ = write_idx_pair(tmp_path / "there" / "mnist")
    monkeypatch.setenv("HMCVAE_DATA_DIR", str(tmp_path / "there"))
    np.testing.assert_array_equal(data.load("mnist").train, train)
    with pytest.raises(FileNotFoundError):
        data.load("mnist", tmp_path / "elsewhere")  # a folder that is named is the only one


def test_import_loads_no_other_library():
    code = (
        "import sys, hmcvae.data;"
        "print([m for m in ('flax', 'optax', 'sklearn', 'tensorflow_datasets', 'PIL') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def write_prepared(root, name, splits, version="3.0.2"):
    """A copy as tensorflow-datasets prepares it, but without TensorFlow: PNG images in array_record files."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    folder = root / name / version
    folder.mkdir(parents=True)
    shape = next(iter(splits.values())).shape[1:]
    infos = []
    for split, images in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for image in images:
            png = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if shape[-1] == 1 else image).save(png, "PNG")
            feature = tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[png.getvalue()]))
            features = tf_feature_pb2.Features(feature={"image": feature})
            writer.write(tf_example_pb2.Example(features=features).SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        infos.append({"name": split, "shardLengths": [str(len(images))], "filepathTemplate": template})
    info = {"name": name, "version": version, "fileFormat": "array_record", "splits": infos}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    classes = "tensorflow_datasets.core.features."
    image = {"dtype": "uint8", "shape": {"dimensions": [str(n) for n in shape]}}
    image = {"pythonClassName": f"{classes}image_feature.Image", "image": image}
    dictionary = {"pythonClassName": f"{classes}features_dict.FeaturesDict"}
    (folder / "features.json").write_text(
        json.dumps({**dictionary, "featuresDict": {"features": {"image": image}}})
    )
    return folder


@pytest.mark.parametrize("sub", ["tfds", ""])
def test_prepared_copy_is_read_without_network_or_tensorflow(tmp_path, sub):
    had_tensorflow = "tensorflow" in sys.modules
    splits = {"train": random_pixels(0, 5, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)}
    folder = write_prepared(tmp_path / sub, "cifar10", splits)
    dataset = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.train, splits["train"])
    np.testing.assert_array_equal(dataset.test, splits["test"])
    assert dataset.source.startswith(f"tensorflow-datasets copy in {folder} (NOT the whole set")
    assert ("tensorflow" in sys.modules) == had_tensorflow


def test_prepared_binarized_mnist_keeps_its_validation_images(tmp_path):
    splits = {
        k: random_pixels(i, 3, 28, 28, 1, high=2) for i, k in enumerate(("train", "validation", "test"))
    }
    write_prepared(tmp_path / "home" / "tensorflow_datasets", "binarized_mnist", splits)
    dataset = data.load("binarized_mnist", num_validation=3)  # in tensorflow-datasets' own folder
    np.testing.assert_array_equal(dataset.train, splits["train"])
    np.testing.assert_array_equal(dataset.test, splits["test"])
    own = {image.tobytes() for image in splits["validation"]}
    assert {image.tobytes() for image in dataset.validation} == own


def test_local_files_come_before_a_prepared_copy_and_that_before_the_subset(tmp_path):
    train, test = random_pixels(0, 3, 32, 32, 3), random_pixels(1, 2, 32, 32, 3)
    np.savez(tmp_path / "cifar10_subset.npz", train=test, test=test)
    write_prepared(tmp_path / "tfds", "cifar10", {"train": train, "test": test})
    assert "tensorflow-datasets copy" in data.load("cifar10", tmp_path).source
    np.savez(tmp_path / "cifar10.npz", train=test, test=test)
    assert "cifar10.npz" in data.load("cifar10", tmp_path).source


def test_newest_array_record_version_is_taken(tmp_path):
    splits = {"train": random_pixels(0, 2, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)}
    for version in ("3.0.2", "3.0.10", "4.0.0", "incomplete.X_5.0.0"):
        write_prepared(tmp_path, "cifar10", splits, version)
    info = tmp_path / "cifar10" / "4.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert "cifar10/3.0.10 " in data.load("cifar10", tmp_path).source
    for version in ("3.0.2", "3.0.10"):
        (tmp_path / "cifar10" / version / "dataset_info.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"4\.0\.0 as array_record \(it is tfrecord: move it away"):
        data.load("cifar10", tmp_path)
    info.write_text("{")
    with pytest.raises(ValueError, match=r"4\.0\.0: expected a dataset_info\.json"):
        data.load("cifar10", tmp_path)


def test_prepared_copy_that_is_broken_names_the_folder(tmp_path):
    splits = {"train": random_pixels(0, 4, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)}
    folder = write_prepared(tmp_path, "cifar10", splits)
    record = folder / "cifar10-test.array_record-00000-of-00001"
    record.write_bytes(record.read_bytes()[:-70_000])
    with pytest.raises(
        ValueError, match=r"cifar10/3\.0\.2: expected a whole tensorflow-datasets copy of cifar10, got"
    ):
        data.load("cifar10", tmp_path)


class FakeTFDS(types.ModuleType):
    """Stands for tensorflow_datasets: notes each download, and prepares a tiny copy instead."""

    def __init__(self, splits):
        super().__init__("tensorflow_datasets")
        self.splits, self.calls = splits, []
        self.real = importlib.import_module("tensorflow_datasets")
        self.builder_from_directory = self.real.builder_from_directory
        self.download = types.SimpleNamespace(DownloadConfig=lambda **options: options)

    def builder(self, name, data_dir):
        def download_and_prepare(file_format, download_config):
            self.calls.append((name, data_dir, file_format, download_config))
            write_prepared(Path(data_dir), name, self.splits)

        return types.SimpleNamespace(download_and_prepare=download_and_prepare)


@pytest.fixture
def tfds(monkeypatch):
    fake = FakeTFDS({"train": random_pixels(0, 3, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)})
    original = importlib.import_module
    stand_ins = {"tensorflow_datasets": fake, "tensorflow": types.ModuleType("tensorflow")}
    monkeypatch.setattr(importlib, "import_module", lambda name: stand_ins.get(name) or original(name))
    return fake


def test_download_only_when_asked_for(tmp_path, tfds):
    np.savez(tmp_path / "cifar10_subset.npz", train=tfds.splits["test"], test=tfds.splits["test"])
    assert "cifar10_subset" in data.load("cifar10", tmp_path).source
    with pytest.raises(FileNotFoundError):
        data.load("cifar10", tmp_path / "absent")
    assert tfds.calls == []
    dataset = data.load("cifar10", tmp_path, download=True)  # a subset is no reason not to
    gcs = {"try_download_gcs": False}
    assert tfds.calls == [("cifar10", str(tmp_path / "tfds"), "array_record", gcs)]
    np.testing.assert_array_equal(dataset.train, tfds.splits["train"])
    data.load("cifar10", tmp_path, download=True)
    data.load("cifar10", tmp_path)
    assert len(tfds.calls) == 1  # it is there now


def test_download_without_a_data_directory_goes_where_tfds_keeps_its_own(tmp_path, tfds):
    data.load("cifar10", download=True)
    assert [call[1] for call in tfds.calls] == [str(tmp_path / "home" / "tensorflow_datasets")]


def test_local_files_are_not_downloaded_again(tmp_path, tfds):
    train, _ = write_idx_pair(tmp_path)
    np.testing.assert_array_equal(data.load("mnist", tmp_path, download=True).train, train)
    assert tfds.calls == []


@pytest.mark.parametrize("module", ["tensorflow", "tensorflow_datasets", "PIL.Image"])
def test_download_names_the_package_that_is_not_there(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"need {module} .*pip install 'hmcvae\[(tfds|experiments)\]'"):
        data.load("mnist", tmp_path, download=True)


def test_digits_name_scikit_learn_when_it_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"need sklearn\.datasets .*hmcvae\[experiments\]"):
        data.load("digits")


# ---- real data


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
    start = time.perf_counter()
    test = prepared.read_split(tfds.builder_from_directory(str(path)), "test")
    assert time.perf_counter() - start < 20  # minutes, if it went looking in the network
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
