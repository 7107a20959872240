"""One writer per run folder."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from runtime.errors import UserError, disk_full_error

_HELD: set[IO[str]] = set()


def _close_inherited_locks() -> None:
    # a forked loader worker shares the lock's open file, and would keep the folder "in use" for as long as it outlives
    # a killed run; closing its copy does not release the parent's lock
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_close_inherited_locks)


class RunLock:
    """``with RunLock(folder):`` holds the folder; a second process gets a UserError that names the first.

    The lock is the kernel's (flock) and ends with the process: a killed run leaves no stale lock, and neither do
    loader workers that outlive it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.folder / ".lock", "a+")
        except OSError as error:
            raise disk_full_error(error, self.folder) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UserError(f"{self.folder} is in use by {holder}; wait for it or choose another folder") from error
        except OSError as error:
            file.close()
            raise UserError(
                f"cannot lock {self.folder}: {error.strerror or error}; choose a folder on a file system with flock"
            ) from error
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": started}))
        file.flush()
        self._file = file
        _HELD.add(file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.truncate(0)
            _HELD.discard(self._file)
            self._file.close()  # closing releases the lock
            self._file = None
