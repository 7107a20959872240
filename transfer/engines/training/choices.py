"""Values and combinations of settings that both engines accept, because Detectron2 defines them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convert.architecture import BLOCKS
from runtime.errors import UserError
from transfer.config.schema import PART_OF
from transfer.data.mapper import FLIPS, MASK_FORMATS, SIZE_SAMPLINGS
from transfer.engines.training.solver import CLIPPERS, OPTIMIZERS

BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")

# keys with a closed set of values, the same in both engines
CHOICES: dict[str, tuple[Any, ...]] = {
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.RESNETS.DEPTH": tuple(BLOCKS),
    "MODEL.RESNETS.RES5_DILATION": (1, 2),
    "INPUT.MASK_FORMAT": MASK_FORMATS,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": SIZE_SAMPLINGS,
    "INPUT.RANDOM_FLIP": FLIPS,
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": tuple(CLIPPERS),
    "SOLVER.OPTIMIZER": OPTIMIZERS,
    "MODEL.VIT.FEED_FORWARD": ("mlp", "swiglu"),
    "FLOAT32_PRECISION": ("", "highest", "high", "medium"),
}

# settings of MODEL that exclude each other: (whether a config has the conflict, the message)
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


def check_choices(values: Mapping[str, Any], choices: Mapping[str, Sequence[Any]], engine: str) -> None:
    """Raise UserError for the first key of ``choices`` whose value in ``values`` (leaf key -> value) is not listed.

    Keys of a feature that is switched off may hold anything.
    """
    for key, allowed in choices.items():
        if key in PART_OF and not values[PART_OF[key]]:
            continue
        if values[key] not in allowed:
            names = ", ".join(map(repr, allowed))
            raise UserError(f"{key} {values[key]!r} is not supported by engine {engine}; choose one of {names}")


def check_conflicts(cfg: Any, engine: str) -> None:
    """Raise UserError naming ``engine`` for the first of ``CONFLICTS`` that the config has."""
    for conflicts, message in CONFLICTS:
        if conflicts(cfg.MODEL):
            raise UserError(f"{message} (engine {engine})")
