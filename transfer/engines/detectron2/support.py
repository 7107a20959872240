"""Settings that would end a Detectron2 run with a traceback, or be ignored by it: refused before the run starts."""

from __future__ import annotations

from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.layers import get_norm
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
)

import transfer.engines.detectron2.backbones
import transfer.engines.detectron2.heads  # noqa: F401 (both register this project's parts)
from runtime.errors import UserError
from transfer.config import flatten, unsupported_keys
from transfer.engines.training.choices import CHOICES, READER, check_choices, check_conflicts

ENGINE = "detectron2"

# they predict a class for every pixel, which this project's data sets and evaluation do not cover
OTHER_TASKS = ("SemanticSegmentor", "PanopticFPN")

# registries that a user's script can extend
REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
}
UNREGISTERED = {"MODEL.ROI_BOX_HEAD.NAME": "", "MODEL.PROPOSAL_GENERATOR.NAME": READER}
NORMS = ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM")

# keys of this project that Detectron2's trainer or its ViT does not read
EMBEDDED_ONLY = (
    *(f"SOLVER.{key}" for key in ("OPTIMIZER", "BETAS", "LAYER_DECAY", "NO_DECAY")),
    *(f"MODEL.VIT.{key}" for key in ("CLS_TOKEN", "REGISTERS", "ROPE", "LAYER_SCALE", "FEED_FORWARD", "FINAL_NORM")),
    "MODEL.VIT.ACT_CHECKPOINT",
)


def check_support(cfg: Any) -> None:
    """Raise UserError naming the key for the first setting with which a Detectron2 run cannot work."""
    added = {key: value for key, value in unsupported_keys(cfg, "added").items() if key in EMBEDDED_ONLY}
    for key, value in {**unsupported_keys(cfg, "own"), **added}.items():
        raise UserError(f"{key} {value!r} is not supported by engine {ENGINE}; use --engine torchvision for it")
    values = flatten(cfg)
    if values["MODEL.META_ARCHITECTURE"] in OTHER_TASKS:
        raise UserError(
            f"MODEL.META_ARCHITECTURE {values['MODEL.META_ARCHITECTURE']!r} is not supported by engine {ENGINE}: only "
            "detectors of boxes, masks, keypoints and proposals are trained and evaluated here; use Detectron2's own "
            "script for it"
        )
    for key, registry in REGISTRIES.items():
        if values[key] not in registry and values[key] != UNREGISTERED.get(key):
            raise UserError(f"{key} {values[key]!r} is not registered in Detectron2")
    for key in NORMS:
        try:
            get_norm(values[key], 32)
        except KeyError as error:
            raise UserError(f"{key} {values[key]!r} is not a norm of Detectron2") from error
    check_choices(values, CHOICES, ENGINE)
    check_conflicts(cfg, ENGINE)
    _check_companions(cfg)


def _check_companions(cfg: Any) -> None:
    """Settings that need something beside them: counts of classes."""
    if cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS:
        for name in cfg.DATASETS.TRAIN:
            if name not in MetadataCatalog.list() or not hasattr(MetadataCatalog.get(name), "class_image_count"):
                raise UserError(
                    f"MODEL.ROI_BOX_HEAD.USE_FED_LOSS needs the number of images of each class, which Detectron2 has "
                    f"for LVIS v1 only, not for data set {name}"
                )
