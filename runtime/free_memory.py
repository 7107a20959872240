"""How much memory a process can still have: of the machine, of its container, or of its GPU."""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that can be allocated in main memory, the container's limit included; None where that is not known."""
    free = [value for value in (_available(), _left_in_cgroup()) if value is not None]
    return min(free) if free else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):  # not Linux
        return None


def _left_in_cgroup() -> int | None:
    """The limit of a container (cgroup version 2) minus what it uses; file pages that can be dropped do not count."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        pairs = (line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        dropped = next((int(value) for key, value in pairs if key == "inactive_file"), 0)
    except (OSError, ValueError):  # "max": no limit
        return None
    return max(0, limit - used + dropped)
