"""Arithmetic of detection (ENGINE.TEST_ARITHMETIC): Detectron2's, or faster variants equal to it up to rounding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from transfer.engines.torchvision.detection import Detector
from transfer.engines.torchvision.model.convolution import Conv
from transfer.engines.torchvision.model.instances import ImageDetections
from transfer.engines.torchvision.model.norms import FrozenBatchNorm
from transfer.engines.torchvision.model.rcnn import ImageDetector

# name -> type of convolutions and products; "exact" leaves the model as it is
ARITHMETIC = {"exact": None, "folded": torch.float32, "bfloat16": torch.bfloat16}
FOLDABLE = (FrozenBatchNorm, nn.BatchNorm2d, nn.SyncBatchNorm)


def detection_model(model: ImageDetector, arithmetic: str) -> ImageDetector:
    """The model to detect with: ``model`` itself for "exact", otherwise a channels-last copy with folded norms.

    For "bfloat16" the copy's weights have that type; call it through ``in_arithmetic``.
    """
    dtype = ARITHMETIC[arithmetic]
    if dtype is None:
        return model
    fast = copy.deepcopy(model)
    fold_norms(fast)
    for module in fast.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.to(dtype)
    return fast.channels_last()


def in_arithmetic(detector: Detector, arithmetic: str, device: torch.device) -> Detector:
    """``detector``, whose model is from ``detection_model``, with all other operations in the same type."""
    dtype = ARITHMETIC[arithmetic]
    if dtype in (None, torch.float32):
        return detector

    def detect(items: Sequence[dict[str, Any]]) -> list[ImageDetections]:
        with torch.autocast(device.type, dtype=dtype):
            return detector(items)

    return detect


@torch.no_grad()
def fold_norms(model: nn.Module) -> None:
    """Multiply the scale of every batch norm with fixed statistics into its convolution, and add the shift as bias.

    Norms that do not follow a convolution (the MoCo paper's after res5) and group norms stay.
    """
    for conv in model.modules():
        if not isinstance(conv, Conv) or not isinstance(conv.norm, FOLDABLE):
            continue
        norm: Any = conv.norm
        scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        if conv.bias is not None:
            shift += conv.bias.double() * scale
        conv.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
        conv.norm = None
