"""SGD whose update can be skipped by a flag on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class SkippableSGD(torch.optim.SGD):
    """SGD in one fused kernel, which leaves weights and momentum unchanged where a flag on the device is set.

    The host need not know the flag, so it never waits for the check of a step.
    """

    found_inf: torch.Tensor | None = None  # torch's name for the flag (gradient scaling uses it)

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
        """Load momentum and settings; the fused kernel stays, whichever one the file was written with."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group.update(foreach=None, fused=True)
        self._lay_out_momentum()

    @torch.no_grad()
    def _lay_out_momentum(self) -> None:
        # The kernel needs momentum in the memory format of its weights (channels_last), which an official file's is
        # not. And where the first step is refused it would leave the buffer it has just allocated uninitialised, so the
        # buffers exist before that, filled with zeros: 0 * momentum + g is the g that SGD starts from.
        for group in self.param_groups:
            for parameter in group["params"] if group["momentum"] else []:
                buffer = torch.zeros_like(parameter)
                if (before := self.state[parameter].get("momentum_buffer")) is not None:
                    buffer.copy_(before)
                self.state[parameter]["momentum_buffer"] = buffer
