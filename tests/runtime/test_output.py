"""A finished run exits with 0 whatever became of its output; what the machine lacks is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "tests.runtime.programs.exit_codes"]


def shell(command: str, repo: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=repo,
        env={**env, **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.mark.parametrize("output", ["| head -1", "| true", ">&-", "> /dev/null <&-"])
def test_a_finished_run_exits_with_0_whoever_reads_it(output: str, tmp_path: Path, repo: Path) -> None:
    done = shell(f"{' '.join(PROGRAM)} log {tmp_path / 'done'} {output}", repo)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").is_file()


@pytest.mark.parametrize("variables", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}])
def test_a_name_outside_ascii_works_in_every_locale(variables: dict[str, str], tmp_path: Path, repo: Path) -> None:
    done = shell(f"{' '.join(PROGRAM)} log {tmp_path}/größe", repo, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "größe").read_text(encoding="utf-8") == f"{tmp_path}/größe"
    assert "größe" in done.stdout


def test_the_exit_code_of_a_failed_run_survives_a_closed_pipe(repo: Path) -> None:
    assert shell(f"{' '.join(PROGRAM)} 7 | true", repo).returncode == 7


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("too many files", "ulimit -n"),
        ("read-only folder", "runs/x: Permission denied"),
        ("long name", "xxx...: File name too long"),
        ("killed worker", "a data loading process was killed"),
    ],
)
def test_what_the_machine_lacks_is_one_line(end: str, words: str, repo: Path) -> None:
    done = subprocess.run([*PROGRAM, end], cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
