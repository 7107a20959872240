"""Copies between the host and the device that neither of them waits for."""

from __future__ import annotations

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on ``device``; on the way to a GPU through page-locked memory, from which copies do not block."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fetch(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """A device tensor on the host, where its values are valid once the event has happened (at once without one)."""
    copy = tensor.to("cpu", non_blocking=True)  # page-locked
    if tensor.device.type != "cuda":
        return copy, None
    arrived = torch.cuda.Event(blocking=True)  # whoever waits for it leaves the core to the loader's workers
    arrived.record()
    return copy, arrived
