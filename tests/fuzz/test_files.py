"""Files with bytes flipped, cut off, left out and put in: data, or an error that names the file; and never more memory
than the file can fill."""

import gzip
import io
import json
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from hmcvae import data
from hmcvae.data import prepared
from hmcvae.data.cifar import read_cifar10_batch
from tests.support.fuzz import changed_json, damages, fuzz, refusal
from tests.support.images import random_pixels

GREY, COLOUR = random_pixels(0, 6, 5, 4), random_pixels(1, 6, 5, 4, 3)
FORMATS = ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm")
# Of a file of a few hundred bytes: no more than this is asked for, whatever its header says. A picture of one colour
# can be large in a small file: there Pillow's own limit holds, 179 million pixels.
MOST_BYTES, MOST_BYTES_OF_A_PICTURE = 2**26, 2**30


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def picture(suffix):
    file = io.BytesIO()
    Image.fromarray(COLOUR[0]).save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return file.getvalue()


IDX = struct.pack(">4I", 0x0803, *GREY.shape) + GREY.tobytes()
NPZ = npz(train=GREY, test=GREY[:2])
BITS = npz(**{name: random_pixels(2, 2, 98) for name in ("train", "valid", "test")})
AMAT = "\n".join(" ".join(map(str, row)) for row in random_pixels(3, 2, 784, high=2)).encode()
BATCH = pickle.dumps({b"labels": [1, 2], b"data": random_pixels(4, 2, 3072)}, protocol=2)
PICTURES = {suffix: picture(suffix) for suffix in FORMATS}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def outcome(function, name, most_bytes=MOST_BYTES):
    """What a reader gives; None where it refuses and names the file."""
    found = []
    tracemalloc.start()
    try:
        said = refusal(lambda: found.append(function()), ValueError, OSError)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most_bytes
    assert said is None or name in said
    return found[0] if found else None


def check_images(found):
    if found is not None:
        assert found.train.dtype == found.test.dtype == np.uint8
        assert found.train.ndim == 4


def from_byte(position, own):
    return lambda raw: raw[:position] + own + raw[position + len(own) :]


@fuzz(150)
@given(damages())
@example(from_byte(NPZ.rindex(b"PK\x01\x02") + 6, b"\x6d"))  # a version of zip that does not exist
@example(from_byte(NPZ.rindex(b"PK\x01\x02") + 10, b"\x63"))  # a compression that does not
@example(from_byte(NPZ.rindex(b"PK\x01\x02") + 8, b"\x01"))  # encrypted
def test_an_archive_of_ones_own(place, damage):
    path = place / "mine.npz"
    path.write_bytes(damage(NPZ))
    check_images(outcome(lambda: data.load(str(path)), "mine.npz"))


@fuzz(100)
@given(damages())
def test_an_archive_of_packed_bits(place, damage):
    (place / "binarized_mnist.npz").write_bytes(damage(BITS))
    check_images(outcome(lambda: data.load("binarized_mnist", place), "binarized_mnist"))


@fuzz(150)
@given(damages(), st.booleans(), st.booleans())
def test_idx_files(place, damage, is_gzip, is_inside):
    path = place / ("images.gz" if is_gzip else "images")
    if not is_gzip:
        path.write_bytes(damage(IDX))
    else:
        path.write_bytes(gzip.compress(damage(IDX)) if is_inside else damage(gzip.compress(IDX)))
    found = outcome(lambda: data.read_idx(path, 10**6), path.name)
    assert found is None or found.dtype == np.uint8


@fuzz(100)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3), st.booleans())
@example([100_000, 1000, 100], True)
def test_sizes_in_headers_that_lie(place, shape, is_gzip):
    path = place / ("lies.gz" if is_gzip else "lies")
    raw = struct.pack(">4I", 0x0803, *shape) + bytes(100)
    path.write_bytes(gzip.compress(raw) if is_gzip else raw)
    assert outcome(lambda: data.read_idx(path), path.name) is None or 0 in shape


@fuzz(150)
@given(damages())
def test_cifar10_batches(place, damage):
    path = place / "data_batch_1"
    path.write_bytes(damage(BATCH))
    found = outcome(lambda: read_cifar10_batch(path), "data_batch_1")
    assert found is None or found.shape[1:] == (32, 32, 3)


@fuzz(60)
@given(damages())
@example(lambda raw: b"")
@example(lambda raw: b" \n\n")
@example(lambda raw: b"#" + raw)
@example(lambda raw: raw[:800] + b"#" + raw[800:])
def test_text_files_of_bits(place, damage):
    folder = place / "amat"
    folder.mkdir(exist_ok=True)
    for split in ("train", "valid", "test"):
        (folder / f"binarized_mnist_{split}.amat").write_bytes(damage(AMAT) if split == "train" else AMAT)
    check_images(outcome(lambda: data.load("binarized_mnist", folder), "binarized_mnist"))


@fuzz(250)
@given(st.sampled_from(FORMATS), damages())
def test_pictures(place, suffix, damage):
    folder = place / suffix
    folder.mkdir(exist_ok=True)
    path = folder / f"a.{suffix}"
    path.write_bytes(damage(PICTURES[suffix]))
    found = outcome(lambda: data.folder(folder), path.name, MOST_BYTES_OF_A_PICTURE)
    assert found is None or (found.dtype == np.uint8 and len(found) == 1)


INFO = {"name": "mnist", "version": "3.0.1", "fileFormat": "array_record", "splits": [{"name": "train"}]}
FEATURES = {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "featuresDict": {"a": {}},
}


@fuzz(100)
@given(changed_json(INFO), changed_json(FEATURES), st.one_of(st.none(), damages()))
def test_what_a_prepared_copy_says_of_itself(place, info, features, damage):
    folder = place / "tfds" / "mnist" / "3.0.1"
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("dataset_info.json", info), ("features.json", features)):
        raw = json.dumps(values).encode()
        (folder / name).write_bytes(raw if damage is None else damage(raw))

    def read():
        try:
            prepared._check_features(prepared.prepared_folder(place / "tfds", "mnist"))
        except prepared.Absent as error:
            raise ValueError(str(error)) from None

    outcome(read, "3.0.1")
