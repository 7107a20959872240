"""Names in weight files -> names in the model: conversion from Caffe2, and matching by the longest dotted suffix."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from runtime.errors import UserError

# applied in this order to Caffe2 names whose underscores have become dots (MSRA and Detectron1 files)
CAFFE2_RULES: tuple[tuple[str, str], ...] = (
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"bn\.(?:s|gamma)$", "norm.weight"),
    (r"bn\.(?:bias|beta)$", "norm.bias"),
    (r"bn\.(?:rm|running\.mean)$", "norm.running_mean"),
    (r"bn\.(?:riv|running\.var)$", "norm.running_var"),
    (r"gn\.s$", "norm.weight"),
    (r"gn\.bias$", "norm.bias"),
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
    (r"conv\.rpn(?:\.fpn2)?", "proposal_generator.rpn_head.conv"),
    (r"rpn\.bbox\.pred(?:\.fpn2)?", "proposal_generator.rpn_head.anchor_deltas"),
    (r"rpn\.cls\.logits(?:\.fpn2)?", "proposal_generator.rpn_head.objectness_logits"),
    (r"^bbox\.pred", "bbox_pred"),
    (r"^cls\.score", "cls_score"),
    (r"^fc6\.", "box_head.fc1."),
    (r"^fc7\.", "box_head.fc2."),
    (r"^head\.conv", "box_head.conv"),
    (r"^fpn\.inner\.res(\d)\.\d+\.sum\.(?:lateral\.)?((?:norm\.)?\w+)$", r"fpn_lateral\1.\2"),
    (r"^fpn\.res(\d)\.\d+\.sum\.((?:norm\.)?\w+)$", r"fpn_output\1.\2"),
    (r"\.\[mask\]\.fcn", "mask_head.mask_fcn"),
    (r"^\.mask\.fcn", "mask_head.mask_fcn"),
    (r"mask\.fcn\.logits", "mask_head.predictor"),
    (r"conv5\.mask", "mask_head.deconv"),
)


def from_caffe2(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Detectron2's names for Caffe2 blobs; momentum blobs are dropped and background moves to the end.

    Caffe2 has background as class 0: its row moves to the end of the class scores and is removed from boxes and masks.
    """
    renamed: dict[str, torch.Tensor] = {}
    for old in sorted(tensors):
        if old.endswith("_momentum"):
            continue
        new = {"pred_b": "linear_b", "pred_w": "linear_w"}.get(old, old).replace("_", ".")
        for pattern, replacement in CAFFE2_RULES:
            new = re.sub(pattern, replacement, new)
        value = tensors[old]
        if new.startswith("bbox_pred."):
            value = value[4:]
        elif new.startswith("mask_head.predictor."):
            value = value[1:]
        elif new.startswith("cls_score."):
            value = torch.cat([value[1:], value[:1]])
        renamed[new] = value
    return renamed


def align(model: Mapping[str, torch.Tensor], file: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Model name -> the longest name in the file that equals it or is a dotted suffix of it, where there is one.

    Raises UserError when one tensor of the file matches two names of the model.
    """
    matched: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in sorted(model):
        parts = name.split(".")
        suffixes = (".".join(parts[start:]) for start in range(len(parts)))
        source = next((suffix for suffix in suffixes if suffix in file), None)
        if source is None:
            continue
        if source in taken:
            raise UserError(
                f"tensor {source} matches both {taken[source]} and {name}; convert the file for this detector"
            )
        taken[source] = name
        matched[name] = source
    return matched
