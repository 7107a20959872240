"""Files are written under a temporary name and then renamed, so that no reader sees half a file."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import disk_full_error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path``; on success flush it to disk and move it onto ``path``.

    ``path`` is at every moment either the old file or the complete new one. On failure the temporary file is removed
    and the old one stays. The temporary files that killed processes of this machine left in the folder are removed.
    Raises UserError for a full disk or a folder that cannot be written.
    """
    target = Path(path)
    writer = f"{os.getpid()}-{threading.get_ident()}-{_host()}"
    partial = target.with_name(f".{target.name}.{writer}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_partials(target.parent)
        yield partial
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise disk_full_error(error, target) from error
    finally:
        with contextlib.suppress(OSError):  # if the folder itself is missing, the error above is the one to report
            partial.unlink(missing_ok=True)


_PARTIAL = re.compile(r"\..+\.(?P<pid>\d{1,10})-\d+-(?P<host>[0-9a-f]{8})\.partial")
_CLEANED: set[tuple[int, Path]] = set()  # process and folder: once each, since a run writes thousands of files


@functools.cache
def _host() -> str:
    """Eight hex digits of this machine and, in a container, its process ids: outside, an id names another process."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _remove_left_partials(folder: Path) -> None:
    """Remove the temporary files whose writer was killed; one whose writer lives, here or elsewhere, is left alone."""
    if (os.getpid(), folder) in _CLEANED:
        return
    _CLEANED.add((os.getpid(), folder))
    for name in os.listdir(folder):
        match = _PARTIAL.fullmatch(name) if name.endswith(".partial") else None
        if match and match["host"] == _host() and not _is_alive(int(match["pid"])):
            with contextlib.suppress(OSError):  # another run may have been faster
                os.unlink(folder / name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to someone else
        return True
    return True


def _sync_folder(folder: Path) -> None:
    # the rename itself must reach the disk, or a power cut can bring the old name back
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Atomically replace ``path`` by ``content``."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Atomically replace ``path`` by ``content`` in UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Atomically write ``value`` as JSON, indented, keys in the order given; NaN becomes null."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    # JSON has no NaN: an undefined metric (a class without ground truth, say) is null
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, or {} when the file is absent, incomplete or holds something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
