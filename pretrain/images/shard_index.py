"""The index of a tar shard: where its images lie and what class they are of, kept as NAME.tar.index beside it."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretrain.images.listing import is_junk
from pretrain.images.names import Names
from runtime.atomic import write_bytes
from runtime.errors import UserError
from runtime.image_formats import EXTENSIONS
from runtime.logs import get_logger

UNLABELLED = -1
LARGEST_CLASS = 999_999  # class numbers start at 0, so a larger one is a mistake, and memory for every class below it
_RULES = 2  # version of the rules by which members become images; an index written by other rules is made again
_BLOCK = tarfile.BLOCKSIZE


@dataclass
class ShardIndex:
    """The images of one shard. offsets, sizes: int64 n, in bytes; labels: int64 n, -1 for none.

    skipped: images that are not read, as ``NAME: reason``.
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    skipped: Names

    def fits(self, size: int) -> bool:
        """Whether the arrays belong together and to a file of ``size`` bytes."""
        count = len(self.names)
        arrays = (self.offsets, self.sizes, self.labels)
        if not all(array.dtype == np.int64 and array.shape == (count,) for array in arrays):
            return False
        inside = (self.offsets >= 0) & (self.sizes >= 0) & (self.sizes <= size) & (self.offsets <= size - self.sizes)
        return bool(inside.all() and (self.labels >= UNLABELLED).all() and (self.labels <= LARGEST_CLASS).all())


def read_index(path: Path, gone: str | None = None) -> ShardIndex:
    """The index of a shard: from the file beside it where that belongs to the tar as it is now, else from the tar.

    gone: the message of the UserError for a shard that does not exist.
    """
    index_file = path.with_name(path.name + ".index")
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(gone or f"the shard {path} cannot be read: {error.strerror}") from error
    stamp = np.array([state.st_size, state.st_mtime_ns, _RULES])
    # An index that is missing, damaged, or of another version of the shard is made anew.
    errors = (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile)
    with contextlib.suppress(*errors), np.load(index_file) as arrays:
        if np.array_equal(arrays["stamp"], stamp):
            names, skipped = (_unpack(arrays[key]) for key in ("names", "skipped"))
            index = ShardIndex(names, arrays["offsets"], arrays["sizes"], arrays["labels"], skipped)
            if index.fits(state.st_size):
                return index
    index = scan(path)
    if len(index.offsets):
        _write_index(index_file, index, stamp)
    return index


def _pack(names: Names) -> np.ndarray:
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8)


def _unpack(text: np.ndarray) -> Names:
    return Names(bytes(text).decode("utf-8", "surrogateescape").split("\0") if len(text) else [])


def _write_index(path: Path, index: ShardIndex, stamp: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        stamp=stamp,
        names=_pack(index.names),
        skipped=_pack(index.skipped),
        offsets=index.offsets,
        sizes=index.sizes,
        labels=index.labels,
    )
    try:
        write_bytes(path, buffer.getvalue())
    except UserError as error:
        get_logger(__name__).warning("the index of a shard cannot be saved and will be made again next time: %s", error)


