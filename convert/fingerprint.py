"""How a sidecar knows its files: sha256, or a sum that costs a quarter of it, for conversions that skip the proof."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from runtime.atomic import sha256_file

QUICK = "sum64:"  # what a quick fingerprint begins with
_BLOCK = 1 << 18  # bytes; stays in the cache of a core


def quick_fingerprint(path: str | Path) -> str:
    """``sum64:`` and 64 hex digits: the sha256 over the sums of each block's 64-bit words (wrapping), and the size.

    A byte that differs, is missing or added changes it, as do blocks in another order; 64-bit words that change places
    within one block do not. Unlike sha256 it is no defence against forgery, which a sidecar that lies beside its file
    cannot be either.
    """
    digest, size = hashlib.sha256(), 0
    content = bytearray(_BLOCK)
    block, words = memoryview(content), np.frombuffer(content, "<u8")
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            block[count:] = bytes(_BLOCK - count)
            size += count
            digest.update(np.add.reduce(words).astype("<u8").tobytes())
    digest.update(size.to_bytes(8, "little"))
    return QUICK + digest.hexdigest()


def is_file(path: str | Path, recorded: str) -> bool:
    """Whether the file has the sha256 or quick fingerprint that was ``recorded``."""
    return recorded == (quick_fingerprint(path) if recorded.startswith(QUICK) else sha256_file(path))
