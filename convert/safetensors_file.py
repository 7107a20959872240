"""The safetensors format: eight bytes of header length, a JSON header, then the tensors' bytes. It contains no code."""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from convert.lazy_array import LazyArray, Storage
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
    "U8": "uint8",
    "BOOL": "bool",
}
BYTES = {"F32": 4, "F64": 8, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes can be one: ``head``, its first 16 bytes, has a plausible length, then JSON."""
    return len(head) >= 9 and head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= size


def read_safetensors(path: Path) -> dict[str, LazyArray]:
    """Name -> tensor, not read yet. Raises UserError for a header that does not describe the bytes after it."""
    with open(path, "rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    start = 8 + int.from_bytes(mapped[:8], "little")
    try:
        header = json.loads(bytes(mapped[8:start]))
        return {name: _entry(mapped[start:], **entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"its safetensors header is damaged ({type(error).__name__})") from error


def _entry(content: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> LazyArray:
    begin, end = data_offsets
    numel = math.prod(shape)
    if min([begin, *shape], default=0) < 0 or end - begin != numel * BYTES[dtype]:
        raise ValueError("offsets")
    if end > len(content):
        raise UserError(
            "its safetensors header names bytes beyond the end of the file: it is truncated; fetch it again"
        )
    read: Callable[[], memoryview] = lambda: content[begin:end]  # noqa: E731
    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return LazyArray(Storage(NAMES[dtype], numel, read), 0, tuple(shape), stride)


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
