"""Batch norms of a head that runs on several levels: statistics of each level, scale and shift of all."""

from __future__ import annotations

import torch
from torch import nn

from transfer.engines.torchvision.model.norms import plain_norm


class LevelNorms(nn.ModuleList):
    """One batch norm per level, used in turn (arXiv:2105.07576, section 5.2): call it once for each level, in order."""

    KINDS = ("BN", "SyncBN")

    def __init__(self, kind: str, levels: int, channels: int) -> None:
        super().__init__(plain_norm(kind, channels) for _ in range(levels))
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self._next = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the map ``x`` (N x C x H x W) of the level whose turn it is."""
        y = self[self._next](x)
        self._next = (self._next + 1) % len(self)
        return y * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)
