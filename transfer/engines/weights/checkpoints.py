"""Checkpoints in Detectron2's layout, with an extra entry for an exact resume."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime.atomic import write_text
from runtime.errors import UserError
from runtime.logs import get_logger
from runtime.torch_files import load_torch, save_torch

POINTER = "last_checkpoint"
# Detectron2 ignores keys that it does not know
OWN_KEY = "exact_resume"
SETTINGS_KEY = "run_settings"


def checkpoint_name(iteration: int, final: bool = False) -> str:
    """File name after the 0-based ``iteration``."""
    return "model_final.pth" if final else f"model_{iteration:07d}.pth"


def save_checkpoint(
    folder: Path,
    name: str,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    base_lrs: list[float],
    exact: dict[str, Any],
    scaler: dict[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write ``folder/name`` and point ``last_checkpoint`` at it, both atomically.

    ``iteration`` is the last finished one, 0-based. ``exact`` holds random states and stream positions.
    ``settings``: what decides the result, see ``transfer.records.deciding_settings``.
    """
    trainer: dict[str, Any] = {"iteration": iteration, "optimizer": optimizer.state_dict()}
    if scaler is not None:
        trainer["grad_scaler"] = scaler
    content = {
        "model": model.state_dict(),
        "iteration": iteration,
        "trainer": {
            "iteration": iteration,
            "hooks": {"LRScheduler": {"base_lrs": list(base_lrs), "last_epoch": iteration + 1}},
            "_trainer": trainer,
        },
        OWN_KEY: exact,
        SETTINGS_KEY: None if settings is None else dict(settings),
    }
    save_torch(content, folder / name)
    write_text(folder / POINTER, name)


def load_latest(folder: Path, *, warn: bool = True) -> tuple[str, dict[str, Any]] | None:
    """Name and content of the newest readable checkpoint of ``folder``; None without any checkpoint.

    Damaged ones are skipped, with a warning if ``warn``. Raises UserError when all are damaged.
    """
    candidates = _newest_first(folder)
    for name in candidates:
        try:
            content = load_torch(folder / name)
            if not isinstance(content, dict) or "trainer" not in content or "model" not in content:
                raise UserError(f"{folder / name}: has no training state")
            return name, content
        except UserError as error:
            if warn:
                get_logger(__name__).warning("%s; trying the previous checkpoint", error)
    if candidates:
        raise UserError(
            f"{folder}: none of its {len(candidates)} checkpoints can be read; start again without --resume"
        )
    return None


def _newest_first(folder: Path) -> list[str]:
    numbered = [path.name for path in folder.glob("model_*.pth") if re.fullmatch(r"model_\d{7}\.pth", path.name)]
    ordered = sorted(numbered, reverse=True)
    if (folder / "model_final.pth").exists():
        ordered.insert(0, "model_final.pth")
    try:
        newest = (folder / POINTER).read_text().strip()
    except (OSError, UnicodeDecodeError):  # missing or damaged: the numbers give the order
        newest = ""
    if newest in ordered:  # the last one written, even if a shorter run followed a longer one
        ordered.remove(newest)
        ordered.insert(0, newest)
    return ordered
