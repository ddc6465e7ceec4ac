"""What a picture shows is read or refused; nothing of it is left out in silence."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from hmcvae import data
from tests.support.images import random_pixels

GREY, COLOUR = random_pixels(0, 5, 4), random_pixels(1, 5, 4, 3)


def read(folder):
    return data.folder(folder)


def refused(folder, name, words):
    with pytest.raises(ValueError, match=f"{name}: expected an image like the others, got .*{words}"):
        read(folder)


def test_a_film_is_not_its_first_frame(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for name in ("a.gif", "b.tif"):
        folder = tmp_path / name[0]
        folder.mkdir()
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
        refused(folder, name, "2 frames: expected one")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_refused_and_opaque_ones_lose_their_alpha(tmp_path, mode):
    pixels = COLOUR if mode == "RGBA" else GREY[..., None]
    opaque = np.concatenate([pixels, np.full((5, 4, 1), 255, np.uint8)], -1)
    Image.fromarray(opaque, mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path)[0], pixels)
    opaque[2, 1, -1] = 254
    Image.fromarray(opaque, mode).save(tmp_path / "a.png")
    refused(tmp_path, "a.png", "1 transparent pixels")


def test_a_transparent_entry_of_a_palette_is_refused(tmp_path):
    image = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(5, 4)).convert("P")
    image.save(tmp_path / "a.png", transparency=3)
    refused(tmp_path, "a.png", "1 transparent pixels")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    turn = {
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }.get(orientation, lambda a: a)
    np.testing.assert_array_equal(read(tmp_path)[0, ..., 0], turn(GREY))


def test_greys_of_a_palette_are_grey_unless_others_have_colours(tmp_path):
    for index in range(2):
        Image.fromarray(GREY + index).convert("P").save(tmp_path / f"{index}.gif")
    np.testing.assert_array_equal(read(tmp_path), np.stack([GREY, GREY + 1])[..., None])
    Image.fromarray(GREY).save(tmp_path / "2.png")
    assert read(tmp_path).shape == (3, 5, 4, 1)
    Image.fromarray(COLOUR).save(tmp_path / "2.png")
    found = read(tmp_path)
    np.testing.assert_array_equal(found[:2], np.repeat(np.stack([GREY, GREY + 1])[..., None], 3, -1))
    np.testing.assert_array_equal(found[2], COLOUR)
    Image.fromarray(GREY).convert("P").save(tmp_path / "3.gif")
    np.testing.assert_array_equal(read(tmp_path)[3], np.repeat(GREY[..., None], 3, -1))
    Image.fromarray(GREY).save(tmp_path / "4.png")
    refused(tmp_path, "4.png", r"L of \(4, 5\) where 0.gif is RGB of \(4, 5\)")


def png_of_16_bits(colour_type, num_channels):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + bytes(range(4 * num_channels * 2)) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


DEEP = {
    "grey.png": png_of_16_bits(0, 1),
    "colour.png": png_of_16_bits(2, 3),
    "grey_alpha.png": png_of_16_bits(4, 2),
    "alpha.png": png_of_16_bits(6, 4),
    "grey.pgm": b"P5\n2 2\n65535\n" + bytes(8),
    "colour.ppm": b"P6\n2 2\n65535\n" + bytes(24),
    "plain.pgm": b"P2\n2 2\n1000\n0 5 1000 3\n",
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_not_cut_off(tmp_path, name):
    (tmp_path / name).write_bytes(DEEP[name])
    refused(tmp_path, name, "more than 8 bits")


def test_a_size_that_no_memory_holds_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n90000 90000\n255\n" + bytes(10))
    refused(tmp_path, "a.pgm", "90000|exceeds limit")
