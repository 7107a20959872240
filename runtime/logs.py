"""Console and log.txt, in one format for every command."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from runtime.errors import discard_output

ROOT = "transfer_gap"


def get_logger(name: str = "") -> logging.Logger:
    """A logger below the project's root logger."""
    return logging.getLogger(f"{ROOT}.{name}" if name else ROOT)


@contextlib.contextmanager
def held_warnings() -> Iterator[list[str]]:
    """Warnings of this project inside the block, as a list instead of lines on the console."""
    logger, held = logging.getLogger(ROOT), _Held(logging.WARNING)
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [held], False
    try:
        yield held.messages
    finally:
        logger.handlers, logger.propagate = handlers, propagate


class _Held(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class _Console(logging.StreamHandler[TextIO]):
    """The console. When its reader has gone (``| head``), the run goes on, and its log is in the run folder."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Discard all further output after a broken pipe; logging would print a traceback for each line."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            discard_output()
        else:
            super().handleError(record)


class _LogFile(logging.FileHandler):
    """A log file whose write errors (a full disk) end the run, where logging would print a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Re-raise the exception of the failed write, which is being handled when logging calls this."""
        raise


def setup_logging(folder: str | Path | None = None, rank: int = 0) -> logging.Logger:
    """Send messages to stdout (rank 0) and append them to ``folder/log.txt`` (``log_rankN.txt`` on other ranks)."""
    logger = logging.getLogger(ROOT)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    form = logging.Formatter("[%(asctime)s] %(message)s", datefmt="%m-%d %H:%M:%S")
    if rank == 0:
        console = _Console(sys.stdout)
        console.setFormatter(form)
        logger.addHandler(console)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = _LogFile(Path(folder) / ("log.txt" if rank == 0 else f"log_rank{rank}.txt"))
        file.setFormatter(form)
        logger.addHandler(file)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def last_error(log: Path) -> str:
    """What went wrong, from a log: its last ``error:`` line, or else its last line."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")[:400]
