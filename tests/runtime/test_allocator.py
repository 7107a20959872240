"""The C library keeps the memory of freed tensors, unless the environment says otherwise."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from runtime.allocator import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else False

def touch():
    np.ones(80_000_000 // 8)  # more than the 32 MiB from which on glibc always maps anew

touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(repo, argument, **environment):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, argument], cwd=repo, env=environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_reused_without_a_page_fault(repo):
    assert page_faults(repo, "leave")[1] > 1000
    kept, faults = page_faults(repo, "keep")
    assert kept
    assert faults < 100


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_what_the_environment_says_is_left_alone(repo, name):
    assert page_faults(repo, "keep", **{name: ""})[0] is False


PIECES = """
import sys
from pathlib import Path
import numpy as np
from runtime.allocator import keep_freed_memory, return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

if sys.argv[1] == "keep":
    keep_freed_memory()
first = return_freed_memory()
rows = [(np.ones(2**18), np.ones(2**4)) for _ in range(200)]  # 2 MB each, and a pin between them
full = resident()
pins = [row[1] for row in rows]
del rows
kept = resident()
print(first, return_freed_memory(), return_freed_memory(), full, kept, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_pieces_that_add_up_are_returned(repo):
    done = subprocess.run([sys.executable, "-c", PIECES, "keep"], cwd=repo, capture_output=True, text=True, check=True)
    first, second, third, full, kept, after = done.stdout.split()
    assert (first, second, third) == ("False", "True", "False")
    assert int(kept) > int(full) - 50, "the pieces are kept until they are returned"
    assert int(after) < int(full) - 350


def test_nothing_is_returned_where_nothing_is_kept(repo):
    done = subprocess.run([sys.executable, "-c", PIECES, "leave"], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.split()[:3] == ["False"] * 3
