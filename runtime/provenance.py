"""Provenance of a result: command, code version, package versions, hardware."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.repository import REPOSITORY
from runtime.version import __version__

PACKAGES = (
    "torch", "torchvision", "numpy", "pycocotools", "fvcore", "detectron2",
    "pillow", "simplejpeg", "opencv-python-headless", "opencv-python",  # decoders: pixels depend on them
)  # fmt: skip


def provenance(argv: list[str] | None = None) -> dict[str, Any]:
    """A JSON-able record of the command, time, git state, package versions and hardware of this process."""
    return {
        "argv": _relative_to_repository(sys.argv if argv is None else argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": __version__,
        "git": _git_state(),
        "python": platform.python_version(),
        "versions": package_versions(),
        "hardware": hardware(),
    }


def _relative_to_repository(argv: Sequence[str]) -> list[str]:
    """The command as typed in the repository: its script without the folder that the clone happens to be in."""
    first = Path(argv[0]) if argv else REPOSITORY.parent
    return [str(first.relative_to(REPOSITORY)), *argv[1:]] if first.is_relative_to(REPOSITORY) else list(argv)


@functools.cache
def _git_state() -> dict[str, Any]:
    if not (REPOSITORY / ".git").exists():  # installed: a checkout further up is another project's
        return {"commit": None, "dirty": None}

    def git(*args: str) -> str | None:
        try:
            result = subprocess.run(["git", "-C", str(REPOSITORY), *args], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None  # no git on this machine: the record says so by null
        return result.stdout.strip() if result.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that numbers depend on; absent ones are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def usable_cores() -> int:
    """Cores this process may run on; where the system does not report that (macOS), all cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def hardware() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, and the GPU's name and count where there is one."""
    torch = sys.modules.get("torch")
    gpus = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": _cpu_model(), "cores": usable_cores(), "memory_gib": round(memory, 1), "gpus": gpus}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
