"""SGD whose update the device itself can refuse."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class RefusableSGD(torch.optim.SGD):
    """SGD in one fused kernel, which leaves weights and momentum as they are where a flag on the device is set."""

    found_inf: torch.Tensor | None = None  # torch's name of the flag that the kernel reads

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr, momentum=momentum, weight_decay=weight_decay, fused=True)
        self._lay_out_momentum()

    def update(self, refused: torch.Tensor) -> None:
        """One step, unless ``refused`` (0-dim bool on the parameters' device)."""
        self.found_inf = refused.float()
        self.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Momentum and settings of a file; the kernel stays this one, whatever the file was made with."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group.update(foreach=None, fused=True)
        self._lay_out_momentum()

    @torch.no_grad()
    def _lay_out_momentum(self) -> None:
        # The kernel wants momentum in the memory order of its weights, which an official file's is not. And of a first
        # step that is refused it would keep uninitialised memory, so the buffers are there before it, at zero.
        for group in self.param_groups:
            for parameter in group["params"] if group["momentum"] else []:
                buffer = torch.zeros_like(parameter)
                if (before := self.state[parameter].get("momentum_buffer")) is not None:
                    buffer.copy_(before)
                self.state[parameter]["momentum_buffer"] = buffer
