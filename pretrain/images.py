"""Where the images come from: a folder of class folders, any folder, a list of files, tar shards, or a cache.

source = open_images("imagenet", labels=True)     # imagenet/train/CLASS/*.jpg, as the official code reads it
source = open_images("photos", labels=False)      # every image below photos/, however nested
source = open_images("list.txt", labels=False)    # one path per line, relative to the list
pixels = source.load(0)                           # uint8 H x W x 3, RGB
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.decode import BadImage, EncodedPicture, Picture
from runtime.errors import UserError

__all__ = ["EXTENSIONS", "BadImage", "ImageFiles", "ImageSource", "Names", "open_images"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Names(Sequence[str]):
    """Many strings in two flat buffers: about 8 bytes each beyond their text, and no Python object per image, so that
    forked workers share the pages instead of copying them as reference counts change."""

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
    """What the loader needs of a set of images. `len(source)` is their number.

    classes: class names in label order, or None where there are no labels.
    fingerprint: sha256 (hex) over names, sizes and labels; a resumed run compares it.
    files_fingerprint: the same without the labels; a cache compares it.
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
        """Name of image `index`, relative to the source, with forward slashes."""
        return self._names[index]

    def label(self, index: int) -> int:
        """Class number of image `index`, or -1 where there are no labels."""
        return -1 if self._labels is None else int(self._labels[index])

    def labels(self) -> np.ndarray | None:
        """Class numbers of all images, int64, or None where there are no labels."""
        return self._labels

    def picture(self, index: int) -> Picture:
        """Image `index` with its size known and its pixels not yet made. Raises BadImage naming file and reason."""
        raise BadImage(self.name(index), "this source has no pixels")

    def load(self, index: int) -> np.ndarray:
        """Pixels of image `index`: uint8 H x W x 3, RGB. Raises BadImage naming file and reason."""
        return self.picture(index).pixels()

    def block_ends(self) -> np.ndarray | None:
        """Ends of the runs of images that should be read together (tar shards), or None: read in any order."""
        return None


class ImageFiles(ImageSource):
    """One image per file, below `root`."""

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


def fingerprint(names: Sequence[str], numbers: Sequence[int] | np.ndarray) -> str:
    """sha256 (hex) over names and numbers (sizes, labels), in order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    digest.update(np.asarray(numbers, np.int64).tobytes())
    return digest.hexdigest()


def open_images(
    source: str | Path, *, labels: bool, cache: Path | None = None, split: str | None = "train"
) -> ImageSource:
    """Open a set of images.

    source: a folder, a `.txt` list of files, a `.tar` shard, or shards as `name-{000..123}.tar`. Of a folder that has
        a sub-folder called `split` ("train" unless said otherwise), that sub-folder is read, as the official code
        does; a folder with .tar files is read as shards; otherwise every image below it, however nested, in the order
        of their names.
    labels: True asks for class numbers: sub-folders of the folder (sorted), a second tab-separated column of the list,
        or the `.cls` members of the shards. UserError when there are none.
    cache: folder written by `pretrain/cache_images.py` for the same images; pixels then come from there. Such a folder
        can also be the source itself, without the files it was made from.
    Raises UserError, with what to do, for a path that is missing, unreadable or holds no image.
    """
    from pretrain.image_cache import CachedImages, is_cache

    if is_cache(Path(source)):
        return CachedImages(Path(source), labels=labels)
    opened = _open(str(source), labels, split)
    return opened if cache is None else CachedImages(Path(cache), labels=labels, made_from=opened)


def _open(source: str, labels: bool, split: str | None) -> ImageSource:
    path = Path(source)
    if "{" in path.name or path.suffix == ".tar":
        return _open_shards(source, labels)
    if path.suffix.lower() == ".txt":
        return _open_list(path, labels)
    if path.is_dir():
        folder = path / split if split and (path / split).is_dir() else path
        has_shards = any(folder.glob("*.tar"))
        return _open_shards(str(folder), labels) if has_shards else _open_folder(folder, labels)
    if path.exists():
        raise UserError(f"{path} is not a folder of images, a .txt list of files or a .tar shard")
    raise UserError(f"{path} does not exist; give a folder of images, a .txt list of files or .tar shards")


def _open_shards(spec: str, labels: bool) -> ImageSource:
    from pretrain.shards import ShardedImages

    return ShardedImages(spec, labels=labels)


def _open_folder(folder: Path, labels: bool) -> ImageSource:
    found = sorted(_walk(folder, ""))
    if not found:
        raise UserError(
            f"no image below {folder}: files ending in {' '.join(EXTENSIONS)} are looked for, in sub-folders too"
        )
    names, sizes = zip(*found, strict=True)
    if not labels:
        return ImageFiles(folder, names, sizes, None, None)
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = sorted({top for top in tops if top is not None})
    if None in tops or not classes:
        loose = names[tops.index(None)] if None in tops else folder
        raise UserError(
            f"labels are needed, so images must lie in one sub-folder per class, {folder}/CLASS/...; {loose} does not"
        )
    number = {name: index for index, name in enumerate(classes)}
    return ImageFiles(folder, names, sizes, [number[str(top)] for top in tops], classes)


def _walk(folder: Path, prefix: str) -> list[tuple[str, int]]:
    """(name relative to the start, size in bytes) of every image below `folder`."""
    found: list[tuple[str, int]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    found += _walk(Path(entry.path), f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith("."):
                    found.append((prefix + entry.name, _size(entry)))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    return found


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a dangling link: kept, so that it is named as a bad image when its turn comes
        return -1


def _open_list(path: Path, labels: bool) -> ImageSource:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list of files {path}: {error}") from error
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    if not rows:
        raise UserError(f"{path} names no file; write one path per line, relative to {path.parent or '.'}")
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
