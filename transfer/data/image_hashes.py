"""Hashes of images by which equal and nearly equal ones are found: of the file, of its pixels, and of its appearance.

The third is pHash, as in the package imagehash: the image as 32 x 32 grey levels, its discrete cosine transform, and a
bit for each of the 64 lowest frequencies that says whether it is above their median. Scaling, recompression and small
changes of colour move few of these bits.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import fft
from tqdm import tqdm

from runtime.image_formats import UNREADABLE, identify, to_mode

SIDE, LOW = 32, 8  # pixels of the image that is transformed, and frequencies that are kept, in each direction
FLAT = 4.0  # standard deviation in grey levels; below it, the bits are those of noise
PAIRS_AT_ONCE = 1 << 22  # 64 MiB of pairs
BLOCK = 4096  # images whose results are held before they become arrays
ONES = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)
NONE, FILE, PIXELS, NEAR = 0, 1, 2, 3  # how an image is related to one of the other set


@dataclass(frozen=True)
class ImageHashes:
    """Hashes of N images, uint64: 33 bytes an image.

    ``file`` and ``pixels``: the first 64 bits of a sha256, 0 where there is none (a cache has no files, an unreadable
    image no pixels). ``look`` and ``mirrored``: pHash of the image and of its mirror image. ``usable``: has a ``look``.
    """

    file: np.ndarray
    pixels: np.ndarray
    look: np.ndarray
    mirrored: np.ndarray
    usable: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    @property
    def unreadable(self) -> int:
        """The number of images that could not be decoded."""
        return int((self.pixels == 0).sum())


def hash_images(count: int, load: Callable[[int], bytes | np.ndarray], what: str = "") -> ImageHashes:
    """Hash the images 0 .. ``count`` - 1; ``load`` returns a file's bytes, or pixels uint8 H x W x 3.

    Threads are enough: decoding and sha256 run without the interpreter's lock. ``what`` names the progress bar.
    """
    blocks = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=count, desc=what, disable=None) as bar:
        for start in range(0, count, BLOCK):
            rows = list(pool.map(lambda index: _hash(load, index), range(start, min(start + BLOCK, count))))
            blocks.append(np.array(rows, dtype=np.uint64).reshape(-1, 5))
            bar.update(len(rows))
    table = np.concatenate(blocks) if blocks else np.zeros((0, 5), dtype=np.uint64)
    file, pixels, look, mirrored, usable = np.ascontiguousarray(table.T)
    return ImageHashes(file, pixels, look, mirrored, usable == 1)


def _hash(load: Callable[[int], bytes | np.ndarray], index: int) -> tuple[int, int, int, int, int]:
    file = pixels = 0
    try:
        data = load(index)
        if isinstance(data, bytes):
            file = _digest(data)
            with identify(io.BytesIO(data)) as opened:
                image = to_mode(opened, upright=True)
        else:
            image = Image.fromarray(data)
        pixels = _digest(str(image.size).encode() + image.tobytes())
        grey = grey_levels(image)
    except UNREADABLE:
        return file, pixels, 0, 0, 0
    return file, pixels, phash(grey), phash(grey[:, ::-1]), int(grey.std() >= FLAT)


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little") or 1


def grey_levels(image: Image.Image) -> np.ndarray:
    """float64 32 x 32."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)


def phash(grey: np.ndarray) -> int:
    """64 bits of grey levels 32 x 32, the lowest frequency first."""
    low = fft.dctn(grey)[:LOW, :LOW]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The number of differing bits of uint64 pairs."""
    return ONES[(a ^ b)[:, None].view(np.uint16)].sum(axis=1)


def relations(own: ImageHashes, other: ImageHashes, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """How each image of ``own`` is related to one of ``other``, the closest relation first, and that one's index.

    FILE: an equal file; PIXELS: other bytes with equal pixels; NEAR: another image, or its mirror image, whose pHash
    differs in at most ``distance`` bits; NONE (index -1).
    """
    relation = np.zeros(len(own), dtype=np.int8)
    partner = np.full(len(own), -1, dtype=np.int64)
    for kind, mine, theirs in ((FILE, own.file, other.file), (PIXELS, own.pixels, other.pixels)):
        order = np.argsort(theirs, kind="stable")
        place = np.searchsorted(theirs[order], mine)
        candidate = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(mine), dtype=np.int64)
        equal = (theirs[candidate] == mine) & (mine != 0) if len(order) else np.zeros(len(mine), dtype=bool)
        new = equal & (relation == NONE)
        relation[new], partner[new] = kind, candidate[new]
    for looks in (own.look, own.mirrored):
        for rows, columns in _near_pairs(looks, own.usable & (relation == NONE), other, distance):
            relation[rows], partner[rows] = NEAR, columns
    return relation, partner


def _near_pairs(
    looks: np.ndarray, wanted: np.ndarray, other: ImageHashes, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs within ``distance``, in batches of bounded size.

    The 64 bits are cut into ``distance`` + 1 bands. Two hashes that differ in at most ``distance`` bits are equal in at
    least one band, so only images that share a band are compared: no pair is missed.
    """
    rows = np.flatnonzero(wanted)
    columns = np.flatnonzero(other.usable)
    edges = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist()):
        keys = _band(other.look[columns], low, high)
        order = np.argsort(keys, kind="stable")
        own_keys = _band(looks[rows], low, high)
        first, last = (np.searchsorted(keys[order], own_keys, side=side) for side in ("left", "right"))
        total = np.concatenate([[0], np.cumsum(last - first)])
        start = 0
        while start < len(rows):
            # as many rows as have PAIRS_AT_ONCE candidates together, but at least one
            stop = max(start + 1, int(np.searchsorted(total, total[start] + PAIRS_AT_ONCE, side="right")) - 1)
            counts = (last - first)[start:stop]
            row = np.repeat(np.arange(start, stop), counts)
            place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + first[row]
            column = columns[order[place]]
            near = distances(looks[rows[row]], other.look[column]) <= distance
            if near.any():
                yield rows[row[near]], column[near]
            start = stop


def _band(hashes: np.ndarray, low: int, high: int) -> np.ndarray:
    return (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
