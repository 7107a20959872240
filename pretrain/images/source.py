"""The interface of a set of images, and a compact list of their names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from pretrain.images.decode import BadImage, Picture

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Names(Sequence[str]):
    """Many strings in two flat buffers: 8 bytes each beyond their text, and no Python object per image. Forked workers
    share these pages; reference counts of a list of strings would make every worker copy it."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._text[start : self._ends[index]])


class ImageSource:
    """A set of images as the loader sees it. ``len(source)`` is their number.

    classes: class names in label order, or None where there are no labels.
    fingerprint: sha256 (hex) over names, sizes and labels, by which a resumed run notices other data.
    files_fingerprint: the same without the labels, by which a cache notices other images.
    """

    classes: list[str] | None = None
    fingerprint: str = ""
    files_fingerprint: str = ""

    def __init__(
        self, names: Sequence[str], labels: Sequence[int] | np.ndarray | None, classes: list[str] | None
    ) -> None:
        self._names = Names(names)
        self._labels = None if labels is None else np.asarray(labels, np.int64)
        self.classes = classes

    def __len__(self) -> int:
        return len(self._names)

    def _set_fingerprint(self, files_fingerprint: str) -> None:
        labels, self.files_fingerprint = self.labels(), files_fingerprint
        self.fingerprint = files_fingerprint if labels is None else fingerprint([files_fingerprint], labels)

    def name(self, index: int) -> str:
        """Name of image ``index``, relative to the source, with forward slashes."""
        return self._names[index]

    def label(self, index: int) -> int:
        """Class number of image ``index``, or -1 where there are no labels."""
        return -1 if self._labels is None else int(self._labels[index])

    def labels(self) -> np.ndarray | None:
        """Class numbers of all images, int64, or None where there are no labels."""
        return self._labels

    def picture(self, index: int) -> Picture:
        """Image ``index``, not yet decoded. Raises BadImage naming file and reason."""
        raise BadImage(self.name(index), "this source has no pixels")

    def load(self, index: int) -> np.ndarray:
        """Pixels of image ``index``: uint8 H x W x 3, RGB. Raises BadImage naming file and reason."""
        return self.picture(index).pixels()

    def block_ends(self) -> np.ndarray | None:
        """Ends of the blocks of images that should be read together (tar shards), or None where order is free."""
        return None


def fingerprint(names: Sequence[str], numbers: Sequence[int] | np.ndarray) -> str:
    """sha256 (hex) over names and numbers (sizes, labels), in order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    digest.update(np.asarray(numbers, np.int64).tobytes())
    return digest.hexdigest()
