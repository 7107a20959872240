"""Frees many blocks between small ones that stay, and prints what ``return_freed_memory`` returned and resident MiB."""

import sys
from pathlib import Path

import numpy as np

from runtime.allocator import keep_freed_memory, return_freed_memory


def resident() -> int:
    """Resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


if sys.argv[1] == "keep":
    keep_freed_memory()
first = return_freed_memory()
rows = [(np.ones(2**18), np.ones(2**4)) for _ in range(200)]  # 2 MB each, and a small array between them
full = resident()
small = [row[1] for row in rows]
del rows
after_free = resident()
print(first, return_freed_memory(), return_freed_memory(), full, after_free, resident())
