"""The interface of a set of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretrain.images.decode import BadImage, Picture
from pretrain.images.fingerprints import Fingerprints, is_sampled
from pretrain.images.names import Names
from runtime.errors import UserError
from runtime.findings import Finding
from runtime.listing import listed


class ImageSource:
    """A set of images as the loader sees it. ``len(source)`` is their number.

    classes: class names in label order, or None where there are no labels.
    fingerprint: sha256 (hex) over names, sizes and labels, by which a resumed run notices other data.
    files_fingerprint: the same without the labels, by which a cache notices other images.
    times_fingerprint: sha256 (hex) over the times at which the files were last changed, by which both notice files that
        were replaced by others of the same size; "" where it is not known.
        Of many files, a sample stands for the sizes and times of all (``fingerprints``).
    findings: what the owner of the images should know.
    """

    classes: list[str] | None = None
    fingerprint: str = ""
    files_fingerprint: str = ""
    times_fingerprint: str = ""

    def __init__(
        self, names: Sequence[str], labels: Sequence[int] | np.ndarray | None, classes: list[str] | None
    ) -> None:
        self._names = Names(names)
        self._labels = None if labels is None else np.asarray(labels, np.int64)
        self.classes = classes
        self.findings: list[Finding] = []

    def __len__(self) -> int:
        return len(self._names)

    def _set_fingerprints(self, own: Fingerprints) -> None:
        self.fingerprint, self.files_fingerprint, self.times_fingerprint = own

    def fingerprints_like(self, recorded: object) -> Fingerprints:
        """What to compare with the fingerprint ``recorded``, of the kind of that one: this set's own, or those of all
        files, which earlier versions recorded however many there are."""
        if is_sampled(self.fingerprint) and not is_sampled(recorded):
            return self.whole_fingerprints()
        return Fingerprints(self.fingerprint, self.files_fingerprint, self.times_fingerprint)

    def whole_fingerprints(self) -> Fingerprints:
        """The fingerprints with the sizes and times of all files. Slow where there are many."""
        return Fingerprints(self.fingerprint, self.files_fingerprint, self.times_fingerprint)

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

    def byte_sizes(self) -> np.ndarray | None:
        """Sizes of the encoded images in bytes, int64 n, or None where they are not known."""
        return None

    def block_ends(self) -> np.ndarray | None:
        """Ends of the blocks of images that should be read together (tar shards), or None where order is free."""
        return None


def evenly(count: int, chosen: int) -> np.ndarray:
    """``chosen`` of ``count`` indices (all with 0), evenly spread: int64."""
    return np.arange(count) if not chosen or chosen >= count else np.linspace(0, count - 1, chosen).astype(np.int64)


def require_same_classes(train: ImageSource, val: ImageSource, where: str) -> None:
    """Raise UserError, naming the difference, where the class numbers of two sets do not mean the same.

    Classes that are numbers (of shards, say) keep their meaning where the highest ones do not occur in ``val``.
    """
    known, asked = train.classes or [], val.classes or []
    numbered = known == [str(number) for number in range(len(known))]
    if asked == known or (numbered and asked == known[: len(asked)]):
        return
    only_val = [name for name in asked if name not in set(known)]
    only_train = [name for name in known if name not in set(asked)]
    parts = [f"only in {side}: {listed(names)}" for side, names in (("val", only_val), ("train", only_train)) if names]
    raise UserError(f"the classes of the training and the validation images of {where} differ ({'; '.join(parts)})")
