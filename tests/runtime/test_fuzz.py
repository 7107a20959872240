"""Mutated files of every kind that people pass around: read or refused in one line, in bounded time and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.programs.fuzz import KINDS

CASES = [pytest.param(kind, 200, id=kind) for kind in KINDS]
CASES += [pytest.param(kind, 10_000, id=f"{kind}-long", marks=pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize(("kind", "count"), CASES)
def test_nothing_but_user_errors(kind: str, count: int, tmp_path: Path, repo: Path) -> None:
    command = [sys.executable, "-m", "tests.runtime.programs.fuzz", kind, str(count), str(tmp_path)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-3000:]}"
    assert done.stdout == f"{count} {kind}\n"
