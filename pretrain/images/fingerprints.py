"""By what a set of images is recognised later: its names, and the sizes and times of its files.

To ask every file for its size takes longer than to list the folder. In sets of more than ``SAMPLE`` images all names
are hashed, but the sizes and times of ``SAMPLE`` files only, which a hash of all names chooses. So every image that is
added, removed or renamed is noticed, and files that were replaced under their names if one of them is in the sample: of
100 among a million with 99.9 %, of a single one with 6.6 %.

Earlier versions took all files, however many. Such fingerprints have no prefix, and are made again where one that was
recorded is to be compared (``ImageSource.fingerprints_like``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretrain.images.names import Names

SAMPLE = 65_536  # a fifth of the time in which 640,000 images are opened; holds ImageNet's validation set whole
SAMPLED = "sampled:"  # begins the fingerprints that took a sample


class Fingerprints(NamedTuple):
    """sha256 (hex) of one set. images: over names, sizes and labels. files: the same without the labels. times: over
    the times of the last change, "" where they are not known."""

    images: str
    files: str
    times: str


def is_sampled(recorded: object) -> bool:
    """Whether a recorded fingerprint took a sample of the files."""
    return isinstance(recorded, str) and recorded.startswith(SAMPLED)


def fingerprint(names: Sequence[str], numbers: Sequence[int] | np.ndarray) -> str:
    """sha256 (hex) over names and numbers (sizes, labels), in order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    digest.update(np.asarray(numbers, np.int64).tobytes())
    return digest.hexdigest()


def with_labels(files: str, labels: Sequence[int] | np.ndarray | None) -> str:
    """The fingerprint ``files`` with class numbers, of the same kind."""
    if labels is None:
        return files
    return (SAMPLED if is_sampled(files) else "") + fingerprint([files], labels)


def fingerprint_files(root: Path, names: Names, labels: np.ndarray | None, *, whole: bool = False) -> Fingerprints:
    """The fingerprints of files below ``root``; ``whole``: with the sizes and times of all, however many there are."""
    digest = hashlib.sha256(names.text)
    sampled = not whole and len(names) > SAMPLE
    chosen = (names[row] for row in _sample(digest.digest(), len(names))) if sampled else names
    sizes, times = file_states(root, chosen)
    digest.update(sizes.tobytes())
    kind = SAMPLED if sampled else ""
    files = kind + digest.hexdigest()
    return Fingerprints(with_labels(files, labels), files, kind + fingerprint([], times))


def _sample(seed: bytes, count: int) -> list[int]:
    """``SAMPLE`` of ``count`` rows, in order. By hashes, which stay the same where random generators are improved."""
    keys = np.frombuffer(hashlib.shake_128(seed).digest(8 * count), "<u8")
    return np.sort(np.argpartition(keys, SAMPLE)[:SAMPLE]).tolist()


def file_states(root: Path, names: Iterable[str]) -> np.ndarray:
    """Sizes in bytes, and times of the last change in ns: int64 2 x n, -1 for a file that cannot be found."""
    return np.array([_state(os.path.join(root, name)) for name in names], np.int64).reshape(-1, 2).T.copy()


def _state(path: str) -> tuple[int, int]:
    try:
        state = os.stat(path)
    except (
        OSError,
        ValueError,
    ):  # a dangling link is a bad image, named when it is read; ValueError: a NUL in the name
        return -1, -1
    return state.st_size, state.st_mtime_ns
