"""Prints whether freed memory is kept, and the page faults of allocating the same large array five times."""

import resource
import sys

import numpy as np

from runtime.allocator import keep_freed_memory

keeps = keep_freed_memory() if sys.argv[1] == "keep" else False


def allocate() -> None:
    """Use more than the 32 MiB above which glibc by default always maps anew."""
    np.ones(80_000_000 // 8)


allocate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    allocate()
print(keeps, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
