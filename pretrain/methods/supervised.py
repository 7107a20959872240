"""Supervised classification: the baseline that differs from the pretext tasks in its loss only."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.methods.base import Method

PREFIX = "encoder_q."


class Supervised(Method):
    """Cross-entropy of an encoder whose head has one output per class; one view per image."""

    def __init__(self, encoder: nn.Module, *, bf16: bool = False) -> None:
        super().__init__(bf16)
        self.encoder_q = encoder
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy against ``labels``."""
        with self.precision(views[0]):
            logits = self.encoder_q(views[0])
        self._last = (logits.detach(), labels)
        return F.cross_entropy(logits.float(), labels)

    def readings(self) -> dict[str, float]:
        """Training accuracy of the last batch in percent."""
        assert self._last is not None
        logits, labels = self._last
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        top1, top5 = ranked[:, 0].float().mean().item(), ranked.any(1).float().mean().item()
        return {"acc1": 100.0 * top1, "acc5": 100.0 * top5}

    def export_state(self) -> dict[str, torch.Tensor]:
        """torchvision's names prefixed with ``module.``, as its reference training saves them with several GPUs."""
        return {name.replace(PREFIX, "", 1): value for name, value in super().export_state().items()}

    def import_state(self, state: dict[str, torch.Tensor]) -> None:
        """Load a state of ``export_state``."""
        self.load_state_dict({PREFIX + name.removeprefix("module."): value for name, value in state.items()})
