"""This project's additions to Detectron2's registries: importing this module registers the MoCo paper's heads.

Any Detectron2 script can import it, for example before using ``DefaultPredictor``.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling.roi_heads import Res5ROIHeads
from fvcore.nn import weight_init
from torch.nn import functional as F

OUT_CHANNELS = 512


class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """The C4 head with one more norm after res5 (arXiv:1911.05722, section 4.2)."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[torch.nn.Sequential, int]:
        blocks, channels = super()._build_res5_block(cfg)
        blocks.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return blocks, channels


class DilatedC5(Backbone):
    """A ResNet with dilated res5, reduced by a 3x3 convolution with norm to 512 channels under the name ``res5``."""

    def __init__(self, bottom_up: Backbone, norm: str) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        channels = bottom_up.output_shape()["res5"].channels
        layer = Conv2d(
            channels,
            OUT_CHANNELS,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, OUT_CHANNELS),
            activation=F.relu_,
        )
        weight_init.c2_msra_fill(layer)
        self.reduce = layer

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides by output name."""
        shapes = self.bottom_up.output_shape()
        return {**shapes, "res5": ShapeSpec(channels=OUT_CHANNELS, stride=shapes["res5"].stride)}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """N x 3 x H x W to {"res5": N x 512 x H/16 x W/16} and the bottom-up's other outputs."""
        features = self.bottom_up(x)
        return {**features, "res5": self.reduce(features["res5"])}


def build_resnet_dilated_c5_backbone(cfg: Any, input_shape: ShapeSpec) -> DilatedC5:
    """The backbone of that name in MODEL.BACKBONE.NAME."""
    return DilatedC5(build_resnet_backbone(cfg, input_shape), cfg.MODEL.RESNETS.NORM)


# a user's own script may have registered MoCo's head already, which is then left in place
for registry, item in (
    (ROI_HEADS_REGISTRY, Res5ROIHeadsExtraNorm),
    (BACKBONE_REGISTRY, build_resnet_dilated_c5_backbone),
):
    if item.__name__ not in registry:
        registry.register(item)
