"""A user's mistake as one clear line, and the exit codes of every command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

EXIT_USER = 2  # bad input: nothing was done, nothing was lost
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells report it
MAX_MESSAGE = 2000  # characters


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do about it, in one line."""

    exit_code = EXIT_USER


def disk_full_error(error: OSError, path: object) -> UserError:
    """The error for a write that failed: a full disk is named as such, anything else by the system's reason."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"disk full: cannot write {path}; free some space and run the same command again")
    return UserError(f"cannot write {path}: {error.strerror or error}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean NAME?``, to end a message about an unknown ``name``; empty if nothing in ``known`` is close."""
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _line(message: str) -> str:
    """``message`` on one line, cut where something long from a file is quoted in it."""
    text = " ".join(message.split())
    left = len(text) - MAX_MESSAGE
    return text if left <= 0 else f"{text[:MAX_MESSAGE]} ... ({left} more characters)"


def run_entry(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry script's ``main()`` and exit with its code; a user's mistake never shows a traceback."""
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {_line(str(error))}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # `... | head` closed our output: point stdout elsewhere so that the interpreter's own flush stays quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(f"error: {disk_full_error(error, error.filename or 'the output folder')}", file=sys.stderr)
        code = EXIT_USER
    sys.exit(code)
