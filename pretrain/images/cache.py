"""Images decoded once: uint8 pixels in one memory-mapped file, written by ``pretrain/cache_images.py``.

CACHE/pixels.bin   the images one after the other, each height x width x 3, RGB
CACHE/sizes.bin    int32 height, width per image; 0 0 for an image that could not be read
CACHE/cache.json   source, names, labels; written last, so that a cache that has it is complete
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.images.decode import BadImage, Scratch
from pretrain.images.fingerprints import Fingerprints, is_sampled, with_labels
from pretrain.images.source import ImageSource
from runtime.errors import UserError
from runtime.findings import Finding
from runtime.pasteable import pasteable

SUMMARY, PIXELS, SIZES = "cache.json", "pixels.bin", "sizes.bin"
SCHEMA = 1


class MappedPicture:
    """A decoded image in a memory-mapped file; only the pages of the rows that a crop needs are read."""

    reductions: tuple[int, ...] = ()

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def pixels(self, reduction: int = 1, scratch: Scratch | None = None) -> np.ndarray:
        """uint8 height x width x 3, read-only. ``reduction`` is always 1 here; ``scratch`` is not used."""
        return self._pixels


class CachedImages(ImageSource):
    """The images of a cache folder.

    labels: True asks for class numbers; UserError when the cache was made without them.
    made_from: the cache must hold exactly these images (by their fingerprint), or UserError; None for no such check.
    """

    def __init__(self, folder: Path, *, labels: bool, made_from: ImageSource | None = None) -> None:
        summary = read_summary(folder)
        files, times = _recorded(summary, made_from)
        theirs = None if made_from is None else made_from.fingerprints_like(files)
        if theirs is not None and theirs.files != files:
            raise UserError(
                f"the cache {folder} was made from other images, or they have changed since; make it again: "
                + pasteable("pretrain/cache_images.py", [summary["source"], folder])
            )
        if theirs is not None and times not in ("", theirs.times):
            raise UserError(
                f"the images of {summary['source']} have been changed or copied since the cache {folder} was made "
                f"(same names and sizes, other times); make it again, or name {folder} itself as the images"
            )
        if made_from is not None:
            classes, numbers = made_from.classes, made_from.labels()
        else:
            classes, numbers = (summary["classes"], summary["labels"]) if labels else (None, None)
        if labels and classes is None:
            raise UserError(f"labels are needed, but the cache {folder} was made without any")
        super().__init__(summary["names"], numbers, classes)
        if made_from is not None:  # as if the images were read from their files, whichever way the cache recorded them
            files, times = made_from.files_fingerprint, times and made_from.times_fingerprint
        self._set_fingerprints(Fingerprints(with_labels(files, self.labels()), files, times))
        self._recorded_files = summary["files_fingerprint"], summary.get("times_fingerprint", "")
        self.findings = [Finding(**record) for record in summary.get("findings", [])]
        self._folder, self._reasons = folder, summary["bad"]
        whole = _size_of(folder / SIZES) == 8 * len(self)
        self._sizes = np.fromfile(folder / SIZES, np.int32).reshape(-1, 2) if whole else np.zeros((0, 2), np.int32)
        self._ends = np.cumsum(self._sizes.astype(np.int64).prod(1) * 3)
        self._mapped: np.ndarray | None = None
        total = int(self._ends[-1]) if len(self._ends) else 0
        if not whole or _size_of(folder / PIXELS) != total:
            raise UserError(f"the cache {folder} is damaged: the sizes of its files do not match; make it again")

    def picture(self, index: int) -> MappedPicture:
        """See ImageSource.picture."""
        height, width = (int(side) for side in self._sizes[index])
        if not height:
            raise BadImage(self.name(index), self._reasons.get(str(index), "unreadable when the cache was made"))
        if self._mapped is None:
            self._mapped = np.memmap(self._folder / PIXELS, np.uint8, "r")
        end = int(self._ends[index])
        return MappedPicture(self._mapped[end - height * width * 3 : end].reshape(height, width, 3))

    def whole_fingerprints(self) -> Fingerprints:
        """See ImageSource.whole_fingerprints; those of the files when the cache was made."""
        files, times = self._recorded_files
        return Fingerprints(with_labels(files, self.labels()), files, times)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_mapped": None}  # a mapping cannot be pickled; each process makes its own


def _recorded(summary: dict, made_from: ImageSource | None) -> tuple[str, str]:
    """(files, times): the fingerprints of a cache's images that can be compared with those of ``made_from`` soonest."""
    sampled = summary.get("sampled_fingerprints")  # where there are many images; caches of earlier versions have none
    if sampled and (made_from is None or is_sampled(made_from.files_fingerprint)):
        return sampled["files"], sampled["times"]
    return summary["files_fingerprint"], summary.get("times_fingerprint", "")  # the first caches have no times


def is_cache(folder: Path) -> bool:
    """Whether a folder holds a cache."""
    return (folder / SUMMARY).is_file()


def read_summary(folder: Path) -> dict:
    """cache.json of a complete cache; UserError for anything else."""
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no finished cache; make one: {pasteable('pretrain/cache_images.py', ['IMAGES', folder])}"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; make the cache again") from error
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        raise UserError(f"{path} was written by another version of this program; make the cache again")
    return summary


def usable_sizes(folder: Path) -> np.ndarray:
    """Sizes (n x 2) of the images that an interrupted run wrote completely; both files are truncated to these."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SIZES).touch()
    (folder / PIXELS).touch()
    whole = _size_of(folder / SIZES) // 8
    sizes = np.fromfile(folder / SIZES, np.int32, 2 * whole).reshape(-1, 2)
    ends = np.cumsum(sizes.astype(np.int64).prod(1) * 3)
    count = int(np.searchsorted(ends, _size_of(folder / PIXELS), side="right"))
    for name, size in ((SIZES, 8 * count), (PIXELS, int(ends[count - 1]) if count else 0)):
        with open(folder / name, "r+b") as file:
            file.truncate(size)
    return sizes[:count]


def summarise(source: ImageSource, spec: str, shorter_side: int, bad: dict[int, str]) -> dict:
    """The content of cache.json for a cache of ``source``. bad: {index: reason} of the unreadable images."""
    names: Sequence[str] = [source.name(index) for index in range(len(source))]
    numbers, whole = source.labels(), source.whole_fingerprints()
    own = {"files": source.files_fingerprint, "times": source.times_fingerprint}
    return {
        "schema": SCHEMA,
        "source": spec,
        "shorter_side": shorter_side,
        "files_fingerprint": whole.files,  # of all files: little beside decoding them
        "times_fingerprint": whole.times,
        **({"sampled_fingerprints": own} if is_sampled(source.files_fingerprint) else {}),
        "findings": [finding.as_record() for finding in source.findings],
        "bad": {str(index): reason for index, reason in bad.items()},
        "classes": source.classes,
        "labels": None if numbers is None else numbers.tolist(),
        "names": names,
    }


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
