"""Stop signals set a flag that a training loop reads between steps, so that a stopped run can always be resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_PARENT_CHECK = 1.0  # seconds between a worker's looks at its parent
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # Slurm sends SIGUSR1 or SIGTERM before it kills


class StopSignal:
    """``with StopSignal() as stop:`` SIGTERM, SIGUSR1 or Ctrl-C set ``stop.requested``; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived: finish the step, save, exit with ``exit_code``."""
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """128 + signal number (143 for SIGTERM, 138 for SIGUSR1, 130 for Ctrl-C); 0 without a signal."""
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
    """Make a loader worker ignore the signals that stop its run; the ``worker_init_fn`` of a training loader.

    Slurm, Ctrl-C and ``kill -- -GROUP`` signal every process of a run, but the main process needs batches until it has
    saved. A SIGTERM sent by the main process itself still ends the worker: multiprocessing waits for that at exit. And
    the worker ends soon after its parent, however that was killed: it may wait for a pipe that nobody empties.
    """
    can_wait = hasattr(signal, "sigwaitinfo")  # not on macOS
    if can_wait:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # sigwaitinfo does not receive ignored signals: SIGTERM keeps its default action and stays blocked
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL if can_wait and signum == signal.SIGTERM else signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, args=(os.getppid(), can_wait), daemon=True).start()


def _end_with_the_parent(parent: int, can_wait: bool) -> None:
    """Exit on the parent's SIGTERM, and when the parent is gone (an orphan gets another parent)."""
    while os.getppid() == parent:
        if not can_wait:
            time.sleep(_PARENT_CHECK)
            continue
        received = signal.sigtimedwait({signal.SIGTERM}, _PARENT_CHECK)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
