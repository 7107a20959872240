"""A user's mistake as one clear line, and the exit codes of every command."""

from __future__ import annotations

import errno
import locale
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
    """The error for a write that failed: a full disk is named as such, anything else with the system's message."""
    if error.errno in DISK_FULL:
        return UserError(f"disk full: cannot write {path}; free some space and run the same command again")
    return UserError(f"cannot write {path}: {error.strerror or error}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean NAME?``, to end a message about an unknown ``name``; empty if nothing in ``known`` is close."""
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


PEER_GONE = "another process of the run has ended; what it said last is the reason"
# part of an exception's text -> what the system ran out of, and what to do; torch raises these as RuntimeError
SYSTEM_FAILURES = {
    "DataLoader worker": "a data loading process was killed, perhaps for lack of memory; use fewer workers and resume",
    "Too many open files": "too many open files; raise the limit (ulimit -n) or use fewer workers, then resume",
    "Connection closed by peer": PEER_GONE,
    "Connection reset by peer": PEER_GONE,
}


# what is wrong with a path that was asked for; ENOENT is /proc and the like, where nothing can be made
UNUSABLE = tuple(
    getattr(errno, name)
    for name in ("ENAMETOOLONG", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "EEXIST", "ENOENT")
)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _line(message: str) -> str:
    """``message`` on one line, cut where something long from a file is quoted in it."""
    text = " ".join(message.split())
    left = len(text) - MAX_MESSAGE
    return text if left <= 0 else f"{text[:MAX_MESSAGE]} ... ({left} more characters)"


def run_entry(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry script's ``main()`` and exit with its code; a user's mistake never shows a traceback."""
    _use_utf8()
    _open_closed_streams()
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {_line(str(error))}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = 0  # `... | head` has read all that it wanted
    except (OSError, RuntimeError, ImportError) as error:
        reason = _system_failure(error)
        if reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        code = EXIT_USER
    sys.exit(_flush_output() or code)


def _system_failure(error: Exception) -> str | None:
    """One line for what the machine lacks; None for an error of the program, whose traceback is needed."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return str(disk_full_error(error, error.filename or "the output folder"))
    if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename is not None:
        name = str(error.filename)
        return f"{name if len(name) < 200 else name[:200] + '...'}: {error.strerror}; choose another file or folder"
    return next((reason for text, reason in SYSTEM_FAILURES.items() if text in str(error)), None)


def _flush_output() -> int:
    """Flush stdout: 0, or EXIT_USER on a full disk. A finished run whose reader has gone is still finished."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        print(f"error: {disk_full_error(error, 'the standard output')}", file=sys.stderr)
        discard_output()
        return EXIT_USER
    return 0


def discard_output() -> None:
    """Point stdout at nothing, when nobody reads it any more: every later write and flush stays quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _use_utf8() -> None:
    """Start the program again in UTF-8 mode where the locale is another: paths, data and messages are UTF-8.

    LC_ALL=C turns the mode on by itself unless the environment forbids it, or the locale is e.g. ISO-8859-1.
    """
    wrong = locale.getpreferredencoding(False).lower().replace("-", "") not in ("utf8", "cp65001")
    if wrong and os.environ.get("PYTHONUTF8") != "1" and sys.orig_argv:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def _open_closed_streams() -> None:
    """Open what the caller closed (``>&-``): the next file would otherwise get its number, and a child's output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
