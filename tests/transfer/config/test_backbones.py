"""Settings of ViT, Swin and ConvNeXt that do not fit are named before anything is built."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runtime.errors import UserError
from tests.transfer.engines.backbone_cases import CONVNEXT, SWIN, VIT
from tests.transfer.engines.engine_cases import COMMON
from transfer.config import default_config
from transfer.engines.training.checks import check_values

ONE_SQUARE = ["INPUT.MAX_SIZE_TRAIN", 128, "INPUT.MAX_SIZE_TEST", 128]


def check(case: dict[str, object], changes: Sequence[object]) -> None:
    cfg = default_config()
    for key, value in {**COMMON, **case}.items():
        cfg.merge_from_list([key, value])
    cfg.merge_from_list(list(changes))
    check_values(cfg, 1, train=True)


@pytest.mark.parametrize("case", [VIT, SWIN, CONVNEXT], ids=["vit", "swin", "convnext"])
def test_the_cases_of_the_comparison_pass(case: dict[str, object]) -> None:
    check(case, ONE_SQUARE)


def test_the_longest_side_of_jittered_images_is_that_of_their_window() -> None:
    check(VIT, [*ONE_SQUARE, "INPUT.MAX_SIZE_TRAIN", 1333, "INPUT.LSJ.ENABLED", True, "INPUT.LSJ.SIZE", 128])


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (VIT, ["MODEL.VIT.PATCH_SIZE", 14], "MODEL.VIT.PATCH_SIZE 14 must be one of 8, 16, 32"),
        (VIT, ["MODEL.VIT.NUM_HEADS", 5], "MODEL.VIT.NUM_HEADS 5 does not divide the width 48"),
        (VIT, ["MODEL.VIT.DEPTH", 0], "MODEL.VIT.DEPTH 0 must be 1 or more"),
        (
            VIT,
            ["MODEL.VIT.WINDOW_BLOCKS", [4]],
            "must hold numbers of the blocks 0 to 3",
        ),
        (VIT, ["MODEL.VIT.WINDOW_SIZE", 0], "MODEL.VIT.WINDOW_SIZE must be 1 or more"),
        (VIT, ["MODEL.VIT.CLS_TOKEN", True], "MODEL.VIT.CLS_TOKEN True needs global attention"),
        (VIT, ["MODEL.VIT.REGISTERS", 4], "MODEL.VIT.REGISTERS 4 needs global attention"),
        (VIT, ["MODEL.VIT.ROPE", True], "MODEL.VIT.ROPE True takes the place .* set MODEL.VIT.USE_ABS_POS to False"),
        (
            VIT,
            ["MODEL.VIT.ROPE", True, "MODEL.VIT.USE_ABS_POS", False],
            "MODEL.VIT.ROPE True takes the place of other positions: set MODEL.VIT.USE_REL_POS to False",
        ),
        (
            {**VIT, "MODEL.VIT.USE_ABS_POS": False, "MODEL.VIT.USE_REL_POS": False},
            ["MODEL.VIT.ROPE", True, "MODEL.VIT.NUM_HEADS", 8],
            "heads of a multiple of 4 channels; MODEL.VIT.EMBED_DIM 48 and NUM_HEADS 8 give 6",
        ),
        (VIT, ["MODEL.VIT.PRETRAIN_IMG_SIZE", 8], "smaller than one patch"),
        (VIT, ["MODEL.SFP.SCALE_FACTORS", [4.0, 1.0]], "must be neighbours of"),
        (VIT, ["MODEL.FPN.NORM", ""], "whose pyramid has a norm between two layers; use LN"),
        (VIT, ["MODEL.BACKBONE.FREEZE_AT", 2], "counts the stages of a ResNet; set it to 0"),
        (VIT, ["MODEL.BACKBONE.SQUARE_PAD", 100], "MODEL.BACKBONE.SQUARE_PAD 100 must be a multiple of 32"),
        (VIT, ["INPUT.MAX_SIZE_TEST", 200], "INPUT.MAX_SIZE_TEST 200 does not fit into MODEL.BACKBONE.SQUARE_PAD 128"),
        (
            VIT,
            ["INPUT.LSJ.ENABLED", True, "INPUT.LSJ.SIZE", 160],
            "INPUT.LSJ.SIZE 160 does not fit into MODEL.BACKBONE.SQUARE_PAD 128",
        ),
        (VIT, ["MODEL.RPN.IN_FEATURES", ["p7"]], "among the maps of this backbone, p2, p3, p4, p5, p6"),
        (SWIN, ["MODEL.SWIN.DEPTHS", [2, 2]], "must hold four whole numbers above 0, one for each stage"),
        (SWIN, ["MODEL.SWIN.NUM_HEADS", [1, 2, 3, 5]], "MODEL.SWIN.NUM_HEADS 5 does not divide the width 96"),
        (SWIN, ["MODEL.SWIN.WINDOW_SIZE", 1], "MODEL.SWIN.WINDOW_SIZE 1 must be 2 or more"),
        (SWIN, ["MODEL.FPN.IN_FEATURES", ["p0", "p2", "p3"]], "must be the last ones of p0, p1, p2, p3, in order"),
        (SWIN, ["SOLVER.LAYER_DECAY", 0.7], "SOLVER.LAYER_DECAY 0.7 is for build_vit_sfp_backbone"),
        (CONVNEXT, ["MODEL.CONVNEXT.DIMS", [8, 16, 24, 0]], "must hold four whole numbers above 0"),
        (CONVNEXT, ["MODEL.CONVNEXT.DROP_PATH_RATE", 1.5], "must be between 0 and 1"),
        (CONVNEXT, ["SOLVER.LAYER_DECAY", 0.0], "SOLVER.LAYER_DECAY 0.0 must be above 0 and at most 1"),
        (CONVNEXT, ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.NESTEROV", True], "SOLVER.NESTEROV is a setting of SGD"),
        (CONVNEXT, ["SOLVER.BETAS", (0.9, 1.0)], "must be two numbers from 0 to below 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(case: dict[str, object], changes: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(case, [*ONE_SQUARE, *changes])
