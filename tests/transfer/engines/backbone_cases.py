"""Detectors with a ViT, Swin or ConvNeXt on which the embedded engine is compared with Detectron2."""

from __future__ import annotations

from typing import Any

from tests.transfer.engines.engine_cases import FPN, MASK

HEADS = {key: value for key, value in FPN.items() if "RESNETS" not in key and "BACKBONE" not in key}
PYRAMID = {**HEADS, **MASK, "MODEL.BACKBONE.FREEZE_AT": 0}
LN = {
    "MODEL.FPN.NORM": "LN",
    "MODEL.RPN.CONV_DIMS": [-1, -1],
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 2,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_BOX_HEAD.NORM": "LN",
    "MODEL.ROI_MASK_HEAD.NORM": "LN",
}
VIT = {
    **PYRAMID,
    **LN,
    "MODEL.BACKBONE.NAME": "build_vit_sfp_backbone",
    "MODEL.VIT.IMG_SIZE": 128,
    "MODEL.VIT.EMBED_DIM": 48,
    "MODEL.VIT.DEPTH": 4,
    "MODEL.VIT.NUM_HEADS": 3,
    "MODEL.VIT.WINDOW_SIZE": 3,
    "MODEL.VIT.WINDOW_BLOCKS": [0, 2],
    "MODEL.VIT.PRETRAIN_IMG_SIZE": 112,
    "MODEL.VIT.DROP_PATH_RATE": 0.4,
    "MODEL.BACKBONE.SQUARE_PAD": 128,
}
SWIN = {
    **PYRAMID,
    "MODEL.BACKBONE.NAME": "build_swin_fpn_backbone",
    "MODEL.FPN.IN_FEATURES": ["p0", "p1", "p2", "p3"],
    "MODEL.SWIN.EMBED_DIM": 12,
    "MODEL.SWIN.DEPTHS": [2, 1, 3, 2],
    "MODEL.SWIN.NUM_HEADS": [1, 2, 3, 4],
    "MODEL.SWIN.WINDOW_SIZE": 4,
    "MODEL.SWIN.DROP_PATH_RATE": 0.4,
}
CONVNEXT = {
    **PYRAMID,
    "MODEL.BACKBONE.NAME": "build_convnext_fpn_backbone",
    "MODEL.FPN.IN_FEATURES": ["p0", "p1", "p2", "p3"],
    "MODEL.CONVNEXT.DEPTHS": [1, 1, 2, 1],
    "MODEL.CONVNEXT.DIMS": [8, 16, 24, 32],
}

# by Detectron2's own backbones
BACKBONE_CASES: dict[str, dict[str, Any]] = {
    "vit_sfp": VIT,
    "vit_no_windows": {**VIT, "MODEL.VIT.WINDOW_BLOCKS": [], "MODEL.VIT.DROP_PATH_RATE": 0.0},
    "vit_absolute_only": {**VIT, "MODEL.VIT.USE_REL_POS": False, "MODEL.VIT.PRETRAIN_CLS_TOKEN": False},
    "vit_relative_only": {**VIT, "MODEL.VIT.USE_ABS_POS": False, "MODEL.VIT.REL_POS_ZERO_INIT": False},
    "vit_residual": {**VIT, "MODEL.VIT.RESIDUAL_BLOCKS": [1, 3], "MODEL.VIT.QKV_BIAS": False},
    "vit_resampled": {  # positions of another image size, windows that do not divide the map, images of any shape
        **VIT, "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.REL_POS_ZERO_INIT": False, "MODEL.VIT.WINDOW_SIZE": 5,
        "MODEL.BACKBONE.SQUARE_PAD": 0,
    },
    "vit_patch_8": {
        **VIT, "MODEL.VIT.PATCH_SIZE": 8, "MODEL.SFP.SCALE_FACTORS": [2.0, 1.0, 0.5],
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5"], "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128]],
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4"],
    },
    "vit_group_norm": {
        **VIT, "MODEL.VIT.EMBED_DIM": 64, "MODEL.VIT.NUM_HEADS": 4, "MODEL.FPN.NORM": "GN",
        "MODEL.ROI_BOX_HEAD.NORM": "GN", "MODEL.ROI_MASK_HEAD.NORM": "",
    },
    "vit_narrow": {**VIT, "MODEL.VIT.MLP_RATIO": 2.5},
    "swin_narrow": {**SWIN, "MODEL.SWIN.MLP_RATIO": 2.5},
    "swin_fpn": SWIN,
    "swin_ln": {**SWIN, **LN, "MODEL.SWIN.DROP_PATH_RATE": 0.0, "MODEL.BACKBONE.SQUARE_PAD": 128},
    "swin_absolute": {
        **SWIN, "MODEL.SWIN.USE_ABS_POS": True, "MODEL.SWIN.PATCH_NORM": False, "MODEL.SWIN.QKV_BIAS": False,
        "MODEL.SWIN.PRETRAIN_IMG_SIZE": 64, "MODEL.SWIN.WINDOW_SIZE": 5, "MODEL.FPN.FUSE_TYPE": "avg",
    },
    "swin_three_levels": {
        **SWIN, "MODEL.FPN.IN_FEATURES": ["p1", "p2", "p3"], "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256]], "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
    },
    "convnext_fpn": CONVNEXT,  # the network is this project's in both engines; the rest is compared
}  # fmt: skip
