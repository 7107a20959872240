"""Commands as they are printed for a user: they run when pasted into the shell that they were printed in."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from runtime.repository import REPOSITORY

DISTRIBUTION = "transfer-gap"


def pasteable(script: str, arguments: Iterable[object] = (), repository: Path = REPOSITORY) -> str:
    """The command line of a script of this project (``transfer/train_net.py``).

    In a clone: this Python and the script, by paths that hold in the working folder. Where the project is installed:
    the name of its console command, if it has one.
    """
    words = [str(argument) for argument in arguments]
    if not (repository / "pyproject.toml").is_file() and (name := _console_command(script)):
        return shlex.join([name, *words])
    return shlex.join([python(), _from_here(repository / script), *words])


def python() -> str:
    """This Python as a shell finds it: ``python`` where that is the same one, else its path."""
    found = shutil.which("python")
    if found and os.path.abspath(found) == os.path.abspath(sys.executable):
        return "python"
    return _from_here(Path(sys.executable))


def _from_here(path: Path) -> str:
    """``path`` relative to the working folder where it lies below it, else absolute; links are not followed."""
    full, here = Path(os.path.abspath(path)), Path.cwd()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)


def _console_command(script: str) -> str | None:
    target = f"{script.removesuffix('.py').replace('/', '.')}:console"
    try:
        entries = importlib.metadata.distribution(DISTRIBUTION).entry_points
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((entry.name for entry in entries if entry.value == target and shutil.which(entry.name)), None)
