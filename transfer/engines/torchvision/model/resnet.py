"""ResNet and ResNeXt backbones (arXiv:1512.03385, arXiv:1611.05431) with Detectron2's names and order of creation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from convert.architecture import BLOCKS
from transfer.engines.torchvision.model.convolution import Conv, init_msra
from transfer.engines.torchvision.model.deformable import DeformBottleneckBlock
from transfer.engines.torchvision.model.norms import freeze


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (R-18, R-34)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.shortcut = (
            Conv(in_channels, out_channels, 1, stride=stride, norm=norm, bias=False)
            if in_channels != out_channels
            else None
        )
        self.conv1 = Conv(in_channels, out_channels, 3, stride=stride, padding=1, norm=norm, relu=True, bias=False)
        self.conv2 = Conv(out_channels, out_channels, 3, padding=1, norm=norm, bias=False)
        init_msra(self.conv1, self.conv2, *([self.shortcut] if self.shortcut is not None else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C x H x W to N x C' x H/stride x W/stride."""
        y = self.conv2(self.conv1(x))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(y)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (grouped, dilated), 1x1 convolutions and a shortcut (R-50 and deeper, ResNeXt)."""

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
    ) -> None:
        super().__init__()
        self.shortcut = (
            Conv(in_channels, out_channels, 1, stride=stride, norm=norm, bias=False)
            if in_channels != out_channels
            else None
        )
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = Conv(in_channels, middle_channels, 1, stride=first, norm=norm, relu=True, bias=False)
        self.conv2 = Conv(
            middle_channels,
            middle_channels,
            3,
            stride=second,
            padding=dilation,
            dilation=dilation,
            groups=groups,
            norm=norm,
            relu=True,
            bias=False,
        )
        self.conv3 = Conv(middle_channels, out_channels, 1, norm=norm, bias=False)
        init_msra(self.conv1, self.conv2, self.conv3, *([self.shortcut] if self.shortcut is not None else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C x H x W to N x C' x H/stride x W/stride."""
        y = self.conv3(self.conv2(self.conv1(x)))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(y)


def _stage(
    block: Callable[..., nn.Module], count: int, in_channels: int, out_channels: int, stride: int, **options: Any
) -> nn.Sequential:
    first = block(in_channels, out_channels, stride=stride, **options)
    return nn.Sequential(first, *(block(out_channels, out_channels, stride=1, **options) for _ in range(count - 1)))


def build_res5_head(
    *, res2_channels: int, groups: int, width_per_group: int, stride_in_1x1: bool, norm: str
) -> tuple[nn.Sequential, int]:
    """The three bottleneck blocks that C4 models run on every pooled region, and their output channels."""
    out_channels, middle = res2_channels * 8, groups * width_per_group * 8
    stage = _stage(
        BottleneckBlock,
        3,
        out_channels // 2,
        out_channels,
        2,
        norm=norm,
        middle_channels=middle,
        groups=groups,
        stride_in_1x1=stride_in_1x1,
    )
    return stage, out_channels


class Stem(nn.Module):
    """7x7/2 convolution and 3x3/2 max-pool."""

    def __init__(self, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = Conv(3, out_channels, 7, stride=2, padding=3, norm=norm, relu=True, bias=False)
        init_msra(self.conv1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W to N x C x H/4 x W/4."""
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


class ResNet(nn.Module):
    """Stages ``stem, res2 .. res5``; returns the ones named in ``out_features``.

    ``deformable`` says for each of res2 .. res5 whether its 3x3 convolutions are. ``channels`` and ``strides`` give
    them per output name. ``size_divisibility`` 0: images are not padded further.
    """

    size_divisibility = 0

    def __init__(
        self,
        *,
        depth: int,
        out_features: Sequence[str],
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        stem_channels: int = 64,
        res2_channels: int = 256,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = False,
        res5_dilation: int = 1,
        deformable: Sequence[bool] = (False, False, False, False),
        modulated: bool = False,
        offset_groups: int = 1,
    ) -> None:
        super().__init__()
        bottleneck, blocks = BLOCKS[depth]
        self.stem = Stem(stem_channels, norm)
        last = max((int(name[-1]) for name in out_features if name != "stem"), default=1)
        self.names = [f"res{i}" for i in range(2, last + 1)]
        in_channels = stem_channels
        for index, name in enumerate(("res2", "res3", "res4", "res5")):
            out_channels = res2_channels * 2**index
            dilation = res5_dilation if name == "res5" else 1
            # basic blocks have neither groups nor dilation; ``CONFLICTS`` refuses those settings for
            extra: dict[str, Any] = (
                {
                    "middle_channels": groups * width_per_group * 2**index,
                    "groups": groups,
                    "stride_in_1x1": stride_in_1x1,
                    "dilation": dilation,
                }
                if bottleneck
                else {}
            )
            block: Callable[..., nn.Module] = BottleneckBlock if bottleneck else BasicBlock
            if deformable[index]:
                block = DeformBottleneckBlock
                extra |= {"modulated": modulated, "offset_groups": offset_groups}
            stride = 1 if index == 0 or dilation == 2 else 2
            stage = _stage(
                block,
                blocks[index],
                in_channels,
                out_channels,
                stride,
                norm=norm,
                **extra,
            )
            in_channels = out_channels
            # unused stages are created too, as in Detectron2: all random numbers after them depend on it
            if name in self.names:
                self.add_module(name, stage)
        self.out_features = list(out_features)
        self.channels = {"stem": stem_channels, **{f"res{i + 2}": res2_channels * 2**i for i in range(4)}}
        self.strides = {"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 16 if res5_dilation == 2 else 32}
        for name in ["stem", *self.names][:freeze_at]:
            setattr(self, name, freeze(getattr(self, name)))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W to {stage: N x C x H/stride x W/stride}."""
        x = self.stem(x)
        features = {"stem": x} if "stem" in self.out_features else {}
        for name in self.names:
            x = getattr(self, name)(x)
            if name in self.out_features:
                features[name] = x
        return features
