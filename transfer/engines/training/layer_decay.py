"""Layer-wise decay of the learning rate (SOLVER.LAYER_DECAY): layers far from the output learn more slowly."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from transfer.config.backbones import CONVNEXT, VIT

LayerFactor = Callable[[str], float]  # of a parameter's name

VIT_BLOCK = re.compile(r"\.blocks\.(\d+)\.")
VIT_INPUT = (".pos_embed", ".patch_embed", ".cls_token", ".register_tokens")
CONVNEXT_PART = re.compile(r"\.(downsample_layers|stages)\.(\d+)\.(\d+)")


def vit_factor(name: str, decay: float, depth: int) -> float:
    """Factor of a ViT with ``depth`` blocks: its input is layer 0, block i layer i + 1, all else layer depth + 1.

    ViTDet (arXiv:2203.16527), appendix A.2; branches that pretraining did not have count as the detector's.
    """
    layer = depth + 1
    if name.startswith("backbone"):
        block = VIT_BLOCK.search(name)
        if any(part in name for part in VIT_INPUT):
            layer = 0
        elif block and ".residual." not in name:
            layer = int(block[1]) + 1
    return float(decay ** (depth + 1 - layer))


def convnext_factor(name: str, decay: float, third_stage: int) -> float:
    """Factor of a ConvNeXt whose third stage has ``third_stage`` blocks, which form groups of three.

    ConvNeXt (arXiv:2201.03545), appendix A.2: 6 groups for the third stage's 9 blocks, 12 for 27.
    """
    groups = third_stage // 3 + 3
    layer, part = groups + 1, CONVNEXT_PART.search(name)
    if part and name.startswith("backbone"):
        stage, block = int(part[2]), int(part[3])
        if stage == 3:
            layer = groups
        elif part[1] == "downsample_layers":
            layer = stage + 1 if stage else 0
        else:
            layer = stage + 1 if stage < 2 else min(3 + block // 3, groups)
    return float(decay ** (groups + 1 - layer))


def layer_factor(cfg: Any) -> LayerFactor | None:
    """The factor on the learning rate by parameter name that SOLVER.LAYER_DECAY asks for; None without a decay."""
    decay, backbone = cfg.SOLVER.LAYER_DECAY, cfg.MODEL.BACKBONE.NAME
    if decay == 1.0:
        return None
    if backbone == VIT:
        return lambda name: vit_factor(name, decay, cfg.MODEL.VIT.DEPTH)
    if backbone == CONVNEXT:
        return lambda name: convnext_factor(name, decay, cfg.MODEL.CONVNEXT.DEPTHS[2])
    raise AssertionError(f"SOLVER.LAYER_DECAY was checked by transfer.config.backbones, not for {backbone}")
