"""The device of a run and its arithmetic settings."""

from __future__ import annotations

from typing import Any

import torch

from runtime.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of MODEL.DEVICE; "cuda" becomes the CPU where there is no GPU. Raises UserError for another name."""
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"MODEL.DEVICE {name!r} is not supported; use cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")


def set_arithmetic(cfg: Any) -> None:
    """Set FLOAT32_PRECISION and CUDNN_BENCHMARK for this process."""
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
