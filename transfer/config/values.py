"""Bounds of single values: what would stop a run after it has begun, for both engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from runtime.arguments import RATES, is_rate
from runtime.errors import UserError
from transfer.config.schema import KEYS, PART_OF

Values = Mapping[str, Any]  # leaf key -> value, tuples as lists

AT_LEAST_ONE = (
    "SOLVER.MAX_ITER",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.PRECISE_BN.NUM_ITER",
    "ENGINE.ACCUMULATE",
    "INPUT.MAX_SIZE_TRAIN",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES",
)
ABOVE_ZERO = (
    "SOLVER.GAMMA",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
)
NOT_NEGATIVE = (
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER",
    "SOLVER.BASE_LR_END",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_NORM",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.WARMUP_FACTOR",
    "SOLVER.REFERENCE_WORLD_SIZE",
    "DATALOADER.REPEAT_THRESHOLD",
    "MODEL.RPN.SMOOTH_L1_BETA",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA",
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
    "TEST.EVAL_PERIOD",
)
MAY_BE_NONE = ("SOLVER.WEIGHT_DECAY_NORM",)  # norm layers then decay as all other weights do
MAXIMUM_NORM = "SOLVER.CLIP_GRADIENTS.NORM_TYPE"  # the one number that may be infinite: the largest gradient
SHARES = ("SOLVER.MOMENTUM", "MODEL.RPN.POSITIVE_FRACTION", "MODEL.ROI_HEADS.POSITIVE_FRACTION")
TEST_AT_LEAST_ONE = (
    "INPUT.MAX_SIZE_TEST",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST",
    "MODEL.RETINANET.NUM_CLASSES",
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
    "MODEL.RETINANET.NUM_CONVS",
)
TEST_NOT_NEGATIVE = ("INPUT.MIN_SIZE_TEST", "DATALOADER.NUM_WORKERS", "MODEL.BACKBONE.FREEZE_AT")
TEST_SHARES = ("MODEL.RPN.NMS_THRESH", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST")
RETINANET_SHARES = ("MODEL.RETINANET.NMS_THRESH_TEST", "MODEL.RETINANET.SCORE_THRESH_TEST")
ONE, ZERO, POSITIVE, SHARE = "1 or more", "0 or more", "above 0", "between 0 and 1"
BASE_LR = "SOLVER.BASE_LR"
TESTS: dict[str, Callable[[float], bool]] = {
    ONE: lambda value: value >= 1,
    ZERO: lambda value: value >= 0,
    POSITIVE: lambda value: value > 0,
    SHARE: lambda value: 0 <= value <= 1,
    RATES: is_rate,
}
TO_TEST = {
    **dict.fromkeys(TEST_AT_LEAST_ONE, ONE),
    **dict.fromkeys(TEST_NOT_NEGATIVE, ZERO),
    **dict.fromkeys((*TEST_SHARES, *RETINANET_SHARES), SHARE),
}
TO_TRAIN = {
    **dict.fromkeys(AT_LEAST_ONE, ONE),
    **dict.fromkeys(ABOVE_ZERO, POSITIVE),
    **dict.fromkeys(NOT_NEGATIVE, ZERO),
    **dict.fromkeys(SHARES, SHARE),
    BASE_LR: RATES,
}


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number, and not True or False."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_bounds(values: Values, *, train: bool) -> None:
    """Raise UserError naming the first key whose value no run could use; ``train`` adds the keys of training."""
    _check_finite(values)
    for key, bound in {**TO_TEST, **(TO_TRAIN if train else {})}.items():
        if not _is_off(key, values):
            check_bound(key, values[key], bound)
    _check_input(values, train)


def _is_off(key: str, values: Values) -> bool:
    return key in PART_OF and not values[PART_OF[key]]


def _check_finite(values: Values) -> None:
    for key, value in values.items():
        if key == MAXIMUM_NORM or _is_off(key, values):
            continue
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{key} {value} is not a finite number")


def check_bound(key: str, value: Any, bound: str) -> None:
    """Raise UserError unless ``value`` is a number within ``bound``, a key of ``TESTS``; None passes where it may."""
    if value is None and (KEYS[key].default is None or key in MAY_BE_NONE):
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not TESTS[bound](value):
        raise UserError(f"{key} {value} must be {bound}")


def _check_input(values: Values, train: bool) -> None:
    """Image sizes, pixel mean and std."""
    key = "INPUT.MIN_SIZE_TRAIN"
    sizes = values[key] if isinstance(values[key], list) else [values[key]]
    if train and not (sizes and all(isinstance(size, int) and size > 0 for size in sizes)):
        raise UserError(f"{key} {tuple(sizes)} must hold at least one size, all above 0")
    if train and values[f"{key}_SAMPLING"] == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        raise UserError(f"{key} {tuple(sizes)} must be (low, high) when sampled as a range")
    if values["TEST.AUG.ENABLED"] and not values["TEST.AUG.MIN_SIZES"]:
        raise UserError("TEST.AUG.MIN_SIZES () must hold at least one size when TEST.AUG.ENABLED")
    mean, std = values["MODEL.PIXEL_MEAN"], values["MODEL.PIXEL_STD"]
    if len(mean) != len(std) or not mean or not all(s > 0 for s in std):
        raise UserError(f"MODEL.PIXEL_STD {std} must hold a number above 0 for each of MODEL.PIXEL_MEAN {mean}")
