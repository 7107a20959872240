"""Small files that would keep a reader busy for ever: refused in one line within moments."""

from __future__ import annotations

import pickle
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.convert.checkpoints import refused


def entry(offsets: list[int], shape: str = "[4]") -> str:
    return f'{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}'


# what the safetensors format forbids; each file has 16 bytes of tensors
FORBIDDEN_HEADERS = {
    "a name twice": (f'{{"w":{entry([0, 16])},"w":{entry([0, 16])}}}', "names w twice"),
    "a field twice": ('{"w":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}}', "names dtype twice"),
    "shared bytes": (f'{{"v":{entry([0, 16])},"w":{entry([0, 16])}}}', "overlap"),
    "overlapping bytes": (f'{{"v":{entry([0, 8], "[2]")},"w":{entry([4, 16], "[3]")}}}', "overlap"),
    "a gap": (f'{{"v":{entry([0, 4], "[1]")},"w":{entry([8, 16], "[2]")}}}', "bytes belong to none"),
    "bytes left over": (f'{{"v":{entry([0, 4], "[1]")}}}', "12 bytes belong to no tensor"),
    "300,000 dimensions": (f'{{"w":{entry([0, 16], "[" + "1," * 300_000 + "4]")}}}', "header is damaged"),
    "nested without end": ("{" + '"a":{' * 100_000, "header is damaged"),
    "a number of a million digits": (f'{{"w":{entry([0, 16], "[" + "9" * 1_000_000 + "]")}}}', "header is damaged"),
}


@pytest.mark.parametrize("name", FORBIDDEN_HEADERS)
def test_safetensors_headers_that_the_format_forbids(name: str, tmp_path) -> None:
    text, match = FORBIDDEN_HEADERS[name]
    header = text.encode()
    (tmp_path / "c.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    refused_at_once(tmp_path / "c.safetensors", match)


def doubling(levels: int = 60) -> bytes:
    """t = (t, t), ``levels`` times, in the memo under that number: 2 ** levels steps to hash, compare or print."""
    return b")q\x00" + b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(levels)
    )


def colliding(count: int = 50_000) -> bytes:
    """A dict whose integer keys have one hash: quadratic time in a dict that keeps them."""
    keys = (i * ((1 << 61) - 1) for i in range(count))
    return b"}(" + b"".join(b"\x8a\x0a" + key.to_bytes(10, "little") + b"N" for key in keys) + b"u."


SHORT = b"X\x01\x00\x00\x00a"
BUSY = {
    "a key that doubles": doubling() + b"}h\x3cK\x01s.",
    "two keys that double": doubling() + doubling() + b"}(h\x3cNh\x3bNu.",
    "a set of what doubles": doubling() + b"\x8f(h\x3c\x90.",
    "a frozen set of what doubles": doubling() + b"(h\x3c\x91.",
    "pairs whose key doubles": doubling() + b"ccollections\nOrderedDict\n]h\x3cK\x01\x86a\x85R.",
    "an encoding that doubles": doubling() + b"c_codecs\nencode\n" + SHORT + b"h\x3c\x86R.",
    "a name that doubles": doubling() + b"h\x3ch\x3c\x93.",
    "a storage that doubles": doubling() + b"h\x3cQ.",
    "a dtype that doubles": doubling() + b"cnumpy\ndtype\nh\x3c\x85R.",
    "keys of one hash": colliding(),
    "text encoded again and again": b"X\xa0\x86\x01\x00" + b"a" * 100_000 + b"q\x00c_codecs\nencode\nq\x01"
    b"(" + b"h\x01h\x00\x85R" * 50_000 + b"l.",
    "shapes copied again and again": b"("
    + b"K\x01" * 50_000
    + b"lq\x00ctorch\nSize\nq\x01("
    + b"h\x01h\x00\x85R" * 50_000
    + b"l.",
    "deep tuples": b")" + b"\x85" * 500_000 + b".",
    "deep lists": b"]" * 300_000 + b"a" * 299_999 + b".",
    "a long integer": b"\x8b\x40\x0d\x03\x00" + b"\x7f" * 200_000 + b".",
    "a long integer as text": b"L" + b"9" * 200_000 + b"L\n.",
    "a long hexadecimal integer": b"I0x" + b"f" * 200_000 + b"\n.",
    "a bytearray of 4 GB": b"\x96" + struct.pack("<Q", 1 << 32) + b".",
    "a frame of 4 GB": b"\x95" + struct.pack("<Q", 1 << 32) + b".",
    "an extension": b"\x82\x01.",
}


def refused_at_once(path: Path, match: str | None = None) -> None:
    started = time.process_time()
    message = refused(path, match)
    assert time.process_time() - started < 4  # both readers
    assert len(message) < 1000


@pytest.mark.parametrize("form", ["pickle", "zip"])
@pytest.mark.parametrize("name", BUSY)
def test_what_would_keep_the_reader_busy(name: str, form: str, tmp_path) -> None:
    stream = b"\x80\x04" + BUSY[name]
    if form == "pickle":
        (tmp_path / "c.pkl").write_bytes(stream)
    else:
        with zipfile.ZipFile(tmp_path / "c.pkl", "w") as file:
            file.writestr("archive/data.pkl", stream)
    refused_at_once(tmp_path / "c.pkl")


def test_names_without_end(tmp_path) -> None:
    """Dicts in dicts repeat the keys in every name below them."""
    inner: dict = {f"t{i}": np.zeros(1, np.float32) for i in range(100)}
    for _ in range(5):
        inner = {"k" * 500: inner}
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(inner))
    refused_at_once(tmp_path / "c.pkl", "name is too long")
    dotted = {".".join("a" * 200): np.zeros(1, np.float32)}
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(dotted))
    refused_at_once(tmp_path / "c.pkl", "name is too long")
