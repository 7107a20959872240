"""Parts of a detector that do not fit together: feature maps that no stage produces, anchors per map, empty lists."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from runtime.errors import UserError
from transfer.config.backbones import BACKBONES, produced_maps
from transfer.config.values import ONE, Values, check_bound, is_number

STAGES = ("stem", "res2", "res3", "res4", "res5")
ONE_MAP = ("build_resnet_backbone", "build_resnet_dilated_c5_backbone")
RESNETS = (*ONE_MAP, "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")
KEYPOINT_COUNTS = ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION")
KEYPOINT_WIDTHS = "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS"
GROUPS = 32  # of GN
# what an architecture reads: sections with IOU_THRESHOLDS and BBOX_REG_WEIGHTS, and maps; the first has anchors
SECTIONS = {
    "GeneralizedRCNN": ("MODEL.RPN", "MODEL.ROI_HEADS"),
    "ProposalNetwork": ("MODEL.RPN",),
    "RetinaNet": ("MODEL.RETINANET",),
}
WEIGHTED = {"MODEL.ROI_HEADS": "MODEL.ROI_BOX_HEAD"}  # where the box weights are, if not in the section itself
WIDTHS = (
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
)
# (key of a norm, what it normalises, how many of these layers there are)
NORMED = (
    ("MODEL.FPN.NORM", "MODEL.FPN.OUT_CHANNELS", None),
    ("MODEL.RETINANET.NORM", "MODEL.FPN.OUT_CHANNELS", "MODEL.RETINANET.NUM_CONVS"),
    ("MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_BOX_HEAD.CONV_DIM", "MODEL.ROI_BOX_HEAD.NUM_CONV"),
    ("MODEL.ROI_MASK_HEAD.NORM", "MODEL.ROI_MASK_HEAD.CONV_DIM", "MODEL.ROI_MASK_HEAD.NUM_CONV"),
)


def check_shapes(values: Values) -> None:
    """Raise UserError naming the first key that does not fit the others; semantic architectures are not checked."""
    sections = SECTIONS.get(values["MODEL.META_ARCHITECTURE"])
    if sections is None:
        return
    for key in WIDTHS:
        check_bound(key, values[key], ONE)
    if not values["MODEL.RPN.CONV_DIMS"] or not all(
        width == -1 or width > 0 for width in values["MODEL.RPN.CONV_DIMS"]
    ):
        raise UserError(f"MODEL.RPN.CONV_DIMS {values['MODEL.RPN.CONV_DIMS']} must hold widths, or -1 for the input's")
    for section in sections:
        key = f"{WEIGHTED.get(section, section)}.BBOX_REG_WEIGHTS"
        _check_box_weights(key, values[key])
        _check_cuts(section, values[f"{section}.IOU_THRESHOLDS"], values[f"{section}.IOU_LABELS"])
    for norm, width, count in NORMED:
        if values[norm] == "GN" and values[width] % GROUPS and (count is None or values[count]):
            raise UserError(f"{norm} GN needs a multiple of {GROUPS} channels, but {width} is {values[width]}")
    _check_stage_norm(values)
    if any(values["MODEL.RESNETS.DEFORM_ON_PER_STAGE"]):
        _check_deformable(values)
    prior = values["MODEL.RETINANET.PRIOR_PROB"]
    if not 0 < prior < 1:
        raise UserError(f"MODEL.RETINANET.PRIOR_PROB {prior} must be above 0 and below 1")
    if values["MODEL.ROI_HEADS.NAME"] == "CascadeROIHeads":
        _check_cascade(values)
    if values["MODEL.KEYPOINT_ON"]:
        for key in KEYPOINT_COUNTS:
            check_bound(key, values[key], ONE)
        if not all(isinstance(width, int) and width > 0 for width in values[KEYPOINT_WIDTHS]):
            raise UserError(f"{KEYPOINT_WIDTHS} {tuple(values[KEYPOINT_WIDTHS])} must hold widths above 0")
    _check_features(values, [f"{section}.IN_FEATURES" for section in sections])
    _check_anchors(values, f"{sections[0]}.IN_FEATURES")


def _check_box_weights(key: str, weights: Sequence[Any]) -> None:
    if len(weights) != 4 or not all(is_number(v) and v > 0 for v in weights):
        raise UserError(f"{key} {tuple(weights)} must be four numbers above 0")


def _check_cascade(values: Values) -> None:
    key, ious = "MODEL.ROI_BOX_CASCADE_HEAD", values["MODEL.ROI_BOX_CASCADE_HEAD.IOUS"]
    for weights in values[f"{key}.BBOX_REG_WEIGHTS"]:
        _check_box_weights(f"{key}.BBOX_REG_WEIGHTS", weights if isinstance(weights, list) else [weights])
    if not all(is_number(iou) and 0 < iou <= 1 for iou in ious):
        raise UserError(f"{key}.IOUS {tuple(ious)} must be between 0 and 1")


def _check_deformable(values: Values) -> None:
    stages, groups = values["MODEL.RESNETS.DEFORM_ON_PER_STAGE"], values["MODEL.RESNETS.DEFORM_NUM_GROUPS"]
    if len(stages) != 4 or not all(isinstance(on, bool) for on in stages):
        raise UserError(f"MODEL.RESNETS.DEFORM_ON_PER_STAGE {stages} must be True or False for each of res2 .. res5")
    width = values["MODEL.RESNETS.NUM_GROUPS"] * values["MODEL.RESNETS.WIDTH_PER_GROUP"]
    if not isinstance(groups, int) or groups < 1 or width % groups:
        raise UserError(f"MODEL.RESNETS.DEFORM_NUM_GROUPS {groups} must divide the {width} channels of res2")


def _check_cuts(section: str, cuts: Sequence[Any], labels: Sequence[Any]) -> None:
    rising = all(map(is_number, cuts)) and all(0 < a <= b for a, b in itertools.pairwise([*cuts, 1.0]))
    if not cuts or not rising:
        raise UserError(f"{section}.IOU_THRESHOLDS {list(cuts)} must rise between 0 and 1")
    if len(labels) != len(cuts) + 1 or not all(label in (-1, 0, 1) for label in labels):
        raise UserError(
            f"{section}.IOU_LABELS {list(labels)} must be -1, 0 or 1 for each of the {len(cuts) + 1} intervals of "
            f"IOU_THRESHOLDS {list(cuts)}"
        )


def _check_features(values: Values, readers: Sequence[str]) -> None:
    """Every feature map that is read must exist: stages from the ResNet, p2 ... from the pyramid."""
    backbone, produced = values["MODEL.BACKBONE.NAME"], values["MODEL.RESNETS.OUT_FEATURES"]
    if backbone in BACKBONES:
        _check_readers(values, readers, produced_maps(values))
        return
    if backbone not in RESNETS:
        return
    _check_known("MODEL.RESNETS.OUT_FEATURES", produced, STAGES, "the stages of a ResNet")
    if "fpn" in backbone:
        key = "MODEL.FPN.IN_FEATURES"
        _check_known(key, values[key], produced, "MODEL.RESNETS.OUT_FEATURES")
        levels = [STAGES.index(name) + 1 for name in values[key]]
        if levels != list(range(levels[0], levels[0] + len(levels))) or levels[0] < 2:
            raise UserError(f"{key} {values[key]} must be consecutive stages from res2 on")
        if levels[-1] != 5:  # Detectron2 makes p6 from p5
            raise UserError(f"{key} {values[key]} must end with res5")
        if values["MODEL.RESNETS.RES5_DILATION"] != 1:
            raise UserError("MODEL.RESNETS.RES5_DILATION must be 1 with a feature pyramid: every level halves the map")
        tops = 2 if "retinanet" in backbone else 1
        produced = [f"p{level}" for level in range(levels[0], levels[-1] + tops + 1)]
    _check_readers(values, readers, produced)


def _check_readers(values: Values, readers: Sequence[str], produced: Sequence[str]) -> None:
    """What reads maps finds them among those that the backbone has ``produced``."""
    for key in readers[1:] if values["MODEL.LOAD_PROPOSALS"] else readers:
        _check_known(key, values[key], produced, "the maps of this backbone")
        if values["MODEL.BACKBONE.NAME"] in ONE_MAP and len(values[key]) > 1:  # their widths differ; one head reads all
            raise UserError(f"{key} {list(values[key])} must be one map: without a pyramid their channels differ")
    if "MODEL.ROI_HEADS.IN_FEATURES" in readers:
        _check_pyramid(values["MODEL.ROI_HEADS.IN_FEATURES"])


def _check_pyramid(names: Sequence[str]) -> None:
    """Regions are pooled from the map of their size, which is found by counting levels from the first one."""
    levels = [int(name[1:]) for name in names if name.startswith("p")]
    if len(levels) > 1 and levels != list(range(levels[0], levels[0] + len(levels))):
        raise UserError(f"MODEL.ROI_HEADS.IN_FEATURES {list(names)} must be consecutive levels in rising order")


def _check_stage_norm(values: Values) -> None:
    """GN needs whole groups in every layer of the ResNet, also in those that are frozen."""
    if values["MODEL.RESNETS.NORM"] != "GN":
        return
    section = "MODEL.RESNETS"
    widths = {f"{section}.{name}": values[f"{section}.{name}"] for name in ("STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS")}
    if values[f"{section}.DEPTH"] >= 50:
        inner = values[f"{section}.NUM_GROUPS"] * values[f"{section}.WIDTH_PER_GROUP"]
        widths[f"{section}.NUM_GROUPS x WIDTH_PER_GROUP"] = inner
    for key, width in widths.items():
        if width % GROUPS:
            raise UserError(f"MODEL.RESNETS.NORM GN needs a multiple of {GROUPS} channels, but {key} is {width}")


def _check_known(key: str, names: Sequence[str], known: Sequence[str], what: str) -> None:
    if not names or not set(names) <= set(known):
        raise UserError(f"{key} {list(names)} must be among {what}, {', '.join(known)}")


def _check_anchors(values: Values, reader: str) -> None:
    """Sizes and ratios must be above 0, in one list for all maps or one per map, with as many anchors on each map."""
    maps, counts = len(values[reader]), {}
    for key in ("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"):
        lists = values[key]
        if lists and not isinstance(lists[0], list):
            lists = [lists]
        flat: list[Any] = [number for part in lists for number in (part if isinstance(part, list) else [None])]
        if not flat or not all(is_number(v) and v > 0 for v in flat) or len(lists) not in (1, maps):
            raise UserError(f"{key} {values[key]} must be numbers above 0, in one list or in {maps}, one per map")
        counts[key] = [len(part) for part in lists] * (maps if len(lists) == 1 else 1)
    if len({sizes * ratios for sizes, ratios in zip(*counts.values())}) > 1:
        raise UserError(
            "MODEL.ANCHOR_GENERATOR: every map needs as many anchors (SIZES times ASPECT_RATIOS) as the others"
        )
    if not 0 <= values["MODEL.ANCHOR_GENERATOR.OFFSET"] < 1:
        raise UserError(f"MODEL.ANCHOR_GENERATOR.OFFSET {values['MODEL.ANCHOR_GENERATOR.OFFSET']} must be in [0, 1)")
