"""Images in tar shards of the WebDataset layout, streamed shard by shard, at any step of any epoch.

A sample is what shares its name up to the first dot of the base name: ``n01440764/18.jpg``, ``n01440764/18.cls``.
Images are read by the offsets of an index (``shard_index``), and the order keeps a window of a few shards together
(``BlockOrder``), each of which the kernel reads ahead: sequential for the disk, random for the training, and a function
of the step alone, so a run can continue anywhere.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.images.decode import BadImage, EncodedPicture
from pretrain.images.fingerprints import fingerprint
from pretrain.images.shard_index import UNLABELLED, ShardIndex, read_index
from pretrain.images.source import ImageSource
from runtime.errors import UserError
from runtime.findings import Finding
from runtime.image_formats import EXTENSIONS, MAX_BYTES, suffix_of
from runtime.listing import listed

_OPEN_SHARDS = 32  # shards whose index and file descriptor a process keeps
MOST_SHARDS = 1_000_000  # of one pattern; a slip in its numbers must not fill the memory with names


class ShardedImages(ImageSource):
    """The images of tar shards, in the order of the shards and of their members.

    spec: a folder of .tar files, one .tar file, or a pattern such as ``train-{0000..0123}.tar``.
    labels: True reads the ``.cls`` members (whole numbers); UserError when one is missing.
    """

    def __init__(self, spec: str, *, labels: bool) -> None:
        self.paths = expand(spec)
        self._open: OrderedDict[int, tuple[ShardIndex, int]] = OrderedDict()
        counts, digest, largest = [], hashlib.sha256(), -1
        skipped: list[str] = []
        suffixes: Counter[str] = Counter()
        for path in self.paths:
            index = read_index(path)
            if labels and (index.labels == UNLABELLED).any():
                missing = index.names[int((index.labels == UNLABELLED).argmax())]
                raise UserError(f"labels are needed, but {path} has no .cls member beside {missing}")
            counts.append(len(index.offsets))
            largest = max(largest, int(index.labels.max(initial=-1)))
            digest.update(fingerprint([path.name, *index.names], index.sizes).encode())
            digest.update(index.labels.tobytes() if labels else b"")
            skipped += [f"{path.name}/{index.skipped[0]}"] if len(index.skipped) else []
            suffixes.update(suffix_of(text.split(": ", 1)[0]) for text in index.skipped)
        if not sum(counts):
            raise UserError(f"no image in {spec}; members that are images end in {' '.join(EXTENSIONS)}")
        self._ends = np.cumsum(counts)
        self._with_labels = labels
        self.classes = [str(number) for number in range(largest + 1)] if labels else None
        self.fingerprint = self.files_fingerprint = digest.hexdigest()
        self.times_fingerprint = fingerprint([], [path.stat().st_mtime_ns for path in self.paths])
        self.findings = []
        if skipped:
            by_suffix = listed([f"{suffix} {count}" for suffix, count in suffixes.most_common()])
            message = f"members of shards that are not read, by suffix: {by_suffix}"
            self.findings.append(Finding("image skipped", suffixes.total(), skipped[0], message))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def block_ends(self) -> np.ndarray:
        """Ends of the shards in the numbering of the images, int64."""
        return self._ends

    def name(self, index: int) -> str:
        """SHARD.tar/MEMBER of image ``index``."""
        shard, row = self._place(index)
        return f"{self.paths[shard].name}/{self._shard(shard)[0].names[row]}"

    def label(self, index: int) -> int:
        """Class number of image ``index``, or -1 where there are no labels."""
        shard, row = self._place(index)
        return int(self._shard(shard)[0].labels[row]) if self._with_labels else UNLABELLED

    def labels(self) -> np.ndarray | None:
        """Class numbers of all images, None without labels. Reads the index of every shard."""
        if not self._with_labels:
            return None
        return np.concatenate([self._shard(shard)[0].labels for shard in range(len(self.paths))])

    def byte_sizes(self) -> np.ndarray:
        """See ImageSource.byte_sizes. Reads the index of every shard."""
        return np.concatenate([self._shard(shard)[0].sizes for shard in range(len(self.paths))])

    def picture(self, index: int) -> EncodedPicture:
        """See ImageSource.picture."""
        shard, row = self._place(index)
        members, handle = self._shard(shard)
        size = int(members.sizes[row])
        if size > MAX_BYTES:
            raise BadImage(self.name(index), f"{size / 2**30:.1f} GiB; images of more than 1 GiB are not read")
        try:
            data = os.pread(handle, size, int(members.offsets[row]))
        except OSError as error:
            raise BadImage(self.name(index), error.strerror or str(error)) from error
        if len(data) < size:
            raise BadImage(self.name(index), "the shard is shorter than when it was indexed")
        return EncodedPicture(data, self.name(index))

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def _shard(self, shard: int) -> tuple[ShardIndex, int]:
        """Index and file descriptor of a shard; the least recently used one is closed when there are too many."""
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        self._open[shard] = self._reopened(shard)
        while len(self._open) > _OPEN_SHARDS:
            _, (_, oldest) = self._open.popitem(last=False)
            os.close(oldest)
        return self._open[shard]

    def _reopened(self, shard: int) -> tuple[ShardIndex, int]:
        """Index and new descriptor of a shard; UserError where it was removed or replaced since the run began."""
        path, remedy = self.paths[shard], "; restore it and run the same command with --resume"
        index = read_index(path, gone=f"the shard {path} has been removed since the run began{remedy}")
        if len(index.offsets) != self._ends[shard] - (self._ends[shard - 1] if shard else 0):
            raise UserError(f"the shard {path} holds other images than when the run began{remedy}")
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"the shard {path} can no longer be read: {error.strerror}{remedy}") from error
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)  # all of it will be read soon: fetch it in order
        return index, handle

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}  # a descriptor is valid in its own process only


def expand(spec: str) -> list[Path]:
    """The shards of a folder, file or brace pattern (``{00..12}``, ``{a,b}``). UserError when one is missing."""
    if Path(spec).is_dir():
        paths = sorted(Path(spec).glob("*.tar"))
        if other := next((path for path in paths if path.exists() and not path.is_file()), None):
            raise UserError(f"{other} is not a complete tar file: not a regular file; move it away")
        return paths
    parts = [_alternatives(part, spec) for part in re.split(r"(\{[^{}]*\})", spec)]
    if math.prod(map(len, parts)) > MOST_SHARDS:
        raise UserError(f"{spec} names more than {MOST_SHARDS:,} shards; correct the numbers in braces")
    paths = [Path("".join(choice)) for choice in itertools.product(*parts)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"shard {missing[0]} does not exist ({len(missing)} of {len(paths)} named by {spec})")
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"{spec} names {twice} more than once: its images would be shown more often than the others")
    return paths


def _alternatives(part: str, spec: str) -> Sequence[str]:
    """What stands for one part of ``spec``: itself, or the names of its braces."""
    if not part.startswith("{"):
        return [part]
    bounds = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
    if not bounds:
        return part[1:-1].split(",")
    first, last = bounds.groups()
    if len(last) > 18 or not int(first) <= int(last) < int(first) + MOST_SHARDS:
        raise UserError(f"{spec}: {part} must rise, and name at most {MOST_SHARDS:,} shards; correct the numbers")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
