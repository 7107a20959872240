"""What a section of the GPU check is given, and what it leaves: figures, and what was not as it should be."""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.atomic import write_json
from runtime.repository import REPOSITORY


class Skipped(Exception):
    """The section cannot run here; the message says what it needs."""


@dataclass
class Check:
    """One section at work. ``folder`` is its own; ``data`` holds archives of real images; ``ends`` is its deadline on
    the clock of ``time.monotonic``. ``tiny`` is the rehearsal on a CPU: the same code on the smallest sizes. Where
    ``together``, the project's commands run in this process instead of processes of their own.

    Every figure is written as soon as it is known, so that a section that is ended early leaves what it has.
    """

    name: str
    device: str
    tiny: bool
    together: bool
    folder: Path
    data: Path
    ends: float
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, name: str, value: Any) -> None:
        """Keep one figure (JSON-able)."""
        self.figures[name] = value
        self.write("running")

    def expect(self, holds: bool, problem: str) -> None:
        """Keep ``problem`` unless it ``holds``; the section goes on."""
        if not holds:
            self.problems.append(problem)
            self.write("running")

    def seconds_left(self) -> float:
        """Seconds until the section is ended."""
        return self.ends - time.monotonic()

    def write(self, status: str, reason: str = "") -> None:
        """Replace the section's result file."""
        record = {"status": status, "reason": reason, "problems": self.problems, "figures": self.figures}
        write_json(self.folder / "result.json", record)


def outcome(check: Check, run: Callable[[Check], None]) -> None:
    """Run a section and write how it ended: passed, failed or skipped. Only an interruption leaves this function."""
    check.folder.mkdir(parents=True, exist_ok=True)
    try:
        run(check)
    except Skipped as reason:
        check.write("skipped", str(reason))
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        check.write("failed", f"{type(error).__name__}: {lines[0][:400]}")
        (check.folder / "traceback.txt").write_text(_traceback(error))
    else:
        check.write("failed" if check.problems else "passed", "; ".join(check.problems))


def _traceback(error: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def timed(turn: Callable[[], Any], repeat: int, seconds: float = 15.0) -> dict[str, float]:
    """Median and quartiles in ms of up to ``repeat`` turns after two that warm up, and the peak of GPU memory in MB.

    No further turn begins after ``seconds``, but two are always timed.
    """
    import torch

    from benchmarks.apart import measure

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    ends = time.monotonic() + seconds
    turn(), turn()
    walls: list[float] = []
    while len(walls) < repeat and (len(walls) < 2 or time.monotonic() < ends):
        walls.append(1e3 * measure(turn).wall)
    low, middle, high = statistics.quantiles(walls, n=4)
    figures = {"ms": middle, "ms_low": low, "ms_high": high, "turns": len(walls)}
    if on_gpu:
        figures["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def command(check: Check, argv: list[str]) -> None:
    """Run one of the project's commands in the section's folder. Raises RuntimeError with its last line if it fails."""
    check.folder.mkdir(parents=True, exist_ok=True)
    if check.together:
        return _call(check, argv)
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / argv[0]), *argv[1:]],
        cwd=check.folder,
        capture_output=True,
        text=True,
        timeout=max(1.0, check.seconds_left()),
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {last}")


def _call(check: Check, argv: list[str]) -> None:
    module = importlib.import_module(argv[0].removesuffix(".py").replace("/", "."))
    typed, folder = sys.argv, os.getcwd()
    sys.argv = argv
    os.chdir(check.folder)
    try:
        if code := module.main():
            raise RuntimeError(f"{argv[0]} ended with {code}")
    finally:
        sys.argv = typed
        os.chdir(folder)


@contextmanager
def plain_float32() -> Iterator[None]:
    """Within: convolutions in float32, where a GPU would otherwise round their input to TF32."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def relative(found: Any, expected: Any) -> float:
    """Norm of the difference of two sequences of tensors, relative to the norm of the expected ones, on the CPU."""
    import torch

    a, b = (torch.cat([t.detach().double().cpu().flatten() for t in side]) for side in (found, expected))
    return float((a - b).norm() / b.norm().clamp_min(1e-300))
