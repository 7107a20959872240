"""Leakage: test images that a backbone was pretrained on, or a detector fine-tuned on, found by their content.

Names say little: an image may be listed under another name, recompressed, scaled or mirrored. So files, pixels and
appearance are compared (``transfer.data.image_hashes``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.images import open_images
from pretrain.images.decode import BadImage
from runtime.atomic import atomic_path
from runtime.errors import UserError
from runtime.findings import Finding
from runtime.listing import counted
from transfer.data.catalog import get_dataset
from transfer.data.image_hashes import FILE, NEAR, PIXELS, ImageHashes, hash_images, relations

# Bits of 64. Of 600 VOC photographs, every copy that was scaled to a quarter, recompressed at quality 50, or changed in
# contrast by 30 % differs in at most 4 bits, as do 99 % of those cropped by 2 % and 87 % of those 30 % brighter; no two
# different ones differ in fewer than 12.
DISTANCE = 4
EFFECTS = {
    FILE: ("test image with an equal file", "the test set is not new to the model: its AP is too high; remove them"),
    PIXELS: ("test image with equal pixels in another file", "the same as with an equal file"),
    NEAR: (
        "test image with a near-duplicate",
        "a scaled, recompressed or mirrored copy, or another shot of the same scene; look at them",
    ),
}
FIELDS = tuple(field.name for field in fields(ImageHashes))


@dataclass(frozen=True)
class ImageSet:
    """Images by number: ``load`` returns a file's bytes, or pixels; ``fingerprint`` changes with the files."""

    name: str
    count: int
    image_name: Callable[[int], str]
    load: Callable[[int], bytes | np.ndarray]
    fingerprint: str


@dataclass(frozen=True)
class Leakage:
    """The images of ``test`` that ``against`` contains too. ``reason``: why they could not be compared, else ""."""

    test: str
    against: str
    images: int = 0
    against_images: int = 0
    unreadable: int = 0  # images of either set that could not be decoded
    findings: tuple[Finding, ...] = ()
    reason: str = ""

    def line(self) -> str:
        """The result in one line, without its findings."""
        if self.reason:
            return f"{self.test} against {self.against}: not compared: {self.reason}"
        shared = counted(sum(finding.count for finding in self.findings), "test image", "test images")
        unreadable = f"; {counted(self.unreadable, 'image', 'images')} could not be read" if self.unreadable else ""
        sizes = f"{self.images} and {counted(self.against_images, 'image', 'images')}"
        return f"{self.test} against {self.against}: {shared} in both ({sizes}{unreadable})"

    def as_record(self) -> dict[str, Any]:
        """The JSON form."""
        return {**vars(self), "findings": [finding.as_record() for finding in self.findings]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Leakage:
        """What ``as_record`` wrote."""
        return cls(**{**record, "findings": tuple(Finding(**one) for one in record["findings"])})


def open_set(name: str) -> ImageSet:
    """A detection data set by its name, or the images that ``pretrain/main.py`` would read from a path.

    Raises UserError when there is neither.
    """
    if Path(name).exists() or "{" in Path(name).name:
        return _pretraining_set(name)
    try:
        return _detection_set(name)
    except UserError as error:
        if str(error).startswith("unknown data set"):
            raise UserError(f"{name} is neither a data set nor images: {error}") from error
        raise


def _detection_set(name: str) -> ImageSet:
    files = [record["file_name"] for record in get_dataset(name).records()]
    digest = hashlib.sha256()
    for file in files:
        stat = os.stat(file)
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return ImageSet(name, len(files), lambda i: files[i], lambda i: Path(files[i]).read_bytes(), digest.hexdigest())


def _pretraining_set(name: str) -> ImageSet:
    source = open_images(name, labels=False)

    def load(index: int) -> bytes | np.ndarray:
        try:
            picture = source.picture(index)
            return getattr(picture, "data", None) or picture.pixels()  # a cache has pixels only
        except BadImage as error:
            raise ValueError(str(error)) from error

    whole = source.whole_fingerprints()  # hashes are kept by it: no image that was replaced may be missed
    return ImageSet(name, len(source), source.name, load, f"{name}\0{whole.files}")


def compare_sets(test: str, against: Sequence[str], *, distance: int = DISTANCE, cache: Path | None) -> list[Leakage]:
    """``test`` with each of ``against``. A set that cannot be read gives a result with a ``reason``.

    ``cache``: a folder in which the hashes of a set are kept until its files change; None keeps nothing. Memory: 33
    bytes an image, besides the names.
    """
    try:
        own = open_set(test)
        hashes = _hashes(own, cache)
    except UserError as error:
        return [Leakage(test, name, reason=str(error)) for name in against]
    return [_compare(own, hashes, name, distance, cache) for name in against]


def _compare(own: ImageSet, hashes: ImageHashes, name: str, distance: int, cache: Path | None) -> Leakage:
    try:
        other = open_set(name)
        theirs = _hashes(other, cache)
    except UserError as error:
        return Leakage(own.name, name, reason=str(error))
    relation, partner = relations(hashes, theirs, distance)
    findings = []
    for kind, (title, effect) in EFFECTS.items():
        rows = np.flatnonzero(relation == kind)
        if len(rows):
            pair = f"{own.image_name(int(rows[0]))} = {other.image_name(int(partner[rows[0]]))}"
            findings.append(Finding(title, len(rows), pair, effect))
    unreadable = hashes.unreadable + theirs.unreadable
    return Leakage(own.name, name, own.count, other.count, unreadable, tuple(findings))


def _hashes(images: ImageSet, cache: Path | None) -> ImageHashes:
    """The hashes of a set, from the cache if they are there."""
    digest = hashlib.sha256(images.fingerprint.encode(errors="surrogateescape")).hexdigest()
    path = cache / f"hashes_{digest[:16]}.npz" if cache else None
    if path is not None and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                hashes = ImageHashes(*(stored[f"arr_{i}"] for i in range(len(FIELDS))))
            if len(hashes) == images.count:
                return hashes
        except (OSError, ValueError, LookupError, EOFError):
            pass  # damaged: computed again
    hashes = hash_images(images.count, images.load, images.name)
    if path is not None:
        with atomic_path(path) as partial, open(partial, "wb") as file:
            np.savez(file, *(getattr(hashes, field) for field in FIELDS))
    return hashes
