"""The safetensors format: eight bytes of header length, a JSON header, then the tensors' bytes. It contains no code."""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convert.lazy_array import DTYPES, MAX_DIMENSIONS, LazyArray, Storage, unreadable
from runtime.errors import UserError

NAMES = {
    "F32": "float32",
    "F64": "float64",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
MAX_HEADER = 100_000_000  # bytes, as the format's own reader


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes can be one: ``head``, its first 16 bytes, has a plausible length, then JSON."""
    return len(head) >= 9 and head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= size


def read_safetensors(path: Path) -> dict[str, LazyArray]:
    """Name -> tensor, not read yet. Raises UserError for a header that does not describe the bytes after it.

    As the format says, no name occurs twice, and the tensors fill the bytes after the header without gap or overlap.
    Tensors of types that no backbone has (float8) are listed and not read.
    """
    with open(path, "rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    start = 8 + int.from_bytes(mapped[:8], "little")
    if start > MAX_HEADER:
        raise UserError(f"its safetensors header has {start - 8} bytes, more than the format allows")
    content = mapped[start:]
    try:
        header = json.loads(bytes(mapped[8:start]), object_pairs_hook=_unique)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        _check_layout([entry["data_offsets"] for entry in entries.values()], len(content))
        return {name: _entry(content, **entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"its safetensors header is damaged ({type(error).__name__})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1) if len(names) < 1000 else "a tensor"
        raise UserError(f"its safetensors header names {twice[:200]} twice")
    return content


def _check_layout(offsets: list[Any], size: int) -> None:
    end = 0
    for first, last in sorted((int(first), int(last)) for first, last in offsets):
        if last > size:
            raise UserError(
                "its safetensors header names bytes beyond the end of the file: it is truncated; fetch it again"
            )
        if first != end or last < first:
            raise UserError("its safetensors header is damaged (tensors overlap, or bytes belong to none)")
        end = last
    if end != size:
        raise UserError(f"it is damaged: {size - end} bytes belong to no tensor of its safetensors header")


def _entry(content: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> LazyArray:
    if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0 or not all(isinstance(n, int) for n in shape):
        raise ValueError("shape")
    if dtype not in NAMES:
        return unreadable(str(dtype)[:20], tuple(shape))
    begin, end = data_offsets
    numel = math.prod(shape)
    if end - begin != numel * np.dtype(DTYPES[NAMES[dtype]]).itemsize:
        raise ValueError("offsets")
    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return LazyArray(Storage(NAMES[dtype], numel, lambda: content[begin:end]), 0, tuple(shape), stride)


def write_safetensors(file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write float32 and int64 arrays one after the other, in the order given, the header padded to eight bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in tensors.items():
        kind = {"float32": "F32", "int64": "I64"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for array in tensors.values():
        file.write(np.ascontiguousarray(array).data)
