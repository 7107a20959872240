"""The config files that a plan names."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError
from runtime.repository import REPOSITORY, data_folder
from transfer.planning.fields import suggest


def config_file(file: str) -> Path:
    """The path of a config: an existing path, or a name in configs/."""
    return Path(file) if Path(file).is_file() else data_folder("configs", REPOSITORY) / file


def check_config_exists(file: str, where: str) -> None:
    """A bare name must be in configs/, a path must exist. Raises UserError with the nearest name."""
    folder = data_folder("configs", REPOSITORY)
    if config_file(file).is_file() and (Path(file).is_file() or "/" not in file):
        return
    known = [str(p.relative_to(folder)) for p in folder.rglob("*.yaml")]
    raise UserError(f"{where} names config {file}, which does not exist (looked in configs/){suggest(file, known)}")