@dataclass
class _Members:
    """The members of a tar by their role. images: by name, in the order of the tar. labels: by name without .cls."""

    files: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    images: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def scan(path: Path) -> ShardIndex:
    """The images and labels of a tar, from its headers. UserError when it is not a complete, uncompressed tar file."""
    members = _Members()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                _take(tar, member, path, members)
            _refuse_rest(path, tar.offset)
    except UserError:
        raise
    except Exception as error:  # on malformed headers tarfile raises errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not a complete tar file: {reason}{_hint(path)}") from error
    for name in [name for name, member in members.images.items() if not member.isfile()]:
        _follow(name, members)
    _choose_one_of_each_sample(members)
    size = path.stat().st_size
    cut = next((m.name for m in members.images.values() if m.offset_data + m.size > size), None)
    if cut is not None:
        raise UserError(f"{path} is truncated inside {cut}; copy it again")
    images = members.images
    return ShardIndex(
        Names(list(images)),
        np.array([member.offset_data for member in images.values()], np.int64),
        np.array([member.size for member in images.values()], np.int64),
        np.array([_label_of(name, members.labels) for name in images], np.int64),
        Names(members.skipped),
    )


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, members: _Members) -> None:
    """Sort one member into ``members``; UserError for one that cannot be meant."""
    name = member.name
    if member.size < 0:
        raise UserError(f"{path}: {name} has the negative size {member.size}; write the shard again")
    link = member.islnk() or member.issym()
    is_image = name.lower().endswith(EXTENSIONS) and (member.isfile() or link)
    is_label = name.endswith(".cls") and member.isfile()
    if is_image and is_junk(name):
        members.skipped.append(f"{name}: hidden, or left by a file manager")
        return
    if name in members.files and (is_image or is_label):
        raise UserError(f"{path} holds {name} twice; write the shard again with a name for each image")
    if not member.isdir():
        members.files[name] = member
    if is_image and member.issparse():
        raise UserError(f"{path}: {name} is stored as a sparse file; write the shard again with plain members")
    if is_image:
        members.images[name] = member
    elif is_label:
        members.labels[name.removesuffix(".cls")] = _read_label(tar, member, path)


def _follow(name: str, members: _Members) -> None:
    """Replace a link by the member it points to, or note that there is none."""
    link = members.images[name]
    target = link.linkname
    if link.issym():  # relative to its folder; that of a hard link is relative to the archive
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    member = members.files.get(target)
    if member is not None and member.isfile():
        members.images[name] = member
    else:
        members.skipped.append(f"{name}: a link to {link.linkname}, which is not a file of the shard")
        del members.images[name]


def _choose_one_of_each_sample(members: _Members) -> None:
    """Drop the images that belong to the sample of another one.

    A sample is what shares its name up to the first dot. Where it has an image without further dots (``a.jpg``), that
    is its image, the first where there are several, and ``a.seg.png`` belongs to it. Where it has none, the dots are
    part of the names (``22.05.jpg``), and each is an image.
    """
    plain: dict[str, str] = {}
    for name in members.images:
        if posixpath.basename(name).count(".") == 1:
            plain.setdefault(_key(name), name)
    for name in [name for name in members.images if plain.get(_key(name), name) != name]:
        members.skipped.append(f"{name}: belongs to the sample of {plain[_key(name)]}")
        del members.images[name]


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".", 1)[0])


def _label_of(name: str, labels: dict[str, int]) -> int:
    """By the whole name without its suffix, else by the name up to the first dot."""
    return labels.get(os.path.splitext(name)[0], labels.get(_key(name), UNLABELLED))


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    file = tar.extractfile(member)
    text = file.read(64).decode("utf-8-sig", "replace").strip() if file else ""
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{path}: {member.name} holds {text!r}, not a class number")
    if int(text) > LARGEST_CLASS:
        raise UserError(f"{path}: {member.name} holds {text}; class numbers start at 0 and end at {LARGEST_CLASS}")
    return int(text)


def _refuse_rest(path: Path, end: int) -> None:
    """Refuse what follows the place where tarfile stopped: it stops at a damaged header without a word."""
    with open(path, "rb") as file:
        file.seek(end)
        head = file.read(_BLOCK)
        if head.strip(b"\0"):
            raise UserError(f"{path} has a damaged header at byte {end}; what follows would be lost, copy it again")
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise UserError(
                    f"{path} goes on after the end of its archive at byte {end} (several archives joined?); "
                    "unpack it and write one archive"
                )


def _hint(path: Path) -> str:
    """What to do about a file that is not a tar file, as far as its first bytes tell."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return "; shards must be uncompressed" if file.read(2) == b"\x1f\x8b" else ""
    return ""
