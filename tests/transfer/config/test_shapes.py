"""Parts of a detector that do not fit together are named before anything is built."""

import pytest

from runtime.errors import UserError
from transfer.config import load_config
from transfer.engines.torchvision.support import check_support
from transfer.engines.training.checks import check_values


@pytest.mark.parametrize(
    ("config", "key", "value", "message"),
    [
        ("coco_R50_FPN", "MODEL.RPN.IN_FEATURES", "['p9']", "among the maps of this backbone, p2, p3, p4, p5, p6"),
        ("coco_R50_FPN", "MODEL.RPN.IN_FEATURES", "[]", "among the maps"),
        ("coco_R50_FPN", "MODEL.ROI_HEADS.IN_FEATURES", "['res4']", "among the maps"),
        ("voc_R50_C4", "MODEL.ROI_HEADS.IN_FEATURES", "['res5']", "among the maps of this backbone, res4"),
        ("coco_R50_FPN", "MODEL.FPN.IN_FEATURES", "['res2', 'res4']", "must be consecutive stages"),
        ("coco_R50_FPN", "MODEL.FPN.IN_FEATURES", "[]", "among MODEL.RESNETS.OUT_FEATURES"),
        ("coco_R50_FPN", "MODEL.RESNETS.OUT_FEATURES", "[]", "among the stages of a ResNet"),
        ("voc_R50_C4", "MODEL.RESNETS.OUT_FEATURES", "['res9']", "among the stages of a ResNet"),
        ("coco_R50_FPN", "MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64]]", "in one list or in 5"),
        ("coco_R50_FPN", "MODEL.ANCHOR_GENERATOR.SIZES", "[]", "must be numbers above 0"),
        ("coco_R50_FPN", "MODEL.ANCHOR_GENERATOR.SIZES", "[[0]]", "must be numbers above 0"),
        ("coco_R50_FPN", "MODEL.ANCHOR_GENERATOR.SIZES", "[[1e999]]", "must be numbers above 0"),
        ("coco_R50_FPN", "MODEL.ANCHOR_GENERATOR.SIZES", "[[1], [1, 2], [1], [1], [1]]", "as many anchors"),
        ("voc_R50_C4", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.0]]", "must be numbers above 0"),
        ("voc_R50_C4", "MODEL.ANCHOR_GENERATOR.OFFSET", "2.0", r"must be in \[0, 1\)"),
        ("voc_R50_C4", "MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "must rise between 0 and 1"),
        ("voc_R50_C4", "MODEL.ROI_HEADS.IOU_THRESHOLDS", "['a']", "must rise between 0 and 1"),
        ("voc_R50_C4", "MODEL.RPN.IOU_LABELS", "[0, 1]", "for each of the 3 intervals"),
        ("voc_R50_C4", "MODEL.RPN.CONV_DIMS", "[]", "must hold widths"),
        ("voc_R50_C4", "MODEL.RPN.CONV_DIMS", "[0]", "must hold widths"),
        ("voc_R50_C4", "MODEL.RPN.BBOX_REG_WEIGHTS", "(1.0, 1.0)", "must be four numbers above 0"),
        ("coco_R50_FPN", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "(0.0, 1.0, 1.0, 1.0)", "must be four numbers"),
        ("coco_R50_FPN", "MODEL.FPN.OUT_CHANNELS", "0", "must be 1 or more"),
        ("coco_R50_FPN", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "0", "must be 1 or more"),
        ("coco_R50_FPN", "MODEL.DEVICE", "gpu", "use cpu or cuda"),
        (
            "coco_R50_FPN",
            "MODEL.ROI_HEADS.IN_FEATURES",
            "['p5', 'p4', 'p3', 'p2']",
            "consecutive levels in rising order",
        ),
        ("coco_R50_FPN", "MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p5']", "consecutive levels in rising order"),
        ("coco_R50_FPN", "MODEL.ROI_HEADS.IN_FEATURES", "['p3', 'p3']", "consecutive levels in rising order"),
        ("coco_R50_FPN", "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4']", "must end with res5"),
        ("coco_R50_FPN", "MODEL.RESNETS.RES5_DILATION", "2", "must be 1 with a feature pyramid"),
    ],
)
def test_parts_that_do_not_fit_are_named(config, key, value, message):
    with pytest.raises(UserError, match=message) as caught:
        check_values(load_config(config, [key, value]), 1, train=True)
    assert str(caught.value).startswith(key.rsplit(".", 1)[0])


