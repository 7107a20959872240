"""How the C library hands out the memory of large tensors on a CPU."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# parameters of glibc's mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
USER_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD", "GLIBC_TUNABLES")
RESIDENT = Path("/proc/self/statm")  # pages: all, resident, ...
GROWTH = 1.5  # of the resident memory, from which on what was freed is returned


class _Kept:
    """Whether this process keeps freed memory, and its resident pages one turn after it returned some (0: not yet)."""

    on = False
    pages = 0


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors instead of returning it to the system; whether it does.

    glibc maps every block of more than 32 MiB anew and unmaps it when it is freed, so that the system clears the pages
    of each large feature map in every step: a sixth of the time of ResNet-50 at 224 pixels and batch 32, and of
    detection. Numbers do not change. Does nothing with another C library, or where the environment says how memory is
    to be handled.
    """
    if any(name in os.environ for name in USER_SETTINGS) or not RESIDENT.exists():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    _Kept.on = bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
    return _Kept.on


def return_freed_memory() -> bool:
    """Between turns whose tensors differ in size: return what ``keep_freed_memory`` kept once there is too much of it.

    Pieces of freed blocks that fit no later tensor add up for as long as a run lasts. They are returned when the
    resident memory is ``GROWTH`` times that of one turn after the last return. Returns whether they were.
    """
    if not _Kept.on:
        return False
    resident = int(RESIDENT.read_text().split()[1])
    if not _Kept.pages:
        _Kept.pages = resident
    if resident < GROWTH * _Kept.pages:
        return False
    ctypes.CDLL(None).malloc_trim(0)
    _Kept.pages = 0
    return True
