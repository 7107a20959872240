"""Mixed precision and memory format of training."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from runtime.errors import UserError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Precision:
    """Autocast for the forward pass and, for float16, loss scaling around the optimiser step."""

    def __init__(self, enabled: bool, dtype: str, device: torch.device) -> None:
        if enabled and dtype not in DTYPES:
            raise UserError(f"ENGINE.AMP_DTYPE {dtype!r} must be one of {', '.join(DTYPES)}")
        if enabled and device.type == "cpu" and dtype == "float16":
            raise UserError("SOLVER.AMP.ENABLED with float16 needs a GPU; set ENGINE.AMP_DTYPE bfloat16 on a CPU")
        self.enabled, self.dtype, self.device = enabled, DTYPES.get(dtype, torch.float32), device
        self.scaler = torch.amp.GradScaler(device.type) if enabled and dtype == "float16" else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of the forward pass."""
        if not self.enabled:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of ``loss``, scaled if need be."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo the scaling of the gradients; gradients are clipped between this and ``step``."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One update; with loss scaling it is skipped when a gradient overflowed."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def state_dict(self) -> dict[str, Any] | None:
        """State of the loss scaling, None without it."""
        return None if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore the loss scaling if both the state and this object have one."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)
