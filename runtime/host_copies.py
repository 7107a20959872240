"""Asynchronous copies between host and device."""

from __future__ import annotations

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on ``device``. Copies to a GPU go through page-locked memory, so that they do not block."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fetch(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """A device tensor on the host, and the event after which its values are valid (None: they are valid now)."""
    copy = tensor.to("cpu", non_blocking=True)  # page-locked
    if tensor.device.type != "cuda":
        return copy, None
    arrived = torch.cuda.Event(blocking=True)  # whoever waits does not spin: the loader's workers need the core
    arrived.record()
    return copy, arrived
