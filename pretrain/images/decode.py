"""Bytes of an image file -> uint8 RGB pixels, at a reduced size where a crop needs no more.

simplejpeg (libjpeg-turbo) decodes JPEGs where it is installed. Pillow decodes everything else, and every file that
simplejpeg rejects: so the same files count as readable with and without the optional package.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from typing import Protocol

import numpy as np
from PIL import Image

from runtime.image_formats import identify, to_mode

try:
    import simplejpeg
except ImportError:  # optional: Pillow decodes JPEG too, with the same library but more copies
    simplejpeg = None

MAX_PIXELS = 178_956_970  # Pillow's limit for a decompression bomb: 2 GB of memory for 3 channels of 32 bits
REDUCTIONS = (8, 4, 2)  # sizes a JPEG can be decoded at (1/8, 1/4, 1/2) by a smaller inverse DCT


class BadImage(Exception):
    """An image that cannot be used. name: of the file. reason: in one line."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple:
        return BadImage, (
            self.name,
            self.reason,
        )  # pickled in a worker process; the default would call BadImage with the message alone


class Scratch:
    """Memory that is reused for one decoded image after the other; allocating it anew costs a fifth of the decoding."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def array(self, *shape: int) -> np.ndarray:
        """An uninitialised uint8 array of this shape. It overwrites the array of the call before."""
        size = math.prod(shape)
        if size > self._memory.size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(shape)

    def __reduce__(self) -> tuple:
        return Scratch, ()  # a worker starts with its own


class Picture(Protocol):
    """An image whose size is known before its pixels are decoded."""

    height: int
    width: int

    def pixels(self, reduction: int = 1, scratch: Scratch | None = None) -> np.ndarray:
        """uint8 RGB, ceil(height / reduction) x ceil(width / reduction) x 3; ``reduction`` is 1 or in ``reductions``.

        The result may be in the scratch buffer, and is then valid until the next use of the buffer.
        """

    @property
    def reductions(self) -> tuple[int, ...]:
        """Reductions above 1 that are cheaper than the full size, largest first."""


class EncodedPicture:
    """The bytes of an image file. Raises BadImage when they cannot be decoded or the image is too large."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        self.reductions: tuple[int, ...] = ()
        self._jpeg = False
        self._image: Image.Image | None = None  # opened by Pillow, not yet read
        if not data:
            raise BadImage(name, "the file is empty")
        if data[:2] == b"\xff\xd8":
            self._read_jpeg_header()
        else:
            self._read_header()
        if self.height * self.width > MAX_PIXELS:
            raise BadImage(name, f"{self.width}x{self.height} pixels; refused as a decompression bomb")

    def _read_jpeg_header(self) -> None:
        if simplejpeg is None:
            self._read_header()
            return
        try:
            self.height, self.width, colours, _ = simplejpeg.decode_jpeg_header(self.data)
        except ValueError:
            self._read_header()  # Pillow decides, and its message is shown
            return
        self._jpeg = colours not in ("CMYK", "YCCK")
        self.reductions = REDUCTIONS if self._jpeg else ()

    def _read_header(self) -> None:
        self._image = self._opened()
        self.width, self.height = self._image.size
        if self._image.format == "JPEG" and self._image.mode in ("RGB", "L"):
            self.reductions = REDUCTIONS

    def _opened(self) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of large images: __init__ checks the size, for both decoders
                return identify(io.BytesIO(self.data))
        except Exception as error:  # on malformed bytes Pillow's readers raise errors of many kinds
            raise BadImage(self.name, describe_bytes(self.data, error)) from error

    def pixels(self, reduction: int = 1, scratch: Scratch | None = None) -> np.ndarray:
        """Decode: uint8 RGB, ceil(height / reduction) x ceil(width / reduction) x 3; see Picture.pixels."""
        height, width = math.ceil(self.height / reduction), math.ceil(self.width / reduction)
        if self._jpeg:
            # simplejpeg raises ValueError for libjpeg's warnings; Pillow, below, knows the harmless ones
            with contextlib.suppress(ValueError):
                options: dict = {"min_height": height, "min_width": width} if reduction > 1 else {}
                if scratch is not None:
                    options["buffer"] = scratch.array(height, width, 3)
                return simplejpeg.decode_jpeg(self.data, "RGB", **options)
        image, self._image = self._image or self._opened(), None  # Pillow can decode an opened image only once
        if reduction > 1:
            # draft() scales by floor(size / requested), so the requested size must be rounded down
            image.draft("RGB", (self.width // reduction, self.height // reduction))
        try:
            return np.asarray(to_mode(image))
        except Exception as error:  # as in _opened
            raise BadImage(self.name, describe_bytes(self.data, error)) from error


def describe_bytes(data: bytes, error: Exception) -> str:
    """Why these bytes are not an image, in one line: a saved web page is named as one."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "this is an HTML or XML page, not an image (a failed download?)"
    text = " ".join(str(error).split()) or type(error).__name__
    if "cannot identify image file" in text:
        return "not an image of a known format"
    return f"{text} ({len(data)} bytes)"
