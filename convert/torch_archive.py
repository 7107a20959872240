"""Reads torch.save files without torch: the current zip format and the pickle format of torch before 1.6.

Only the pickle and the requested storages are read; the rest of the file (queue, second encoder, optimizer) is not
touched. Nothing is executed: the pickle goes through :mod:`convert.safe_pickle`.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convert.lazy_array import DTYPES, Storage
from convert.safe_pickle import load_pickle
from runtime.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that torch < 1.6 wrote
LEGACY_PROTOCOL = 1001


def read_zip(path: Path, checksums: bool = True) -> Any:
    """The object of a zip ``torch.save`` file, its tensors as LazyArray. Raises UserError for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise UserError(f"it is truncated or damaged ({error})") from error
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise UserError("it is a zip file, but not one that torch.save wrote (no data.pkl inside)")
    root = pickles[0][: -len("data.pkl")]
    if f"{root}constants.pkl" in entries:
        raise UserError("it is a TorchScript program, not a checkpoint; save model.state_dict() instead")
    content = _Entries(path, entries, checksums)
    known: dict[str, Storage] = {}
    order = ">" if f"{root}byteorder" in entries and content.read(f"{root}byteorder")[:3] == b"big" else "<"

    def storage_of(key: str, dtype: str, numel: int) -> Storage:
        name = f"{root}data/{key}"
        if name not in entries or entries[name].file_size < numel * np.dtype(DTYPES[dtype]).itemsize:
            raise UserError(f"it is damaged: storage {key[:40]} is missing or too short")
        if key not in known or (known[key].dtype, known[key].numel) != (dtype, numel):
            known[key] = Storage(dtype, numel, lambda: content.read(name), order)
        return known[key]

    return load_pickle(io.BytesIO(content.read(pickles[0])), storage_of)


class _Entries:
    """The bytes of a zip's entries as views of the mapped file; compressed ones are refused (torch writes none).

    The mapping is private (ACCESS_COPY) and so writable, as torch expects of arrays; the file itself is never written.
    """

    def __init__(self, path: Path, entries: dict[str, zipfile.ZipInfo], checksums: bool) -> None:
        self._checksums = checksums
        self._checked: set[str] = set()  # tensors may share a storage: each is checked once
        self._entries = entries
        with open(path, "rb") as file:
            self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))

    def read(self, name: str) -> memoryview:
        entry = self._entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise UserError("it is a compressed zip, which torch.save never writes; unpack and re-save it")
        # the local header repeats name and extra field with lengths of its own (torch pads the extra field to align)
        head = self._bytes[entry.header_offset : entry.header_offset + 30]
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise UserError("it is damaged: an entry's header is not where the index says")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        content = self._bytes[start : start + entry.file_size]
        sound = len(content) == entry.file_size
        if sound and self._checksums and name not in self._checked:
            sound = zlib.crc32(content) == entry.CRC
        if not sound:
            raise UserError(f"it is damaged: the checksum of {name} does not match; fetch the file again")
        self._checked.add(name)
        return content


def is_legacy(head: bytes) -> bool:
    """Whether a file begins with the format of torch before 1.6, a pickle of its magic number."""
    return head[2:4] == b"\x8a\x0a" and head[4:14] == LEGACY_MAGIC.to_bytes(10, "little")


def read_legacy(path: Path) -> Any:
    """The object of a ``torch.save`` file of torch < 1.6: four pickles, then length and bytes of each storage."""
    storages: dict[str, tuple[str, int]] = {}
    places: dict[str, int] = {}
    with open(path, "rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))

        def storage_of(key: str, dtype: str, numel: int) -> Storage:
            if storages.setdefault(key, (dtype, numel)) != (dtype, numel):
                raise UserError(f"it is damaged: storage {key[:40]} is described twice")
            size = numel * np.dtype(DTYPES[dtype]).itemsize
            return Storage(dtype, numel, lambda: mapped[places[key] : places[key] + size])

        if load_pickle(file) != LEGACY_MAGIC or load_pickle(file) != LEGACY_PROTOCOL:
            raise UserError("it is damaged: not the format that torch < 1.6 wrote")
        system = load_pickle(file)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise UserError("it was written on a big-endian machine; re-save it with a current torch")
        checkpoint = load_pickle(file, storage_of)
        _place(file, load_pickle(file), storages, places, len(mapped))
    return checkpoint


def _place(file: BinaryIO, keys: Any, storages: dict[str, tuple[str, int]], places: dict[str, int], end: int) -> None:
    if not isinstance(keys, list) or {str(k) for k in keys} != set(storages):
        raise UserError("it is damaged: its list of storages does not fit its tensors")
    for key in map(str, keys):
        dtype, numel = storages[key]
        size = numel * np.dtype(DTYPES[dtype]).itemsize
        head = file.read(8)
        places[key] = file.tell()
        if len(head) != 8 or struct.unpack("<q", head)[0] != numel or places[key] + size > end:
            raise UserError("it is truncated: the tensors' bytes end before the file should")
        file.seek(size, 1)
