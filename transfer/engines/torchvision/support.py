"""What the embedded engine does not honour, so that no setting is silently ignored."""

from __future__ import annotations

from typing import Any

from runtime.errors import UserError
from transfer.config import flatten, unsupported_keys
from transfer.config.backbones import BACKBONES
from transfer.config.protocol import BATCH, CACHED, FEATURES, FROZEN, protocol_of
from transfer.engines.torchvision.inference_arithmetic import ARITHMETIC
from transfer.engines.torchvision.model.norms import NORMS
from transfer.engines.torchvision.model.poolers import POOLER_TYPES
from transfer.engines.training import choices
from transfer.engines.training.precision import DTYPES

ENGINE = "torchvision"
NORM_NAMES = ("", *NORMS)

# keys with a closed set of values; those of ``transfer.engines.training.choices`` and the embedded engine's own
CHOICES: dict[str, tuple[Any, ...]] = {
    **choices.CHOICES,
    "MODEL.META_ARCHITECTURE": (choices.RCNN, choices.RETINANET, choices.PROPOSALS),
    "MODEL.BACKBONE.NAME": (
        "build_resnet_backbone",
        "build_resnet_fpn_backbone",
        "build_resnet_dilated_c5_backbone",
        "build_retinanet_resnet_fpn_backbone",
        *BACKBONES,
    ),
    "MODEL.FPN.NORM": NORM_NAMES,
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN", choices.READER),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads", "CascadeROIHeads", "Res5ROIHeads", "Res5ROIHeadsExtraNorm"),
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.ROI_BOX_HEAD.NORM": NORM_NAMES,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": tuple(POOLER_TYPES),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.ROI_MASK_HEAD.NORM": NORM_NAMES,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": tuple(POOLER_TYPES),
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ("KRCNNConvDeconvUpsampleHead",),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": tuple(POOLER_TYPES),
    "MODEL.RETINANET.NORM": NORM_NAMES,
    "MODEL.RESNETS.NORM": tuple(NORMS),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "ENGINE.AMP_DTYPE": tuple(DTYPES),
    "ENGINE.TEST_ARITHMETIC": tuple(ARITHMETIC),
    "ENGINE.ATTENTION": ("exact", "fused"),
    "ENGINE.FEATURES": FEATURES,
}


def check_support(cfg: Any) -> None:
    """Raise UserError naming the key for the first setting that this engine would not honour."""
    for key, value in unsupported_keys(cfg, "default only").items():
        raise UserError(f"{key} {value!r} is not supported by engine {ENGINE}; use --engine detectron2 for it")
    choices.check_choices(flatten(cfg), CHOICES, ENGINE)
    choices.check_conflicts(cfg, ENGINE)
    _check_features(cfg)


def _check_features(cfg: Any) -> None:
    """Maps can be computed for each image alone where nothing trains them, and kept where views come again."""
    kind = cfg.ENGINE.FEATURES
    if kind == BATCH:
        return
    if protocol_of(flatten(cfg)) != FROZEN:
        raise UserError(
            f"ENGINE.FEATURES {kind} needs a frozen backbone: a ResNet with all of its stages frozen "
            "(MODEL.BACKBONE.FREEZE_AT 5)"
        )
    if cfg.ENGINE.COMPILE:
        raise UserError(f"ENGINE.FEATURES {kind} does not use a compiled backbone; set ENGINE.COMPILE to False")
    for key in ("CROP", "LSJ") if kind == CACHED else ():
        if cfg.INPUT[key].ENABLED:
            raise UserError(
                f"ENGINE.FEATURES {kind}: with INPUT.{key}.ENABLED no view of an image comes a second time; use image, "
                "or leave it out"
            )
