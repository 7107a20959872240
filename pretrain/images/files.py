"""Images in files of their own: a folder of class folders, any folder, or a list of files.

source = open_images("imagenet", labels=True)     # imagenet/train/CLASS/*.jpg, as the official code reads it
source = open_images("photos", labels=False)      # every image below photos/, at any depth
source = open_images("list.txt", labels=False)    # one path per line, relative to the list
pixels = source.load(0)                           # uint8 H x W x 3, RGB
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.images.decode import BadImage, EncodedPicture, Picture
from pretrain.images.source import EXTENSIONS, ImageSource, fingerprint
from runtime.errors import UserError


class ImageFiles(ImageSource):
    """One image per file, below ``root``."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        sizes: Sequence[int],
        labels: Sequence[int] | None,
        classes: list[str] | None,
    ) -> None:
        super().__init__(names, labels, classes)
        self.root = root
        self._set_fingerprint(fingerprint(names, sizes))

    def picture(self, index: int) -> Picture:
        """See ImageSource.picture; an unreadable file is a BadImage too."""
        name = self.name(index)
        try:
            with open(os.path.join(self.root, name), "rb", buffering=0) as file:
                data = file.read()
        except OSError as error:
            raise BadImage(name, error.strerror or str(error)) from error
        return EncodedPicture(data, name)


def open_folder(folder: Path, labels: bool) -> ImageSource:
    """Every image below ``folder``, with ``labels`` the sub-folders as classes. UserError where there are none."""
    images = sorted(_walk(folder, ""))
    if not images:
        raise UserError(f"no image in {folder} or its sub-folders; images end in {' '.join(EXTENSIONS)}")
    names, sizes = zip(*images, strict=True)
    if not labels:
        return ImageFiles(folder, names, sizes, None, None)
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = sorted({top for top in tops if top is not None})
    if None in tops or not classes:
        loose = names[tops.index(None)] if None in tops else folder
        raise UserError(
            f"labels are needed: put the images into one sub-folder per class, {folder}/CLASS/...; {loose} is in none"
        )
    number = {name: index for index, name in enumerate(classes)}
    return ImageFiles(folder, names, sizes, [number[str(top)] for top in tops], classes)


def _walk(folder: Path, prefix: str) -> list[tuple[str, int]]:
    """(name relative to the start, size in bytes) of every image below ``folder``."""
    images: list[tuple[str, int]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    images += _walk(Path(entry.path), f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith("."):
                    images.append((prefix + entry.name, _size(entry)))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    return images


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a dangling link stays in the list, so that it is reported as a bad image
        return -1


def open_list(path: Path, labels: bool) -> ImageSource:
    """The images that a text file lists, with ``labels`` from its second column. UserError where it lists none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list of files {path}: {error}") from error
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    if not rows:
        raise UserError(f"{path} lists no file; write one path per line, relative to {path.parent or '.'}")
    names = [row[0].strip() for row in rows]
    sizes = [_size_at(path.parent / name) for name in names]
    if not labels:
        return ImageFiles(path.parent, names, sizes, None, None)
    missing = next((number for number, row in enumerate(rows, 1) if len(row) < 2), None)
    if missing is not None:
        raise UserError(f"labels are needed: entry {missing} of {path} has no class; write PATH<tab>CLASS")
    classes = sorted({row[1].strip() for row in rows}, key=lambda text: (not text.isdigit(), text.zfill(12)))
    number = {name: index for index, name in enumerate(classes)}
    return ImageFiles(path.parent, names, sizes, [number[row[1].strip()] for row in rows], classes)


def _size_at(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
