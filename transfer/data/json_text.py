"""Parsing of large JSON files: the values and the refusals of the standard library, faster where orjson is installed.

orjson refuses NaN, infinite numbers and lone surrogates, and words its errors otherwise: what it refuses is parsed
again by the standard library, whose value or error counts. It turns whole numbers beyond 64 bits into floats, silently:
text with a number that could be one is not given to it. Both keep the last of equal keys. (The standard library stops
at about 1,000 levels, less those of its caller, orjson at 1,024.)
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

try:
    import orjson
except ImportError:  # optional: pip install "transfer-gap[fast]"
    orjson = None  # type: ignore[assignment]

_BOM = b"\xef\xbb\xbf"
_DIGITS = 19  # whole numbers of fewer digits have 63 bits at most
_BLOCK = 1 << 20  # bytes looked at together, so that they stay in the cache


def parse_json(data: bytes) -> Any:
    """The value of UTF-8 JSON. ValueError (with line and column) or RecursionError for what is none."""
    if orjson is not None and not _has_long_integer(data):
        try:
            return orjson.loads(data.removeprefix(_BOM))
        except orjson.JSONDecodeError:
            pass
    return json.loads(text_of(data))


def text_of(data: bytes) -> str:
    """The text of a file, as ``Path.read_text`` gives it: without a byte order mark, lines ended by a newline alone."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()


def _has_long_integer(data: bytes) -> bool:
    """Whether ``_DIGITS`` digits follow each other anywhere but behind a point; costs a tenth of orjson's parsing."""
    values = np.frombuffer(data, np.uint8)
    for start in range(0, len(values), _BLOCK):
        block = values[max(start - 1, 0) : start + _BLOCK + _DIGITS - 1]  # with the byte before it
        if not start:
            block = np.concatenate([np.frombuffer(b" ", np.uint8), block])
        digit = block - np.uint8(ord("0")) < 10
        run = digit[1:]
        for step in (1, 2, 4, 8, 3):  # runs of 2, 4, 8, 16, 19
            run = run[:-step] & run[step:]
        before = slice(0, len(run))
        if len(run) and bool((run & ~digit[before] & (block[before] != ord("."))).any()):
            return True
    return False