def test_group_norm_needs_whole_groups():
    opts = ["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", "48"]
    with pytest.raises(UserError, match=r"MODEL.FPN.NORM GN needs a multiple of 32 channels, .* is 48"):
        check_values(load_config("coco_R50_FPN", opts), 1, train=True)
    check_values(load_config("coco_R50_FPN", [*opts[:3], "64"]), 1, train=True)
    no_convs = ["MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_BOX_HEAD.CONV_DIM", "48"]
    check_values(load_config("coco_R50_FPN", no_convs), 1, train=True)


def test_augmentation_needs_sizes():
    with pytest.raises(UserError, match=r"TEST.AUG.MIN_SIZES \(\)"):
        check_values(
            load_config("voc_R50_C4", ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "()"]), 1, train=False
        )


def test_one_list_of_anchors_serves_every_map():
    for sizes in ("[32]", "[[32]]", "[[32, 64]]"):
        check_values(load_config("coco_R50_FPN", ["MODEL.ANCHOR_GENERATOR.SIZES", sizes]), 1, train=True)


@pytest.mark.parametrize("key", ["MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES"])
def test_without_a_pyramid_one_map_is_read(key):
    outputs = ["MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4']"]
    with pytest.raises(UserError, match=rf"{key} \['res4', 'res3'\] must be one map"):
        check_values(load_config("voc_R50_C4", [*outputs, key, "['res4', 'res3']"]), 1, train=True)
    check_values(load_config("voc_R50_C4", outputs), 1, train=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("STEM_OUT_CHANNELS", "16"), ("RES2_OUT_CHANNELS", "48"), ("WIDTH_PER_GROUP", "8")],
)
def test_group_norm_needs_whole_groups_in_the_backbone(key, value):
    with pytest.raises(UserError, match=rf"MODEL.RESNETS.NORM GN .*{key} is {value}"):
        check_values(
            load_config("coco_R50_FPN", ["MODEL.RESNETS.NORM", "GN", f"MODEL.RESNETS.{key}", value]), 1, train=True
        )


def test_anchors_may_be_divided_differently_over_sizes_and_ratios():
    maps = ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16, 32], [64], [128], [256]]"]
    ratios = "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"
    check_values(load_config("coco_R50_FPN", [*maps, ratios, "[[1, 2], [1], [1, 2], [1, 2], [1, 2]]"]), 1, train=True)
    with pytest.raises(UserError, match="as many anchors"):
        check_values(load_config("coco_R50_FPN", [*maps, ratios, "[[1], [1], [1, 2], [1, 2], [1, 2]]"]), 1, train=True)


@pytest.mark.parametrize(
    ("opts", "switch"),
    [
        (["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[100.0, 0.5]"], "INPUT.CROP.ENABLED"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"], "SOLVER.CLIP_GRADIENTS.ENABLED"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0"], "SOLVER.CLIP_GRADIENTS.ENABLED"),
        (["MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES", "10"], "MODEL.ROI_BOX_HEAD.USE_FED_LOSS"),
        (["DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "10"], "MODEL.LOAD_PROPOSALS"),
    ],
)
def test_a_setting_of_a_feature_that_is_off_may_be_anything(opts, switch):
    def check(opts):
        cfg = load_config("coco_R50_FPN", opts)
        check_support(cfg)
        check_values(cfg, 1, train=True)

    check(opts)
    with pytest.raises(UserError, match=r"INPUT\.CROP|CLIP_|FED_LOSS|LOAD_PROPOSALS|PROPOSAL"):
        check([*opts, switch, "True"])


def test_values_that_detectron2_defines_are_taken():
    cfg = load_config("coco_R50_FPN", ["SOLVER.WEIGHT_DECAY_NORM", "None", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"])
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = float("inf")
    check_values(cfg, 1, train=True)
    for value in (float("nan"), 0.0):
        cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = value
        with pytest.raises(UserError, match="NORM_TYPE"):
            check_values(cfg, 1, train=True)


def test_pictures_are_refused_by_the_engine_that_makes_none():
    with pytest.raises(
        UserError, match="VIS_PERIOD 20 is not supported by engine torchvision; use --engine detectron2"
    ):
        check_support(load_config("coco_R50_FPN", ["VIS_PERIOD", "20"]))
