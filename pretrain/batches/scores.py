"""How informative each image was when last seen: a running mean an image, in a memory-mapped file of the run folder.

SCORES holds a line that names the images, then two rows of float32: the scores now, and those that the current epoch
was drawn by. NaN stands for an image that was not seen yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from runtime.errors import UserError

FILE = "scores.bin"
_LINE = 128  # bytes of the first line, so that the numbers are aligned


class ImageScores:
    """Scores of the images of one data set; ``now`` and ``drawn_by`` are float32 N."""

    def __init__(
        self, folder: Path | None, images: int, fingerprint: str, like: Callable[[str], str] | None = None
    ) -> None:
        """Open or make the file in ``folder``, all images unseen; None for memory alone (ranks other than the first).

        ``like``: the fingerprint of the same images to compare with that of a file (``ImageSource.fingerprints_like``);
        without it there is one only. Raises UserError for a file of other images, or one that is damaged.
        """
        if folder is None:
            self._rows = np.full((2, images), np.nan, np.float32)
        else:
            self._rows = _mapped(folder, images, fingerprint, like or (lambda recorded: fingerprint))
        self._rows[:] = np.nan
        self.now: np.ndarray = self._rows[0]
        self.drawn_by: np.ndarray = self._rows[1]

    def begin_epoch(self) -> None:
        """The coming epoch is drawn by the scores as they are."""
        self.drawn_by[:] = self.now

    def note(self, indices: np.ndarray, values: np.ndarray, momentum: float) -> None:
        """Move the scores of these images (n) towards ``values`` (n), the first time to them.

        NaN and infinite values, those of a refused step, are left out; an image that occurs twice moves once, towards
        the mean of its values.
        """
        kept = np.isfinite(values)
        images, inverse = np.unique(indices[kept], return_inverse=True)
        total = np.bincount(inverse, values[kept].astype(np.float64), len(images))
        mean = (total / np.maximum(np.bincount(inverse, minlength=len(images)), 1)).astype(np.float32)
        before = self.now[images]
        moved = np.float32(momentum) * before + np.float32(1 - momentum) * mean
        self.now[images] = np.where(np.isnan(before), mean, moved)

    def state(self) -> np.ndarray:
        """A copy of both rows, for a checkpoint."""
        return np.array(self._rows)

    def load(self, state: np.ndarray) -> None:
        """Continue with the rows of a checkpoint."""
        self._rows[:] = state


def _mapped(folder: Path, images: int, fingerprint: str, like: Callable[[str], str]) -> np.ndarray:
    path, line = folder / FILE, _line(images, fingerprint)
    if path.exists():
        with open(path, "r+b") as file:
            found = file.read(_LINE)
            words = found.split()
            same = len(words) == 4 and found == _line(images, like(words[3].decode("ascii", "replace")))
            if not same or path.stat().st_size != _LINE + 8 * images:
                what = "is damaged" if same or not found.startswith(b"scores 1 ") else "is of other images"
                raise UserError(f"{path} {what}, not the scores of these {images} images; move it away")
            if found != line:
                file.seek(0)
                file.write(line)
    else:
        partial = path.with_name(f".{FILE}.partial")
        with open(partial, "wb") as file:
            file.write(line)
            file.truncate(_LINE + 8 * images)
        os.replace(partial, path)
    return np.memmap(path, np.float32, "r+", _LINE, (2, images))


def _line(images: int, fingerprint: str) -> bytes:
    """The first line: format, number of images, their fingerprint."""
    return f"scores 1 {images} {fingerprint}".encode().ljust(_LINE - 1) + b"\n"
