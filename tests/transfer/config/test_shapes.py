"""Parts of a detector that do not fit together are named before anything is built."""

import pytest

from runtime.errors import UserError
from transfer.config import load_config
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
        ("coco_R50_FPN", "MODEL.ANCHOR_GENERATOR.SIZES", "[[1], [1, 2], [1], [1], [1]]", "as many SIZES"),
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
