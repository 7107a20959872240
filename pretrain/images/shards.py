"""Images in tar shards of the WebDataset layout, streamed shard by shard, at any step of any epoch.

A sample is a run of members that share their name up to the first dot of the base name: ``n01440764/18.jpg``,
``n01440764/18.cls``. Each shard is indexed once (offsets of its images, labels); the index is kept beside the shard as
NAME.tar.index where the folder can be written. Images are read by offset, and the order keeps a window of a few shards
together (``BlockOrder``), each of which the kernel reads ahead: sequential for the disk, random for the training, and a
function of the step alone, so a run can continue anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import re
import tarfile
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.images.decode import BadImage, EncodedPicture
from pretrain.images.source import EXTENSIONS, ImageSource, Names, fingerprint
from runtime.atomic import write_bytes
from runtime.errors import UserError
from runtime.logs import get_logger

_OPEN_SHARDS = 32  # shards whose index and file descriptor a process keeps
_UNLABELLED = -1


@dataclass
class ShardIndex:
    """The images of one shard. offsets, sizes: int64 n, in bytes; labels: int64 n, -1 for none."""

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


class ShardedImages(ImageSource):
    """The images of tar shards, in the order of the shards and of their members.

    spec: a folder of .tar files, one .tar file, or a pattern such as ``train-{0000..0123}.tar``.
    labels: True reads the ``.cls`` members (whole numbers); UserError when one is missing.
    """

    def __init__(self, spec: str, *, labels: bool) -> None:
        self.paths = expand(spec)
        self._open: OrderedDict[int, tuple[ShardIndex, int]] = OrderedDict()
        counts, digest, largest = [], hashlib.sha256(), -1
        for path in self.paths:
            index = read_index(path)
            if labels and (index.labels == _UNLABELLED).any():
                missing = index.names[int((index.labels == _UNLABELLED).argmax())]
                raise UserError(f"labels are needed, but {path} has no .cls member beside {missing}")
            counts.append(len(index.offsets))
            largest = max(largest, int(index.labels.max(initial=-1)))
            digest.update(fingerprint([path.name, *index.names], index.sizes).encode())
            digest.update(index.labels.tobytes() if labels else b"")
        if not sum(counts):
            raise UserError(f"no image in {spec}; members that are images end in {' '.join(EXTENSIONS)}")
        self._ends = np.cumsum(counts)
        self._with_labels = labels
        self.classes = [str(number) for number in range(largest + 1)] if labels else None
        self.fingerprint = self.files_fingerprint = digest.hexdigest()

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
        return int(self._shard(shard)[0].labels[row]) if self._with_labels else _UNLABELLED

    def labels(self) -> np.ndarray | None:
        """Class numbers of all images, None without labels. Reads the index of every shard."""
        if not self._with_labels:
            return None
        return np.concatenate([self._shard(shard)[0].labels for shard in range(len(self.paths))])

    def picture(self, index: int) -> EncodedPicture:
        """See ImageSource.picture."""
        shard, row = self._place(index)
        members, handle = self._shard(shard)
        size = int(members.sizes[row])
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
        return sorted(Path(spec).glob("*.tar"))
    parts = [_alternatives(part) for part in re.split(r"(\{[^{}]*\})", spec)]
    paths = [Path("".join(choice)) for choice in itertools.product(*parts)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"shard {missing[0]} does not exist ({len(missing)} of {len(paths)} named by {spec})")
    return paths


def _alternatives(part: str) -> list[str]:
    if not part.startswith("{"):
        return [part]
    bounds = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
    if not bounds:
        return part[1:-1].split(",")
    first, last = bounds.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def read_index(path: Path, gone: str | None = None) -> ShardIndex:
    """The index of a shard: from the file beside it where that belongs to the tar as it is now, else from the tar.

    gone: the message of the UserError for a shard that does not exist.
    """
    index_file = path.with_name(path.name + ".index")
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(gone or f"the shard {path} cannot be read: {error.strerror}") from error
    stamp = np.array([state.st_size, state.st_mtime_ns])
    # An index that is missing, damaged, or of another version of the shard is made anew.
    errors = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*errors), np.load(index_file) as arrays:
        if np.array_equal(arrays["stamp"], stamp):
            names = Names(bytes(arrays["names"]).decode("utf-8", "surrogateescape").split("\0"))
            return ShardIndex(names, arrays["offsets"], arrays["sizes"], arrays["labels"])
    index = scan(path)
    if len(index.offsets):
        _write_index(index_file, index, stamp)
    return index


def _write_index(path: Path, index: ShardIndex, stamp: np.ndarray) -> None:
    text = "\0".join(index.names).encode("utf-8", "surrogateescape")
    buffer = io.BytesIO()
    np.savez(
        buffer,
        stamp=stamp,
        names=np.frombuffer(text, np.uint8),
        offsets=index.offsets,
        sizes=index.sizes,
        labels=index.labels,
    )
    try:
        write_bytes(path, buffer.getvalue())
    except UserError as error:
        get_logger(__name__).warning("the index of a shard cannot be saved and will be made again next time: %s", error)


def scan(path: Path) -> ShardIndex:
    """The images and labels of a tar, from its headers. UserError when it is not a complete, uncompressed tar file."""
    images: OrderedDict[str, tarfile.TarInfo] = OrderedDict()
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, base = os.path.split(member.name)
                stem, _, kind = base.partition(".")
                key = f"{folder}/{stem}"
                if member.isfile() and f".{kind.lower()}" in EXTENSIONS:
                    images.setdefault(key, member)
                elif kind == "cls":
                    labels[key] = _label(tar, member, path)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path} is not a complete tar file: {error}{_hint(path)}") from error
    members = list(images.values())
    if members and members[-1].offset_data + members[-1].size > path.stat().st_size:
        raise UserError(f"{path} is truncated inside {members[-1].name}; copy it again")
    return ShardIndex(
        Names([member.name for member in members]),
        np.array([member.offset_data for member in members], np.int64),
        np.array([member.size for member in members], np.int64),
        np.array([labels.get(key, _UNLABELLED) for key in images], np.int64),
    )


def _hint(path: Path) -> str:
    """What to do about a file that is not a tar file, as far as its first bytes tell."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return "; shards must be uncompressed" if file.read(2) == b"\x1f\x8b" else ""
    return ""


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    file = tar.extractfile(member)
    text = file.read(64).decode("ascii", "replace").strip() if file else ""
    if not text.isdigit():
        raise UserError(f"{path}: {member.name} holds {text!r}, not a class number")
    return int(text)
