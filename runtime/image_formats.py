"""Which image files are read, and how their pixels become 8 bits: one rule for pretraining and fine-tuning.

Pillow would try every format it knows, among them PostScript, for which it starts Ghostscript with the program in the
file. So every file is opened here, with the formats named.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, features

MAX_BYTES = 2**30  # of a file: 179 million pixels, the most that is decoded, take half of it uncompressed
# Pillow's name of a format -> its suffixes. All of them are decoded inside this process.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "AVIF": (".avif", ".avifs"),
}
_OPTIONAL = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}  # libraries that Pillow may be built without


def _is_built(name: str) -> bool:
    feature = _OPTIONAL.get(name)
    return feature is None or (feature in {*features.modules, *features.codecs} and bool(features.check(feature)))


FORMATS = tuple(name for name in SUFFIXES if _is_built(name))
EXTENSIONS = tuple(suffix for name in FORMATS for suffix in SUFFIXES[name])  # lower case


class ImageError(ValueError):
    """A file that is not read as an image; the message gives the reason without the file's name."""


# what opening and decoding a file raise: the system, Pillow's readers, and this module
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@contextmanager
def open_regular(path: str | os.PathLike[str], buffering: int = -1) -> Iterator[BinaryIO]:
    """Open a regular file of at most ``MAX_BYTES`` for reading; ImageError for anything else, OSError as ``open``.

    A pipe would block for ever, and a device has no end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # non-blocking: opening a pipe returns at once
    with open(handle, "rb", buffering) as file:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise ImageError("not a regular file")
        if state.st_size > MAX_BYTES:
            raise ImageError(f"{state.st_size / 2**30:.1f} GiB; files of more than {MAX_BYTES >> 30} GiB are not read")
        yield file


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image file and read its header; raises one of ``UNREADABLE``."""
    with open_regular(path) as file, identify(file) as image:
        yield image


def identify(file: BinaryIO) -> Image.Image:
    """An image of a known format, its header read; raises one of ``UNREADABLE``."""
    return Image.open(file, formats=FORMATS)


def sample_bits(image: Image.Image) -> int:
    """Bits of a grey value in an opened image of more than 8, which Pillow does not reduce itself; else 8.

    Raises ImageError for pixels of unknown scale: floating point, 32-bit or signed integers.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floating point" if image.mode == "F" else "32-bit or signed integer"
        raise ImageError(f"{kind} pixels, whose scale is unknown; save the image with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return 8
    declared = getattr(image, "tag_v2", {}).get(258, (16,))  # TIFF's BitsPerSample
    return 12 if declared == (12,) else 16


def to_mode(image: Image.Image, mode: str = "RGB", *, upright: bool = False) -> Image.Image:
    """An opened image in an 8-bit ``mode``. ``upright`` applies the rotation of its EXIF entry.

    Grey values of more than 8 bits keep their highest 8, ``value // 256`` with 16 bits, whatever values the image
    holds: a scale that was chosen image by image would make equal objects differ. Pillow does the same
    with colours of 16 bits. Raises ImageError as ``sample_bits``, and what decoding raises.
    """
    bits = sample_bits(image)
    image.load()  # the caller may close the file
    if upright:
        image = ImageOps.exif_transpose(image)
    if bits > 8:
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, ``(none)`` without one."""
    return Path(name).suffix.lower() or "(none)"
