"""Lives of a command: processes that tests kill at random moments and start again.

A server that has imported a command's modules forks each life, so that one begins in milliseconds and most of it is the
command's work, not its imports.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path

from runtime.repository import REPOSITORY

ORPHAN_SECONDS = 5.0  # how long what a killed process started may live on


# One server for all tests of a process, since it cannot be told of further modules later.
MODULES = (
    "pretrain.cache_images",
    "pretrain.images",
    "transfer.engines.torchvision.engine",
    "transfer.fine_tuning.job",
    "transfer.measure_gap",
    "transfer.planning.measure",
    "transfer.planning.slurm.stage_commands",
)


def begin(script: Path, words: Sequence[str], log: Path) -> ForkServerProcess:
    """A life of ``script`` with the arguments ``words`` in the current folder, in a session of its own.

    Its output is appended to ``log``.
    """
    context, folder = multiprocessing.get_context("forkserver"), os.getcwd()
    context.set_forkserver_preload(list(MODULES))
    os.chdir(REPOSITORY)  # the server imports from its current folder
    try:
        ensure_running()
    finally:
        os.chdir(folder)
    process = context.Process(target=_live, args=(str(script), list(words), str(log), folder, dict(os.environ)))
    process.start()
    return process


def _live(script: str, words: list[str], log: str, folder: str, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # a life of a server inherits the server's way
    sink = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def cut_short(script: Path, words: Sequence[str], log: Path, seconds: float, *, group: bool) -> list[int] | None:
    """A life that gets SIGKILL after so many seconds, alone or with its whole group.

    Returns the processes that it had started in its session; None where it ended before, which must be with code 0.
    """
    life = begin(script, words, log)
    life.join(seconds)
    started = None
    if life.is_alive():
        with contextlib.suppress(ProcessLookupError):  # it ended between these lines
            children = [pid for pid in _processes() if _session(pid) == life.pid and pid != life.pid]
            # it may not lead a session yet
            (os.killpg if group and _session(life.pid) == life.pid else os.kill)(life.pid, signal.SIGKILL)
            started = children
    life.join()
    assert started is not None or life.exitcode == 0, log.read_text()[-2000:]
    return started


def whole_life(script: Path, words: Sequence[str], log: Path) -> float:
    """A life that is left alone and must end with code 0; its seconds."""
    began = time.monotonic()
    life = begin(script, words, log)
    life.join()
    assert life.exitcode == 0, log.read_text()[-2000:]
    return time.monotonic() - began


def alive_after(pids: Sequence[int], seconds: float = ORPHAN_SECONDS) -> list[int]:
    """Those that still run after so many seconds; returns at once when none does."""
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def naming(text: str) -> list[int]:
    """The processes, this one excepted, whose command line has ``text``."""
    return [pid for pid in _processes() if text.encode() in command_line(pid) and pid != os.getpid()]


def command_line(pid: int) -> bytes:
    """The words of a process, each followed by a NUL; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def temporary_files(folder: Path) -> list[str]:
    """Names below ``folder`` that only an unfinished write leaves."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith((".partial", ".tmp"))]


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int | None) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, group, session ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def _session(pid: int | None) -> int:
    fields = _stat(pid)
    return int(fields[3]) if fields else -1
