"""Deformable convolutions (arXiv:1703.06211, and with modulation arXiv:1811.11168) in bottleneck blocks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from transfer.engines.torchvision.model.convolution import Conv, init_msra
from transfer.engines.torchvision.model.norms import build_norm


class DeformConv(nn.Module):
    """A 3x3 convolution that reads its input at offset positions, then norm; ``mask`` weights the positions.

    The operator has no half-precision kernels on every device: it works in float32.
    """

    def __init__(self, channels: int, *, stride: int, dilation: int, groups: int, norm: str) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.weight = nn.Parameter(torch.empty(channels, channels // groups, 3, 3))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")  # draws as Detectron2 does; set by the block below
        self.bias = None
        self.norm = build_norm(norm, channels)

    def forward(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """N x C x H x W with offsets N x 18G x H' x W' and weights N x 9G x H' x W' to N x C x H' x W'."""
        y = deform_conv2d(
            x.float(),
            offset.float(),
            self.weight.float(),
            stride=self.stride,
            padding=self.dilation,
            dilation=self.dilation,
            mask=None if mask is None else mask.float(),
        ).to(x.dtype)
        return y if self.norm is None else self.norm(y)


class DeformBottleneckBlock(nn.Module):
    """A bottleneck block whose 3x3 convolution is deformable, with offsets that start at 0."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        middle_channels: int,
        stride: int,
        norm: str,
        groups: int = 1,
        stride_in_1x1: bool = False,
        dilation: int = 1,
        modulated: bool = False,
        offset_groups: int = 1,
    ) -> None:
        super().__init__()
        self.shortcut = (
            Conv(in_channels, out_channels, 1, stride=stride, norm=norm, bias=False)
            if in_channels != out_channels
            else None
        )
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        geometry: dict[str, Any] = {"stride": second, "dilation": dilation}
        self.conv1 = Conv(in_channels, middle_channels, 1, stride=first, norm=norm, relu=True, bias=False)
        offsets = offset_groups * (27 if modulated else 18)  # two numbers and a weight for each of nine positions
        self.conv2_offset = Conv(middle_channels, offsets, 3, padding=dilation, **geometry)
        self.conv2 = DeformConv(middle_channels, groups=groups, norm=norm, **geometry)
        self.conv3 = Conv(middle_channels, out_channels, 1, norm=norm, bias=False)
        init_msra(self.conv1, self.conv2, self.conv3, *([self.shortcut] if self.shortcut is not None else []))
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)  # type: ignore[arg-type]
        self.modulated = modulated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C x H x W to N x C' x H/stride x W/stride."""
        y = self.conv1(x)
        offset, mask = self.conv2_offset(y), None
        if self.modulated:
            vertical, horizontal, mask = torch.chunk(offset, 3, dim=1)
            offset, mask = torch.cat((vertical, horizontal), dim=1), mask.sigmoid()
        y = self.conv3(F.relu_(self.conv2(y, offset, mask)))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(y)
