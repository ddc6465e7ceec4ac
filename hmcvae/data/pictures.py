"""One image file as pixels of 8 bits.

What a picture shows is read or refused; nothing of it is left out in silence:

- It is turned as its EXIF orientation says.
- Grey where the file is; red, green and blue where it has these; either of them where it has a palette, or an alpha
  channel, and all its colours are greys.
- An alpha channel goes where all of it is opaque. Where pixels are transparent, what is behind them is not in the file:
  refused.
- Several frames (a film, the pages of a TIFF file) are several images: refused.
- More than 8 bits a pixel and channel: refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from hmcvae.data.prepared import import_optional

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


class Picture(NamedTuple):
    """pixels: [h, w, 1], or [h, w, 3] where they have colours.  is_grey: whether the file is one of greys; None: it
    could hold colours and has none, so three channels of the same would do as well."""

    pixels: UInt8[np.ndarray, "h w c"]
    is_grey: bool | None

    def describe(self) -> str:
        """In Pillow's words."""
        height, width, channels = self.pixels.shape
        return f"{'L' if channels == 1 else 'RGB'} of ({width}, {height})"


def read_picture(path: Path, max_bytes: int) -> Picture:
    """An image file; needs Pillow.

    Raises:
        ValueError: for what is refused, or more than max_bytes of pixels. Pillow raises others for a broken file.
    """
    opener = import_optional("PIL.Image", "experiments")
    operations = import_optional("PIL.ImageOps", "experiments")
    with opener.open(path) as image:
        width, height = image.size
        if 4 * width * height > max_bytes:
            raise ValueError(f"{width} × {height} pixels, more than {max_bytes} bytes")
        if image.mode.startswith(("I", "F")) or _is_deep(image):
            raise ValueError(f"{image.mode} pixels of more than 8 bits: expected 8 bits")
        num_frames = getattr(image, "n_frames", 1)
        if num_frames > 1:
            raise ValueError(f"{num_frames} frames: expected one; save them as files of their own")
        return _as_picture(operations.exif_transpose(image))


def _is_deep(image: Any) -> bool:
    """Whether a file of colours has more than 8 bits a channel: Pillow cuts them off as it opens it, and says so only
    to its decoder."""
    for codec, *_, args in image.tile:
        own = args if isinstance(args, tuple) else (args,)
        if any(isinstance(arg, str) and ";16" in arg for arg in own):
            return True
        if codec.startswith("ppm") and any(isinstance(arg, int) and arg > 255 for arg in own):
            return True
    return False


def _as_picture(image: Any) -> Picture:
    has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
    if has_alpha:
        image = image.convert("RGBA")
        num_clear = int(np.sum(np.asarray(image.getchannel("A")) < 255))
        if num_clear:
            raise ValueError(f"{num_clear} transparent pixels: expected opaque ones; give them a background")
    if image.mode in ("1", "L"):
        return Picture(np.asarray(image.convert("L"), np.uint8)[..., None], True)
    could_be_grey = has_alpha or image.mode == "P"
    pixels = np.asarray(image.convert("RGB"), np.uint8)
    if could_be_grey and np.all(pixels == pixels[..., :1]):
        return Picture(pixels[..., :1], None)
    return Picture(pixels, False)
