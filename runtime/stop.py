"""Signals become a flag that the loop reads between two steps, so that a stopped run is always resumable."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # Slurm sends SIGUSR1 or SIGTERM before it kills


class StopSignal:
    """``with StopSignal() as stop:`` SIGTERM, SIGUSR1 or Ctrl-C set ``stop.requested``; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come: finish the step, save, leave with ``exit_code``."""
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """128 + signal number (143 for SIGTERM, 138 for SIGUSR1, 130 for Ctrl-C); 0 when none came."""
        return 0 if self.signum is None else 128 + self.signum

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signal.SIGINT and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def __enter__(self) -> StopSignal:
        for signum in SIGNALS:
            self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


def leave_signals_to_the_parent(_: int = 0) -> None:
    """Let a loader worker outlive the signals that ask its run to stop; the ``worker_init_fn`` of a training loader.

    Slurm, Ctrl-C and ``kill -- -GROUP`` signal every process of a run; the main one needs batches until it has saved.
    SIGTERM of the main process itself still ends the worker: multiprocessing waits for that at its exit.
    """
    waits = hasattr(signal, "sigwaitinfo")  # not on macOS
    if waits:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for signum in SIGNALS:  # an ignored signal would never be waited for
        signal.signal(signum, signal.SIG_DFL if waits and signum == signal.SIGTERM else signal.SIG_IGN)
    if waits:
        threading.Thread(target=_obey_the_parent, daemon=True).start()


def _obey_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        continue
    os._exit(0)
