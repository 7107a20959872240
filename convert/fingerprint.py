"""How a sidecar identifies its files: by sha256, or by a sum four times as fast for unverified conversions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from runtime.atomic import sha256_file

QUICK = "sum64:"  # prefix of a quick fingerprint
_BLOCK = 1 << 18  # bytes; fits the cache of a core


def quick_fingerprint(path: str | Path) -> str:
    """``sum64:`` and 64 hex digits: the sha256 over the sums of each block's 64-bit words (wrapping), and the size.

    A changed, missing or extra byte changes it, as does another order of blocks; swapping 64-bit words within one block
    does not. Unlike sha256 it does not protect against forgery, but neither can a sidecar that lies beside its file.
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
