"""Fixtures for all tests, and the skips for what a machine lacks."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from runtime.logs import get_logger
from tests.forked_scripts import ForkedScripts

REPOSITORY = Path(__file__).resolve().parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # ignored under "&" in a script; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    import torch

    missing = {
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
        "detectron2": None if importlib.util.find_spec("detectron2") else "needs Detectron2 (not installed)",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("detectron2"):  # its code draws warnings of torch, which we cannot mend
            item.add_marker(pytest.mark.filterwarnings("ignore::UserWarning"))


@pytest.fixture(autouse=True)
def no_log_file_left() -> Iterator[None]:
    """A run in this process leaves its log.txt open; what later tests log must not go there."""
    yield
    logger = get_logger()
    for handler in [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``shared_data("voc2007_s256")`` unpacks that archive once and returns its folder; skips where it is absent."""
    source = Path(os.environ.get("GAP_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        archive = source / f"{name}.tar.gz"
        if not archive.exists():
            pytest.skip(f"shared data not present: {archive.name} (set GAP_SHARED_DATA)")
        if name not in unpacked:
            folder = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data") if sys.version_info >= (3, 12) else tar.extractall(folder)
            unpacked[name] = folder
        return unpacked[name]

    return unpack


@pytest.fixture(scope="session")
def forked_scripts() -> Iterator[ForkedScripts]:
    """Runs scripts in forked processes."""
    scripts = ForkedScripts()
    yield scripts
    scripts.close()


@pytest.fixture(scope="session")
def run_cli(forked_scripts: ForkedScripts) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_cli(["convert/to_d2.py", "x.pth"])`` runs an entry script as a user would, in a process of its own.

    It is forked, unless it gets other variables, coverage is measured, or GAP_TESTS_START_ANEW is set (make test-slow).
    """
    anew = any(name in os.environ for name in ("GAP_TESTS_START_ANEW", "COVERAGE_PROCESS_CONFIG"))

    def run(
        args: list[str],
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 300,
        check: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        script, *rest = [str(a) for a in args]
        command, folder = [str(REPOSITORY / script), *rest], cwd or REPOSITORY
        if anew or env:
            variables = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
            pipes: dict[str, Any] = {"capture_output": True, "text": True}
            done = subprocess.run([sys.executable, *command], cwd=folder, env=variables, timeout=timeout, **pipes)
        else:
            done = forked_scripts.run(command, folder, timeout)
        if check is not None:
            assert done.returncode == check, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    return run
