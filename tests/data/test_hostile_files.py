"""Files made to fill memory, or to be run."""

import gzip
import json
import pickle
import struct
import sys
import tracemalloc
import zipfile

import pytest

from hmcvae import data
from hmcvae.data.dataset import FORMATS
from tests.support.images import Malicious, random_pixels, write_idx_pair, write_prepared


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
