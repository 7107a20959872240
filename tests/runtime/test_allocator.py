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
