"""What the embedded engine does not honour, so that no setting is silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime.errors import UserError
from transfer.config import unsupported_keys
from transfer.engines.torchvision.inference_arithmetic import ARITHMETIC
from transfer.engines.torchvision.model.boxes import BOX_LOSSES
from transfer.engines.torchvision.model.norms import NORMS
from transfer.engines.torchvision.model.poolers import POOLER_TYPES
from transfer.engines.torchvision.model.resnet import DEPTHS
from transfer.engines.training.precision import DTYPES
from transfer.engines.training.solver import CLIPPERS

ENGINE = "torchvision"
NORM_NAMES = ("", *NORMS)

# keys with a closed set of values
CHOICES: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.BACKBONE.NAME": (
        "build_resnet_backbone",
        "build_resnet_fpn_backbone",
        "build_resnet_dilated_c5_backbone",
    ),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.FPN.NORM": NORM_NAMES,
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads", "Res5ROIHeads", "Res5ROIHeadsExtraNorm"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.ROI_BOX_HEAD.NORM": NORM_NAMES,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": tuple(POOLER_TYPES),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.ROI_MASK_HEAD.NORM": NORM_NAMES,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": tuple(POOLER_TYPES),
    "MODEL.RESNETS.DEPTH": tuple(DEPTHS),
    "MODEL.RESNETS.NORM": tuple(NORMS),
    "MODEL.RESNETS.RES5_DILATION": (1, 2),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": tuple(CLIPPERS),
    "FLOAT32_PRECISION": ("", "highest", "high", "medium"),
    "ENGINE.AMP_DTYPE": tuple(DTYPES),
    "ENGINE.TEST_ARITHMETIC": tuple(ARITHMETIC),
}

# counts that must not be zero
POSITIVE = (
    "SOLVER.MAX_ITER",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.PRECISE_BN.NUM_ITER",
    "ENGINE.ACCUMULATE",
)

# settings that exclude each other, in Detectron2 too: (does the config have it?, what to say)
CONFLICTS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda m: m.RESNETS.DEPTH < 50 and m.RESNETS.RES2_OUT_CHANNELS != 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS must be 64 for DEPTH 18 and 34",
    ),
    (
        lambda m: m.RESNETS.DEPTH < 50 and (m.RESNETS.NUM_GROUPS != 1 or m.RESNETS.RES5_DILATION != 1),
        "MODEL.RESNETS.NUM_GROUPS and RES5_DILATION must be 1 for DEPTH 18 and 34",
    ),
    (
        lambda m: m.ROI_HEADS.NAME == "StandardROIHeads" and m.ROI_BOX_HEAD.NAME == "",
        "MODEL.ROI_BOX_HEAD.NAME must be FastRCNNConvFCHead for StandardROIHeads",
    ),
    (
        lambda m: m.ROI_BOX_HEAD.NAME == "FastRCNNConvFCHead" and m.ROI_BOX_HEAD.NUM_CONV + m.ROI_BOX_HEAD.NUM_FC == 0,
        "MODEL.ROI_BOX_HEAD needs NUM_CONV or NUM_FC above 0",
    ),
    (
        lambda m: m.ROI_HEADS.NAME.startswith("Res5") and "fpn" in m.BACKBONE.NAME,
        "MODEL.ROI_HEADS.NAME Res5ROIHeads runs on res4, not on a feature pyramid",
    ),
)


def check_support(cfg: Any) -> None:
    """Raise UserError naming the key for the first setting that this engine would not honour."""
    for key, value in unsupported_keys(cfg, "D").items():
        raise UserError(f"{key} {value!r} is not supported by engine {ENGINE}; use --engine detectron2 for it")
    for key, allowed in CHOICES.items():
        value = _value(cfg, key)
        if value not in allowed:
            names = ", ".join(repr(a) for a in allowed)
            raise UserError(f"{key} {value!r} is not supported by engine {ENGINE}; it knows {names}")
    check_conflicts(cfg, ENGINE)
    for key in POSITIVE:
        value = _value(cfg, key)
        if value < 1:
            raise UserError(f"{key} {value} must be 1 or more (engine {ENGINE})")


def check_conflicts(cfg: Any, engine: str) -> None:
    """Raise UserError for the first of CONFLICTS that the config has; ``engine`` is named in it."""
    for conflicts, message in CONFLICTS:
        if conflicts(cfg.MODEL):
            raise UserError(f"{message} (engine {engine})")


def _value(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
