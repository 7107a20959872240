"""An entry script whose main() ends in the way that ``argv[1]`` names."""

import sys
from pathlib import Path

from runtime.errors import UserError, run_entry
from runtime.logs import setup_logging


def main() -> int:
    """End by an error or an exit code."""
    if sys.argv[1] == "mistake":
        raise UserError("bad thing\nin x")
    if sys.argv[1] == "long mistake":
        raise UserError("x" * 5000)
    if sys.argv[1] == "interrupt":
        raise KeyboardInterrupt
    if sys.argv[1] == "full disk":
        raise OSError(28, "No space left on device", "f")
    if sys.argv[1] == "too many files":
        raise OSError(24, "Too many open files", "f")
    if sys.argv[1] == "read-only folder":
        raise PermissionError(13, "Permission denied", "runs/x")
    if sys.argv[1] == "long name":
        Path("x" * 5000).stat()
    if sys.argv[1] == "killed worker":
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    if sys.argv[1] == "log":
        log = setup_logging()
        for _ in range(3):
            log.info("%s %s", sys.argv[2], "x" * 70_000)  # more than a pipe holds
        Path(sys.argv[2]).write_text(sys.argv[2], encoding="utf-8")
    return int(sys.argv[1]) if sys.argv[1].isdigit() else 0


run_entry(main)
