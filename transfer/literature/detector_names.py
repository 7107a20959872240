"""Name of the detector and of the protocol of an own run, in the words of the published rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.config.backbones import CONVNEXT, SWIN, VIT
from transfer.config.schema import KEYS

VIT_SIZES = {(192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H"}  # width, blocks
SWIN_SIZES = {(96, 6): "T", (96, 18): "S", (128, 18): "B", (192, 18): "L"}  # width, blocks of the third stage
CONVNEXT_SIZES = {(96, 9): "T", (96, 27): "S", (128, 27): "B", (192, 27): "L"}
# what the MoCo protocol leaves at Detectron2's defaults; a run that departs from one of them is not of that protocol
PLAIN = (
    "INPUT.CROP.ENABLED",
    "INPUT.LSJ.ENABLED",
    "MODEL.FPN.FUSE_TYPE",
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
    "SOLVER.CLIP_GRADIENTS.ENABLED",
    "SOLVER.MOMENTUM",
    "SOLVER.OPTIMIZER",
    "SOLVER.WEIGHT_DECAY",
)
RATES_OF_16_IMAGES = {"RetinaNet": 0.01}  # 0.02 for the others


def detector_name(flat: Mapping[str, Any]) -> str:
    """``Mask R-CNN R50-FPN``, ``Cascade Mask R-CNN ViT-B ViTDet``, ``RetinaNet R50`` ... of a recorded config."""
    kind = _architecture(flat)
    backbone, neck = _backbone(flat), _neck(flat)
    if kind == "RetinaNet" and neck == "-FPN":
        return f"{kind} {backbone}"  # as the rows call it; it has no other neck
    convolutions = flat.get("MODEL.ROI_BOX_HEAD.NUM_CONV") or 0
    plain = backbone.startswith("R") and kind in ("Faster R-CNN", "Mask R-CNN")
    heads = " (4conv1fc-SyncBN heads)" if plain and neck == "-FPN" and convolutions == 4 else ""
    return f"{kind} {backbone}{neck}{heads}"


def protocol_name(flat: Mapping[str, Any]) -> str:
    """``moco`` for the MoCo paper's protocol, otherwise what sets the run apart from it."""
    if flat.get("MODEL.BACKBONE.NAME") in (VIT, SWIN, CONVNEXT):
        return "settings of this run"  # the MoCo protocol is one of ResNets
    norm, frozen = flat.get("MODEL.RESNETS.NORM"), flat.get("MODEL.BACKBONE.FREEZE_AT")
    precise = bool(flat.get("TEST.PRECISE_BN.ENABLED"))
    if not (norm in ("BN", "SyncBN", "naiveSyncBN") and frozen == 0 and precise):
        return f"norm {norm}, FREEZE_AT {frozen}, PreciseBN {precise}"
    changed = [f"{key} {flat[key]}" for key in PLAIN if key in flat and flat[key] != KEYS[key].default]
    rate, images = flat.get("SOLVER.BASE_LR"), flat.get("SOLVER.IMS_PER_BATCH")
    usual = RATES_OF_16_IMAGES.get(str(flat.get("MODEL.META_ARCHITECTURE")), 0.02)
    if rate is not None and images and abs(rate / (usual * images / 16) - 1) > 1e-6:
        changed.append(f"SOLVER.BASE_LR {rate} for {images} images")
    if changed:
        return f"moco but {', '.join(changed)}"
    if flat.get("MODEL.ROI_BOX_HEAD.NUM_CONV") == 4:
        return "4conv1fc box head + SyncBN in box/mask heads (InfoMin/PyContrast recipe)"
    return "moco"


def _architecture(flat: Mapping[str, Any]) -> str:
    if flat.get("MODEL.META_ARCHITECTURE") in ("RetinaNet", "ProposalNetwork"):
        return {"RetinaNet": "RetinaNet", "ProposalNetwork": "RPN"}[flat["MODEL.META_ARCHITECTURE"]]
    kind = "Mask R-CNN" if flat.get("MODEL.MASK_ON") else "Faster R-CNN"
    if flat.get("MODEL.KEYPOINT_ON"):
        kind = "Mask/Keypoint R-CNN" if flat.get("MODEL.MASK_ON") else "Keypoint R-CNN"
    if flat.get("MODEL.ROI_HEADS.NAME") != "CascadeROIHeads":
        return kind
    return f"Cascade {kind}" if kind != "Faster R-CNN" else "Cascade R-CNN"


def _backbone(flat: Mapping[str, Any]) -> str:
    name = flat.get("MODEL.BACKBONE.NAME")

    def value(key: str) -> Any:  # a record leaves this project's keys out at their defaults
        return flat.get(key, KEYS[key].default)

    if name == VIT:
        width, blocks = value("MODEL.VIT.EMBED_DIM"), value("MODEL.VIT.DEPTH")
        patch = value("MODEL.VIT.PATCH_SIZE")
        return f"ViT-{VIT_SIZES.get((width, blocks), f'{width}x{blocks}')}{f'/{patch}' if patch != 16 else ''}"
    if name == SWIN:
        width, blocks = value("MODEL.SWIN.EMBED_DIM"), value("MODEL.SWIN.DEPTHS")[2]
        return f"Swin-{SWIN_SIZES.get((width, blocks), f'{width}x{blocks}')}"
    if name == CONVNEXT:
        width, blocks = value("MODEL.CONVNEXT.DIMS")[0], value("MODEL.CONVNEXT.DEPTHS")[2]
        version = "V2" if value("MODEL.CONVNEXT.GRN") else ""
        return f"ConvNeXt{version}-{CONVNEXT_SIZES.get((width, blocks), f'{width}x{blocks}')}"
    depth, groups = flat.get("MODEL.RESNETS.DEPTH"), flat.get("MODEL.RESNETS.NUM_GROUPS", 1)
    if groups == 1:
        return f"R{depth}"
    return f"X{depth}-{groups}x{flat.get('MODEL.RESNETS.WIDTH_PER_GROUP')}d"


def _neck(flat: Mapping[str, Any]) -> str:
    name = str(flat.get("MODEL.BACKBONE.NAME", ""))
    if name == VIT:
        return " ViTDet"
    if "fpn" in name:
        return "-FPN"
    return "-dilated-C5" if flat.get("MODEL.RESNETS.RES5_DILATION") == 2 else "-C4"
