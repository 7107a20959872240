"""The C library keeps the memory of freed tensors, unless the environment says otherwise."""

import subprocess
import sys

import pytest


def run(repo, program, argument, **options):
    command = [sys.executable, "-m", f"tests.runtime.programs.{program}", argument]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True, **options).stdout.split()


def page_faults(repo, argument, **environment):
    kept, faults = run(repo, "page_faults", argument, env=environment)
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_pieces_that_add_up_are_returned(repo):
    first, second, third, full, kept, after = run(repo, "fragmentation", "keep")
    assert (first, second, third) == ("False", "True", "False")
    assert int(kept) > int(full) - 50, "the pieces are kept until they are returned"
    assert int(after) < int(full) - 350


def test_nothing_is_returned_where_nothing_is_kept(repo):
    assert run(repo, "fragmentation", "leave")[:3] == ["False"] * 3
