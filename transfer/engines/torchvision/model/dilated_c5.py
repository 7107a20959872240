"""The dilated C5 backbone of the MoCo paper (arXiv:1911.05722, appendix): res5 at stride 16, reduced to 512."""

from __future__ import annotations

import torch
from torch import nn

from transfer.engines.torchvision.model.convolution import Conv, init_msra
from transfer.engines.torchvision.model.resnet import ResNet

OUT_CHANNELS = 512


class DilatedC5(nn.Module):
    """A ResNet whose res5 is reduced by a 3x3 convolution with norm and ReLU; the map keeps the name ``res5``."""

    size_divisibility = 0

    def __init__(self, bottom_up: ResNet, *, norm: str) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.reduce = Conv(bottom_up.channels["res5"], OUT_CHANNELS, 3, padding=1, norm=norm, relu=True)
        init_msra(self.reduce)
        self.channels = {**bottom_up.channels, "res5": OUT_CHANNELS}
        self.strides = bottom_up.strides

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W to {"res5": N x 512 x H/16 x W/16} and the bottom-up's other outputs."""
        return self.from_stages(self.bottom_up(x))

    def from_stages(self, stages: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The outputs from those of ``bottom_up``."""
        return {**stages, "res5": self.reduce(stages["res5"])}
