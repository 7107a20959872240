"""The simple feature pyramid of ViTDet (arXiv:2203.16527, section 3) with Detectron2's names and order of creation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from transfer.engines.torchvision.model.convolution import Conv
from transfer.engines.torchvision.model.norms import build_norm
from transfer.engines.torchvision.model.vit import OUT_FEATURE, ViT


def _resampling(scale: float, channels: int, norm: str) -> tuple[list[nn.Module], int]:
    """Layers that change the resolution of a map by ``scale``, and the channels after them."""
    if scale == 4.0:
        half = channels // 2
        first = [nn.ConvTranspose2d(channels, half, kernel_size=2, stride=2), build_norm(norm, half), nn.GELU()]
        last = nn.ConvTranspose2d(half, channels // 4, kernel_size=2, stride=2)
        return [*(layer for layer in first if layer is not None), last], channels // 4
    if scale == 2.0:
        return [nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2)], channels // 2
    return ([] if scale == 1.0 else [nn.MaxPool2d(kernel_size=2, stride=2)]), channels


SCALES = (4.0, 2.0, 1.0, 0.5)  # that ``_resampling`` can make


class SimpleFeaturePyramid(nn.Module):
    """Levels of several scales from the one map of ``net``, and one more by subsampling the coarsest.

    ``scales`` fall by a factor of two from level to level. Images are padded to the stride of the coarsest scale.
    """

    def __init__(
        self, net: ViT, *, out_channels: int = 256, scales: Sequence[float] = SCALES, norm: str = "LN"
    ) -> None:
        super().__init__()
        stride, width = net.strides[OUT_FEATURE], net.channels[OUT_FEATURE]
        strides = [int(stride / scale) for scale in scales]
        self.levels = [int(math.log2(one)) for one in strides]
        for level, scale in zip(self.levels, scales):
            layers, channels = _resampling(scale, width, norm)
            layers += [
                Conv(channels, out_channels, 1, norm=norm),
                Conv(out_channels, out_channels, 3, padding=1, norm=norm),
            ]
            self.add_module(f"simfp_{level}", nn.Sequential(*layers))
        self.net = net
        self.size_divisibility = strides[-1]
        self.strides = {f"p{level}": 2**level for level in [*self.levels, self.levels[-1] + 1]}
        self.channels = dict.fromkeys(self.strides, out_channels)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W to {level: N x C x H/stride x W/stride}, finest level first."""
        features = self.net(x)[OUT_FEATURE]
        outputs = {f"p{level}": getattr(self, f"simfp_{level}")(features) for level in self.levels}
        last = self.levels[-1]
        outputs[f"p{last + 1}"] = F.max_pool2d(outputs[f"p{last}"], kernel_size=1, stride=2, padding=0)
        return outputs
