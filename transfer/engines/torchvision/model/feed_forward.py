"""The layers of a transformer block beside attention: feed-forward networks, layer scale, and a residual branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from transfer.engines.torchvision.model.convolution import init_msra
from transfer.engines.torchvision.model.norms import ChannelLayerNorm


class Mlp(nn.Module):
    """Two linear layers with GELU between them: ... x C to ... x C."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """... x C to ... x C."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """SwiGLU (arXiv:2002.05202) with DINOv2's names and widths: two thirds of ``hidden``, rounded up to 8."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        inner = -(-int(hidden * 2 / 3) // 8) * 8
        self.w12 = nn.Linear(channels, 2 * inner)
        self.w3 = nn.Linear(inner, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """... x C to ... x C."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)  # type: ignore[no-any-return]


FEED_FORWARD: dict[str, type[Mlp] | type[SwiGLU]] = {"mlp": Mlp, "swiglu": SwiGLU}


class LayerScale(nn.Module):
    """A learned factor per channel (arXiv:2103.17239): ... x C to ... x C."""

    def __init__(self, channels: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """... x C to ... x C."""
        return x * self.gamma


class ResidualBottleneck(nn.Module):
    """ViTDet's convolutional propagation block (arXiv:2203.16527, section 3): 1x1, 3x3, 1x1, at first the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = channels // 2
        self.conv1 = nn.Conv2d(channels, middle, 1, bias=False)
        self.norm1 = ChannelLayerNorm(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.norm2 = ChannelLayerNorm(middle)
        self.conv3 = nn.Conv2d(middle, channels, 1, bias=False)
        self.norm3 = ChannelLayerNorm(channels)
        init_msra(self.conv1, self.conv2, self.conv3)
        nn.init.zeros_(self.norm3.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C x H x W to the same shape."""
        y = F.gelu(self.norm1(self.conv1(x)))
        y = F.gelu(self.norm2(self.conv2(y)))
        return x + self.norm3(self.conv3(y))  # type: ignore[no-any-return]
