"""Values and combinations of settings that both engines accept, because Detectron2 defines them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convert.architecture import BLOCKS
from runtime.errors import UserError
from transfer.config.schema import KEYS, PART_OF
from transfer.data.mapper import MASK_FORMATS
from transfer.data.random_geometry import CROPS, FLIPS, SIZE_SAMPLINGS
from transfer.engines.training.solver import CLIPPERS, OPTIMIZERS

BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")

# keys with a closed set of values, the same in both engines
CHOICES: dict[str, tuple[Any, ...]] = {
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.RESNETS.DEPTH": tuple(BLOCKS),
    "MODEL.RESNETS.RES5_DILATION": (1, 2),
    "INPUT.MASK_FORMAT": MASK_FORMATS,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": SIZE_SAMPLINGS,
    "INPUT.RANDOM_FLIP": FLIPS,
    "INPUT.CROP.TYPE": CROPS,
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": tuple(CLIPPERS),
    "SOLVER.OPTIMIZER": OPTIMIZERS,
    "MODEL.VIT.FEED_FORWARD": ("mlp", "swiglu"),
    "FLOAT32_PRECISION": ("", "highest", "high", "medium"),
}

RCNN, RETINANET, PROPOSALS = "GeneralizedRCNN", "RetinaNet", "ProposalNetwork"
CASCADE = "CascadeROIHeads"
READER = "PrecomputedProposals"  # the proposal generator of a detector that is given its proposals
BOX_WEIGHTS = KEYS["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"]
AUGMENTABLE = {"META_ARCHITECTURE": RCNN, "KEYPOINT_ON": False, "LOAD_PROPOSALS": False}  # of MODEL, as in Detectron2

# settings of MODEL that exclude each other: (architectures, whether a config has the conflict, the message)
CONFLICTS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        (RCNN, RETINANET, PROPOSALS),
        lambda m: m.RESNETS.DEPTH < 50 and m.RESNETS.RES2_OUT_CHANNELS != 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS must be 64 for DEPTH 18 and 34",
    ),
    (
        (RCNN, RETINANET, PROPOSALS),
        lambda m: m.RESNETS.DEPTH < 50 and (m.RESNETS.NUM_GROUPS != 1 or m.RESNETS.RES5_DILATION != 1),
        "MODEL.RESNETS.NUM_GROUPS and RES5_DILATION must be 1 for DEPTH 18 and 34",
    ),
    (
        (RCNN, RETINANET, PROPOSALS),
        lambda m: m.RESNETS.DEPTH < 50 and any(m.RESNETS.DEFORM_ON_PER_STAGE),
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE must be False for DEPTH 18 and 34, which have no bottleneck blocks",
    ),
    (
        (RCNN,),
        lambda m: not m.ROI_HEADS.NAME.startswith("Res5") and m.ROI_BOX_HEAD.NAME == "",
        "MODEL.ROI_BOX_HEAD.NAME must be FastRCNNConvFCHead for StandardROIHeads and CascadeROIHeads",
    ),
    (
        (RCNN,),
        lambda m: m.ROI_BOX_HEAD.NAME == "FastRCNNConvFCHead" and m.ROI_BOX_HEAD.NUM_CONV + m.ROI_BOX_HEAD.NUM_FC == 0,
        "MODEL.ROI_BOX_HEAD needs NUM_CONV or NUM_FC above 0",
    ),
    (
        (RCNN,),
        lambda m: m.ROI_BOX_HEAD.USE_FED_LOSS and not m.ROI_BOX_HEAD.USE_SIGMOID_CE,
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS needs USE_SIGMOID_CE True",
    ),
    (
        (RCNN,),
        lambda m: m.ROI_HEADS.NAME.startswith("Res5") and "fpn" in m.BACKBONE.NAME,
        "MODEL.ROI_HEADS.NAME Res5ROIHeads runs on res4, not on a feature pyramid",
    ),
    (
        (RCNN,),
        lambda m: m.ROI_HEADS.NAME.startswith("Res5") and m.KEYPOINT_ON,
        "MODEL.KEYPOINT_ON needs MODEL.ROI_HEADS.NAME StandardROIHeads or CascadeROIHeads",
    ),
    (
        (RCNN,),
        lambda m: m.ROI_HEADS.NAME == CASCADE and not m.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG must be True for CascadeROIHeads",
    ),
    (
        (RCNN,),
        lambda m: m.ROI_HEADS.NAME == CASCADE and m.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES,
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES has no effect on CascadeROIHeads; leave it at False",
    ),
    (
        (RCNN,),
        lambda m: (
            m.ROI_HEADS.NAME == CASCADE
            and not len(m.ROI_BOX_CASCADE_HEAD.IOUS) == len(m.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS) > 0
        ),
        "MODEL.ROI_BOX_CASCADE_HEAD needs as many IOUS as BBOX_REG_WEIGHTS, one for each stage",
    ),
    (
        (RCNN,),
        lambda m: (
            m.ROI_HEADS.NAME == CASCADE
            and (
                list(m.ROI_HEADS.IOU_THRESHOLDS) != list(m.ROI_BOX_CASCADE_HEAD.IOUS[:1])
                or list(m.ROI_HEADS.IOU_LABELS) != [0, 1]
            )
        ),
        "MODEL.ROI_HEADS.IOU_THRESHOLDS must be the first of MODEL.ROI_BOX_CASCADE_HEAD.IOUS, and IOU_LABELS [0, 1]",
    ),
    (
        (RCNN,),
        lambda m: m.ROI_HEADS.NAME == CASCADE and tuple(m.ROI_BOX_HEAD.BBOX_REG_WEIGHTS) != BOX_WEIGHTS.default,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS has no effect on CascadeROIHeads; set those of MODEL.ROI_BOX_CASCADE_HEAD",
    ),
    (
        (RETINANET, PROPOSALS),
        lambda m: m.MASK_ON or m.KEYPOINT_ON or m.LOAD_PROPOSALS,
        "MODEL.MASK_ON, KEYPOINT_ON and LOAD_PROPOSALS must be False for RetinaNet and ProposalNetwork",
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
    _check_proposals(cfg, engine)
    for architectures, conflicts, message in CONFLICTS:
        if cfg.MODEL.META_ARCHITECTURE in architectures and conflicts(cfg.MODEL):
            raise UserError(f"{message} (engine {engine})")
    if cfg.TEST.AUG.ENABLED:
        for key, plain in AUGMENTABLE.items():
            value = cfg.MODEL[key]
            if value != plain:
                raise UserError(f"TEST.AUG.ENABLED is not supported by engine {engine} with MODEL.{key} {value}")


def _check_proposals(cfg: Any, engine: str) -> None:
    """What reads proposals is what loads them, and every data set has its file."""
    loads, reads = cfg.MODEL.LOAD_PROPOSALS, cfg.MODEL.PROPOSAL_GENERATOR.NAME == READER
    if cfg.MODEL.META_ARCHITECTURE == RCNN and loads != reads:
        raise UserError(
            f"MODEL.LOAD_PROPOSALS True and MODEL.PROPOSAL_GENERATOR.NAME {READER} belong together; set both or "
            f"neither (engine {engine})"
        )
    for part in ("TRAIN", "TEST") if loads else ():
        names, files = cfg.DATASETS[part], cfg.DATASETS[f"PROPOSAL_FILES_{part}"]
        if len(names) != len(files):
            raise UserError(
                f"MODEL.LOAD_PROPOSALS needs a file for each data set: DATASETS.PROPOSAL_FILES_{part} has "
                f"{len(files)}, DATASETS.{part} {len(names)}"
            )


def finds_proposals(cfg: Any) -> bool:
    """Whether the detector is a region proposal network alone: boxes without classes."""
    return bool(cfg.MODEL.META_ARCHITECTURE == PROPOSALS)


def class_count_keys(cfg: Any) -> list[str]:
    """The keys that must equal the number of classes of the data; none where there are no classes."""
    if finds_proposals(cfg):
        return []
    sections = ["ROI_HEADS", "RETINANET"] if cfg.MODEL.META_ARCHITECTURE == RETINANET else ["ROI_HEADS"]
    return [f"MODEL.{section}.NUM_CLASSES" for section in sections]
