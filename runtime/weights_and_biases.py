"""A run folder's session in Weights & Biases, an optional package."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from runtime.atomic import write_text
from runtime.errors import UserError

PROJECT = "transfer-gap"
ID_FILE = "wandb_id.txt"


def require_wandb() -> Any:
    """The package; UserError where it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError("--wandb needs the package wandb: pip install wandb") from error


def start_session(folder: Path, **settings: Any) -> Any:
    """The session of ``folder``; a resumed run continues the one it had before, and with it the same curves."""
    id_file = folder / ID_FILE
    known = id_file.read_text().strip() if id_file.exists() else None
    session = require_wandb().init(project=PROJECT, **settings, id=known, resume="allow")
    write_text(id_file, f"{session.id}\n")
    return session
