"""Images in files of their own: a folder of class folders, any folder, or a list of files.

source = open_images("imagenet", labels=True)     # imagenet/train/CLASS/*.jpg, as the official code reads it
source = open_images("photos", labels=False)      # every image below photos/, at any depth
source = open_images("list.txt", labels=False)    # one path per line, relative to the list
pixels = source.load(0)                           # uint8 H x W x 3, RGB
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.images.decode import BadImage, EncodedPicture, Picture
from pretrain.images.listing import Listing
from pretrain.images.source import ImageSource, fingerprint
from runtime.errors import UserError
from runtime.findings import Finding
from runtime.image_formats import EXTENSIONS, open_regular


class ImageFiles(ImageSource):
    """One image per file, below ``root``."""

    def __init__(
        self,
        root: Path,
        listing: Listing,
        labels: Sequence[int] | None,
        classes: list[str] | None,
    ) -> None:
        super().__init__(listing.names, labels, classes)
        self.root = root
        self.findings = listing.findings()
        self._sizes = np.asarray(listing.sizes, np.int64)
        self._set_fingerprint(fingerprint(listing.names, listing.sizes), fingerprint([], listing.times))

    def byte_sizes(self) -> np.ndarray:
        """See ImageSource.byte_sizes."""
        return self._sizes

    def picture(self, index: int) -> Picture:
        """See ImageSource.picture; an unreadable file is a BadImage too."""
        name = self.name(index)
        try:
            with open_regular(os.path.join(self.root, name), buffering=0) as file:
                data = file.read()
        except OSError as error:
            raise BadImage(name, error.strerror or str(error)) from error
        except ValueError as error:  # a pipe or device, a file that is too large, a NUL in the name
            raise BadImage(name, str(error)) from error
        return EncodedPicture(data, name)


def open_folder(folder: Path, listing: Listing, labels: bool) -> ImageSource:
    """The images of a listed folder, with ``labels`` the sub-folders as classes. UserError where there are none."""
    names = listing.names
    if not names:
        others = f" (other files: {listing.skipped_text()})" if listing.skipped else ""
        raise UserError(f"no image in {folder} or its sub-folders{others}; images end in {' '.join(EXTENSIONS)}")
    if not labels:
        return ImageFiles(folder, listing, None, None)
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = sorted({top for top in tops if top is not None})
    if None in tops or not classes:
        loose = names[tops.index(None)] if None in tops else folder
        raise UserError(
            f"labels are needed: put the images into one sub-folder per class, {folder}/CLASS/...; {loose} is in none"
        )
    if empty := sorted(set(listing.folders) - set(classes)):
        others = f"; files that are not images: {listing.skipped_text()}" if listing.skipped else ""
        raise UserError(
            f"{folder}: the class folder {empty[0]} holds no image that can be read ({len(empty)} such folders, "
            f"{len(classes)} with images{others}); convert its files, or move the folder away"
        )
    number = {name: index for index, name in enumerate(classes)}
    return ImageFiles(folder, listing, [number[str(top)] for top in tops], classes)


def open_list(path: Path, labels: bool) -> ImageSource:
    """The images that a text file lists, with ``labels`` from its second column. UserError where it lists none."""
    try:
        with open_regular(path) as file:
            lines = file.read().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, ValueError) as error:  # ValueError: not a regular file, or not UTF-8
        raise UserError(f"cannot read the list of files {path}: {error}") from error
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    if not rows:
        raise UserError(f"{path} lists no file; write one path per line, relative to {path.parent or '.'}")
    names = [row[0].strip() for row in rows]
    if "" in names:
        raise UserError(f"entry {names.index('') + 1} of {path} has no path; write PATH or PATH<tab>CLASS")
    states = [_state_at(path.parent / name) for name in names]
    listing = Listing(names, [size for size, _ in states], [time for _, time in states])
    if not labels:
        source = ImageFiles(path.parent, listing, None, None)
    else:
        missing = next((number for number, row in enumerate(rows, 1) if len(row) < 2 or not row[1].strip()), None)
        if missing is not None:
            raise UserError(f"labels are needed: entry {missing} of {path} has no class; write PATH<tab>CLASS")
        classes = sorted({row[1].strip() for row in rows}, key=lambda text: (not text.isdigit(), text.zfill(12)))
        number = {name: index for index, name in enumerate(classes)}
        source = ImageFiles(path.parent, listing, [number[row[1].strip()] for row in rows], classes)
    source.findings += _repeated(names)
    return source


def _repeated(names: list[str]) -> list[Finding]:
    counts = Counter(os.path.normpath(name) for name in names)
    twice = [name for name, count in counts.items() if count > 1]
    extra = len(names) - len(counts)
    message = "shown more often than the others, and their own negatives; remove the repeated lines"
    return [Finding("image listed twice", extra, twice[0], message)] if twice else []


def _state_at(path: Path) -> tuple[int, int]:
    """(size in bytes, time of the last change in ns), -1 for a file that cannot be found."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return -1, -1
    return state.st_size, state.st_mtime_ns
