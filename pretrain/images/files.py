"""Images in files of their own: a folder of class folders, any folder, or a list of files.

source = open_images("imagenet", labels=True)     # imagenet/train/CLASS/*.jpg, as the official code reads it
source = open_images("photos", labels=False)      # every image below photos/, at any depth
source = open_images("list.txt", labels=False)    # one path per line, relative to the list
pixels = source.load(0)                           # uint8 H x W x 3, RGB
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.images.decode import BadImage, EncodedPicture, Picture
from pretrain.images.fingerprints import Fingerprints, file_states, fingerprint_files
from pretrain.images.listing import Listing
from pretrain.images.source import ImageSource
from runtime.errors import UserError
from runtime.findings import Finding
from runtime.image_formats import EXTENSIONS, open_regular

# what a path may hold that does not change which file it names; hardly any does, and normpath is slow
_UNUSUAL = re.compile(r"//|(^|/)\.\.?(/|$)|/$")


class ImageFiles(ImageSource):
    """One image per file, below ``root``."""

    def __init__(
        self,
        root: Path,
        listing: Listing,
        labels: Sequence[int] | np.ndarray | None,
        classes: list[str] | None,
    ) -> None:
        super().__init__(listing.names, labels, classes)
        self.root = root
        self.findings = listing.findings()
        self._sizes: np.ndarray | None = None
        self._whole: Fingerprints | None = None
        self._set_fingerprints(fingerprint_files(root, self._names, self._labels))

    def whole_fingerprints(self) -> Fingerprints:
        """See ImageSource.whole_fingerprints."""
        if self._whole is None:
            self._whole = fingerprint_files(self.root, self._names, self._labels, whole=True)
        return self._whole

    def byte_sizes(self) -> np.ndarray:
        """See ImageSource.byte_sizes. Asks every file, so it is slow where there are many."""
        if self._sizes is None:
            self._sizes = file_states(self.root, self._names)[0]
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
    classes = sorted(listing.counts)
    if sum(listing.counts.values()) < len(names) or not classes:
        loose = next((name for name in names if "/" not in name), folder)
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
    labels_of_tops = [number[top] for top in listing.counts]  # names of one folder stand together
    return ImageFiles(folder, listing, np.repeat(labels_of_tops, list(listing.counts.values())), classes)


def open_list(path: Path, labels: bool) -> ImageSource:
    """The images that a text file lists, with ``labels`` from its second column. UserError where it lists none."""
    try:
        with open_regular(path) as file:
            lines = file.read().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, ValueError) as error:  # ValueError: not a regular file, or not UTF-8
        raise UserError(f"cannot read the list of files {path}: {error}") from error
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path} lists no file; write one path per line, relative to {path.parent or '.'}")
    names = [line.partition("\t")[0].strip() for line in lines]
    if "" in names:
        raise UserError(f"entry {names.index('') + 1} of {path} has no path; write PATH or PATH<tab>CLASS")
    listing = Listing(names)
    if not labels:
        source = ImageFiles(path.parent, listing, None, None)
    else:
        columns = [line.partition("\t")[2].partition("\t")[0].strip() for line in lines]
        if "" in columns:
            raise UserError(
                f"labels are needed: entry {columns.index('') + 1} of {path} has no class; write PATH<tab>CLASS"
            )
        classes = sorted(set(columns), key=lambda text: (not text.isdigit(), text.zfill(12)))
        number = {name: index for index, name in enumerate(classes)}
        source = ImageFiles(path.parent, listing, [number[text] for text in columns], classes)
    source.findings += _repeated(names)
    return source


def _repeated(names: list[str]) -> list[Finding]:
    paths = [os.path.normpath(name) if _UNUSUAL.search(name) else name for name in names]
    extra = len(paths) - len(set(paths))
    if not extra:
        return []
    example = next(name for name, count in Counter(paths).items() if count > 1)
    message = "shown more often than the others, and their own negatives; remove the repeated lines"
    return [Finding("image listed twice", extra, example, message)]
