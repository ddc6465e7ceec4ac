"""Loading by name: the digits, validation images set aside, pixels checked, data that are not there."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from hmcvae import data
from tests.support.images import write_idx_pair
from tests.support.paths import REPOSITORY as ROOT

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


@pytest.mark.parametrize("num_validation", [True, 1.5, "2", None])
def test_number_of_validation_images_is_a_whole_number(num_validation):
    with pytest.raises(ValueError, match="num_validation to be a whole number"):
        data.load("digits", num_validation=num_validation)
    assert len(data.load("digits", num_validation=np.int64(2)).validation) == 2


# ---- no data, and the way through tensorflow-datasets


def test_unknown_name_lists_the_names():
    with pytest.raises(
        ValueError,
        match="digits, mnist, fashion_mnist, binarized_mnist, cifar10, or the path of .*; got 'imagenet'",
    ):
        data.load("imagenet")
    assert data.NAMES == ("digits", "mnist", "fashion_mnist", "binarized_mnist", "cifar10")


@pytest.mark.parametrize("name", data.NAMES[1:])
@pytest.mark.parametrize("where", ["empty", "absent", None])
def test_without_data_an_error_at_once_says_what_to_do(tmp_path, monkeypatch, name, where):
    (tmp_path / "empty").mkdir()
    for module in ("tensorflow_datasets", "tensorflow"):
        monkeypatch.setitem(sys.modules, module, None)  # nothing of it is needed to say this
    with pytest.raises(FileNotFoundError) as raised:
        data.load(name, None if where is None else tmp_path / where)
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


def test_digits_name_scikit_learn_when_it_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"need sklearn\.datasets .*hmcvae\[experiments\]"):
        data.load("digits")
