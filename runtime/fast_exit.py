"""A short command ends without the interpreter's clean-up of numpy and torch."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def exit_immediately() -> Iterator[None]:
    """When the block raises SystemExit (an entry script has finished), end the process with that exit code.

    By then every file is closed and on disk. The interpreter would free torch's modules one by one, which takes a
    quarter of the command's CPU time and releases nothing that the kernel does not release anyway.
    """
    try:
        yield
    except SystemExit as end:
        with contextlib.suppress(OSError):  # a closed or full stdout has been reported
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
