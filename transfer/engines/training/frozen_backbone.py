"""A frozen backbone: the proof that training left it unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from runtime.errors import UserError
from transfer.config import flatten
from transfer.config.protocol import FROZEN, protocol_of

ENTRY = "frozen_backbone_sha256"  # of the random states in a checkpoint


def bottom_up(model: nn.Module) -> nn.Module:
    """The ResNet of a detector of either engine, without the layers that a pyramid or dilated C5 adds to it."""
    backbone: Any = model.backbone
    return getattr(backbone, "bottom_up", backbone)


def tensors_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Hex sha256 of names, types, shapes and values of ``state``, independent of order, device and memory format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class FrozenBackbone:
    """Remembers the tensors with which a run began, batch-norm statistics included; idle where they are trained.

    ``model`` has its initial weights, or those of the checkpoint that a run resumes; ``exact`` is that checkpoint's
    entry of random states. Raises UserError when the checkpoint's backbone is not the one that the run began with.
    """

    def __init__(self, cfg: Any, model: nn.Module, exact: Mapping[str, Any] | None = None) -> None:
        self._model = model
        self.sha256: str | None = None
        if protocol_of(flatten(cfg)) == FROZEN:
            now = tensors_sha256(bottom_up(model).state_dict())
            self.sha256 = (exact or {}).get(ENTRY) or now
            self._compare(now, "the checkpoint")

    def entry(self) -> dict[str, str]:
        """What a checkpoint stores with its random states."""
        return {ENTRY: self.sha256} if self.sha256 else {}

    def check(self) -> None:
        """Raise UserError if any tensor differs from the start of the run."""
        if self.sha256:
            self._compare(tensors_sha256(bottom_up(self._model).state_dict()), "training")

    def _compare(self, now: str, culprit: str) -> None:
        if now != self.sha256:
            raise UserError(
                f"the backbone is frozen, but {culprit} changed it: its sha256 is {now[:12]}, and was "
                f"{str(self.sha256)[:12]} at the start of the run; start the run again in another folder"
            )
