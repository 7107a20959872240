"""The periods of DINOv3's rotary positions (arXiv:2508.10104): computed as its network does, and checked."""

from __future__ import annotations

import numpy as np

from runtime.errors import UserError

BASE = 100.0  # of every released DINOv3


def rotary_periods(head: int, base: float = BASE) -> np.ndarray:
    """Of heads of ``head`` channels: head / 4 periods in float32, base^(2 i / (head / 2)), with torch's bits."""
    import torch

    return np.asarray(base ** (2 * torch.arange(head // 4, dtype=torch.float32) / (head // 2)))


def check_periods(periods: np.ndarray) -> None:
    """Raise UserError for a period that no angle can be divided by."""
    if not (periods > 0).all():
        raise UserError("its rope_embed.periods are not all above 0: they were never filled in, or are not periods")
