"""Which runs may stand in one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UserError
from tests.transfer.run_store import make_record, write_run
from transfer.comparison.like_for_like import check_equal
from transfer.records.run import Run, read_run


def runs_of(root: Path, *world_sizes: int | None) -> list[Run]:
    runs = []
    for seed, size in enumerate(world_sizes):
        record = make_record(seed=seed, world_size=size)
        if size is None:  # as an earlier version wrote it
            del record["world_size"]
        runs.append(read_run(write_run(root, record)))
    return runs


def test_another_number_of_processes_is_not_like_for_like(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, 1, 1, 8)
    with pytest.raises(UserError, match=r"runs differ in world_size .*\(world_size: 1 in .*seed0, 8 in .*seed2\)"):
        check_equal("toy", runs, [])
    (allowed,) = check_equal("toy", runs, ["world_size"])
    assert allowed.key == "world_size"


def test_runs_that_could_not_record_it_are_compared(tmp_path: Path) -> None:
    assert check_equal("toy", runs_of(tmp_path, None, 1, None, 1), []) == []
    with pytest.raises(UserError, match=r"world_size: 1 in .*seed1, 8 in .*seed2"):
        check_equal("toy", runs_of(tmp_path / "more", None, 1, 8), [])


def test_frozen_and_tuned_backbones_are_not_like_for_like(tmp_path: Path) -> None:
    def run(root: Path, seed: int, protocol: str | None) -> Run:
        record = make_record(seed=seed, protocol=protocol)
        if protocol is None:  # as an earlier version wrote it
            del record["protocol"]
        return read_run(write_run(root, record))

    runs = [run(tmp_path, seed, protocol) for seed, protocol in enumerate((None, "frozen", "tuned"))]
    with pytest.raises(UserError, match=r"runs differ in protocol .*\(protocol: 'frozen' in .*seed1, 'tuned' in"):
        check_equal("toy", runs, [])
    assert check_equal("toy", runs[:2], []) == []
