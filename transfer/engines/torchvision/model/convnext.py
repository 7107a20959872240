"""ConvNeXt versions 1 and 2 (arXiv:2201.03545, arXiv:2301.00808) with the authors' names.

The outputs are layer-normalised, as in the authors' detectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from transfer.engines.torchvision.model.norms import ChannelLayerNorm
from transfer.engines.torchvision.model.vit import POSITION_STD, drop_path, drop_rates

INITIAL_SCALE = 1e-6  # of LayerScale
GRN_EPSILON = 1e-6


class GlobalResponseNorm(nn.Module):
    """Scales every channel by its norm over the map, relative to the mean over channels: N x H x W x C to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x H x W x C to the same shape."""
        norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (norm / (norm.mean(dim=-1, keepdim=True) + GRN_EPSILON))) + self.beta + x


class Block(nn.Module):
    """7x7 depthwise convolution, layer norm, and two linear layers with GELU, in parallel with the identity."""

    def __init__(self, channels: int, *, drop_rate: float, layer_scale: bool, grn: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels) if grn else nn.Identity()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), INITIAL_SCALE)) if layer_scale else None
        self.drop_path = drop_path(drop_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C x H x W to the same shape."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(y))))
        if self.gamma is not None:
            y = self.gamma * y
        return x + self.drop_path(y.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


class ConvNeXt(nn.Module):
    """Four stages with outputs ``p0`` .. ``p3`` (strides 4 to 32)."""

    size_divisibility = 32

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 3, 9, 3),
        widths: Sequence[int] = (96, 192, 384, 768),
        drop_path_rate: float = 0.0,
        layer_scale: bool = True,
        grn: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        stem = nn.Sequential(nn.Conv2d(3, widths[0], kernel_size=4, stride=4), ChannelLayerNorm(widths[0]))
        self.downsample_layers = nn.ModuleList([stem])
        for before, after in itertools.pairwise(widths):
            halve = nn.Sequential(ChannelLayerNorm(before), nn.Conv2d(before, after, kernel_size=2, stride=2))
            self.downsample_layers.append(halve)
        rates = iter(drop_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Block(width, drop_rate=next(rates), layer_scale=layer_scale, grn=grn) for _ in range(depth))
            )
            for depth, width in zip(depths, widths)
        )
        for index, width in enumerate(widths):
            self.add_module(f"norm{index}", ChannelLayerNorm(width))
        self.channels = {f"p{index}": width for index, width in enumerate(widths)}
        self.strides = {f"p{index}": 4 << index for index in range(4)}
        self.apply(_init)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W to {"p0" .. "p3": N x C x H/stride x W/stride}."""
        outputs = {}
        for index, (reduce, stage) in enumerate(zip(self.downsample_layers, self.stages)):
            x = reduce(x)
            for block in cast(nn.Sequential, stage):
                x = checkpoint(block, x, use_reentrant=False) if self.checkpointing and self.training else block(x)
            outputs[f"p{index}"] = getattr(self, f"norm{index}")(x)
        return outputs


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=POSITION_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
