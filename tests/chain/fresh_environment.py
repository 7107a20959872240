"""This project's archives, and new environments with one of them and the requirements of the tests' environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

NOT_SOURCE = (".git", ".venv", "runs", "datasets", "build", "*.egg-info", "__pycache__", ".*_cache")
BUILD = "import setuptools.build_meta as build; build.build_{}({!r})"


def run(*command: object, cwd: Path, check: int = 0, stdin: str | None = None) -> str:
    """What the command prints to stdout; it must end with the code ``check``."""
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=600, input=stdin)
    assert done.returncode == check, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def copy_source(repo: Path, folder: Path) -> Path:
    """A copy of the source tree: a build writes into it."""
    shutil.copytree(repo, folder / "transfer-gap", ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return folder / "transfer-gap"


def build(kind: str, source: Path, folder: Path) -> Path:
    """The ``sdist`` or ``wheel`` of a source tree."""
    run(sys.executable, "-c", BUILD.format(kind, str(folder)), cwd=source)
    return next(folder.glob("*.tar.gz" if kind == "sdist" else "*.whl"))


def install(folder: Path, *what: object) -> Path:
    """The bin folder of a new environment, with ``what`` given to pip; nothing is downloaded."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    site = next(folder.glob("lib/python*/site-packages"))
    requirements = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "requirements.pth").write_text("\n".join(requirements))  # .pth files in there are not read: no clone
    command = ("-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation")
    run(folder / "bin" / "python", *command, *what, cwd=folder)
    return folder / "bin"
