"""Reading a pretraining checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.torch_files import load_torch


def load_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of ours or of the official code; UserError for anything else."""
    content = load_torch(file)
    if not isinstance(content, dict) or not {"arch", "state_dict"} <= content.keys():
        raise UserError(f"{file}: not a pretraining checkpoint (needs the keys epoch, arch, state_dict, optimizer)")
    return content
