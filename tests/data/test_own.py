"""Data of a user's own: archives and folders of image files, what they give and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.runs import training as train
from hmcvae import data
from hmcvae.data import own
from tests.support.images import random_pixels
from tests.support.runs import tiny

GREY, COLOUR = random_pixels(0, 12, 5, 4, 1), random_pixels(1, 6, 5, 4, 3)


def write_images(folder, images, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
            folder / f"{index:03}.{suffix}"
        )


def test_an_archive_with_all_splits(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, train=GREY[:6], test=GREY[6:9], validation=GREY[9:], labels=np.arange(6))
    found = data.load(str(path), num_validation=2)
    np.testing.assert_array_equal(found.train, GREY[:6])
    np.testing.assert_array_equal(found.test, GREY[6:9])
    assert (found.name, found.max_value, found.image_shape) == (str(path), 255, (5, 4, 1))
    assert found.validation.shape == (2, 5, 4, 1)


def test_an_archive_of_bits_without_axes_for_the_colour(tmp_path):
    np.savez(tmp_path / "bits.npz", train=GREY[..., 0] > 100, test=GREY[:2, ..., 0] > 100)
    found = data.load(str(tmp_path / "bits.npz"))
    np.testing.assert_array_equal(found.train, GREY > 100)
    assert (found.max_value, found.train.dtype) == (1, np.uint8)


def test_a_tenth_is_set_aside_where_there_are_no_test_images(tmp_path):
    images = random_pixels(2, 50, 3, 3, 1)
    np.savez(tmp_path / "mine.npz", train=images)
    found = data.load(str(tmp_path / "mine.npz"))
    assert (len(found.train), len(found.test)) == (45, 5)
    both = np.concatenate([found.train, found.test]).reshape(50, -1)
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(images.reshape(50, -1), axis=0))
    assert "5 are set aside as test images" in found.source


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_folder_of_images(tmp_path, images):
    write_images(tmp_path / "all", images)
    np.testing.assert_array_equal(data.folder(tmp_path / "all"), images)
    write_images(tmp_path / "split" / "train", images[:4])
    write_images(tmp_path / "split" / "test", images[4:])
    found = data.load(f"{tmp_path}/split")
    np.testing.assert_array_equal(found.train, images[:4])
    np.testing.assert_array_equal(found.test, images[4:])


def test_some_of_the_training_images(tmp_path):
    np.savez(tmp_path / "mine.npz", train=GREY[:8], test=GREY[8:])
    some = data.load(str(tmp_path / "mine.npz"), num_train=3)
    assert len(some.train) == 3
    places = [int(np.flatnonzero((image == GREY).all(axis=(1, 2, 3)))[0]) for image in some.train]
    assert places == sorted(places)
    np.testing.assert_array_equal(data.load(str(tmp_path / "mine.npz"), num_train=3).train, some.train)
    np.testing.assert_array_equal(data.load("digits", num_train=1500).train, data.load("digits").train)
    with pytest.raises(ValueError, match="num_train <= 8 training images, got 9"):
        data.load(str(tmp_path / "mine.npz"), num_train=9)


def test_a_run_on_them_can_be_evaluated_where_they_are_moved(tmp_path):
    images = random_pixels(2, 60, 8, 8, 1)
    np.savez(tmp_path / "mine.npz", train=images)
    config = tiny(
        tmp_path / "run", dataset=str(tmp_path / "mine.npz"), batch_size=20, num_epochs=1, eval_images=3
    )
    train.train(config, quiet=True)
    assert config.folder.name == "run"
    assert tiny(None, dataset="a/mine.npz").folder.name.startswith("mine-")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.npz").rename(tmp_path / "elsewhere" / "mine.npz")
    found = data.load(str(tmp_path / "mine.npz"), tmp_path / "elsewhere")
    assert len(found.train) == 54
    with pytest.raises(FileNotFoundError, match="expected an npz archive or a folder of images"):
        data.load(str(tmp_path / "mine.npz"))


def archive(path, **arrays):
    np.savez(path / "mine.npz", **arrays)
    return str(path / "mine.npz")


def a_folder(path, *images):
    for index, image in enumerate(images):
        write_images(path / "images" / str(index), [image])
    return str(path / "images")


BAD = {
    "no archive": (lambda p: str((p / "a.npz").write_text("x") and p / "a.npz"), "a file that is none"),
    "no train": (lambda p: archive(p, x=GREY), "readable arrays train"),
    "floats": (
        lambda p: archive(p, train=GREY / 255.0),
        r"mine.npz, train: expected images as uint8 .*, got float64 \[12, 5, 4, 1\]",
    ),
    "vectors": (lambda p: archive(p, train=GREY.reshape(12, 20)), r"got uint8 \[12, 20\]"),
    "empty": (lambda p: archive(p, train=GREY[:0]), r"got uint8 \[0, 5, 4, 1\]"),
    "one image": (lambda p: archive(p, train=GREY[:1]), "at least two images"),
    "other shapes": (lambda p: archive(p, train=GREY, test=COLOUR), "images of one shape in all arrays"),
    "grey among bits": (lambda p: archive(p, train=GREY > 9, test=GREY), r"expected pixels in \[0, 1\]"),
    "objects": (lambda p: archive(p, train=np.array([{}, 1], object)), "readable arrays train"),
    "an empty folder": (lambda p: a_folder(p) or str(p / "images"), "no image files|no data at"),
    "sizes": (lambda p: a_folder(p, GREY[0], GREY[0, :4]), "L of .4, 4. where 000.png is L of .4, 5."),
    "modes": (lambda p: a_folder(p, GREY[0], COLOUR[0]), "RGB of .4, 5. where 000.png is L of .4, 5."),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name, tmp_path):
    make, message = BAD[name]
    path = make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(path)


def test_a_broken_image_is_named(tmp_path):
    write_images(tmp_path / "images", GREY[:3])
    (tmp_path / "images" / "001.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ValueError, match=r"001.png: expected an image like the others"):
        data.folder(tmp_path / "images")


def test_more_than_memory_holds_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes in train"):
        data.load(archive(tmp_path, train=GREY))
    write_images(tmp_path / "images", GREY)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        data.folder(tmp_path / "images")


def test_a_path_and_a_bare_name_of_a_folder_are_taken(tmp_path, monkeypatch):
    write_images(tmp_path / "digits", GREY)
    write_images(tmp_path / "mine", GREY)
    monkeypatch.chdir(tmp_path)
    of_path = data.load(tmp_path / "mine")
    np.testing.assert_array_equal(data.load("mine").train, of_path.train)
    np.testing.assert_array_equal(data.load(Path("digits")).train, of_path.train)
    assert data.load("digits").image_shape == (8, 8, 1)  # a name is that of the data set
    archive(tmp_path, train=GREY)
    assert len(data.load(Path("mine.npz")).train) == 11
    with pytest.raises(FileNotFoundError, match="no data at"):
        data.load(Path("nothing"))


def test_other_folders_beside_those_of_the_splits_are_named(tmp_path):
    for name in ("train", "test", "val", ".cache"):
        write_images(tmp_path / name, GREY[:3])
    (tmp_path / "labels").mkdir()
    with pytest.raises(
        ValueError, match="folders train, test, validation alone, where there is one, got val$"
    ):
        data.load(tmp_path)


def test_folders_that_are_links_are_followed_and_circles_refused(tmp_path):
    write_images(tmp_path / "elsewhere", GREY[:2])
    write_images(tmp_path / "images", GREY[2:4])
    (tmp_path / "images" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(data.folder(tmp_path / "images")) == 4
    (tmp_path / "images" / "up").symlink_to(tmp_path / "images", target_is_directory=True)
    with pytest.raises(
        ValueError, match="up: expected a folder of images, got a link to a folder that it is"
    ):
        data.folder(tmp_path / "images")


@pytest.mark.parametrize("name", ["cifar", "", "mnist.zip", 3, None])
def test_neither_a_name_nor_a_path(name):
    with pytest.raises((ValueError, TypeError), match="expected the name of a data set|is_own|name"):
        data.load(name)
