"""What a run is called among published rows: another detector is never taken for one of the MoCo tables."""

from __future__ import annotations

from typing import Any

import pytest

from tests.transfer.run_store import make_record
from transfer.config import load_config, recipe
from transfer.literature.detector_names import detector_name, protocol_name
from transfer.literature.explain import setup_of_run
from transfer.literature.protocols import matching, protocol_of
from transfer.literature.rows import load

NAMES = {
    "coco_R50_FPN.yaml": ("Mask R-CNN R50-FPN", "moco"),
    "coco_faster_R50_C4.yaml": ("Faster R-CNN R50-C4", "moco"),
    "voc_R50_DC5.yaml": ("Faster R-CNN R50-dilated-C5", "moco"),
    "coco_keypoints_R50_FPN_2x.yaml": ("Keypoint R-CNN R50-FPN", "moco"),
    "coco_cascade_R50_FPN.yaml": ("Cascade Mask R-CNN R50-FPN", "moco"),
    "coco_RetinaNet_R50.yaml": ("RetinaNet R50", "moco"),
    "coco_R50_FPN_4conv1fc.yaml": (
        "Mask R-CNN R50-FPN (4conv1fc-SyncBN heads)",
        "4conv1fc box head + SyncBN in box/mask heads (InfoMin/PyContrast recipe)",
    ),
}
PYRAMID = ["MODEL.BACKBONE.NAME", "build_swin_fpn_backbone"]


def flat(config: str, *opts: str) -> dict[str, Any]:
    return recipe(load_config(config, opts))


@pytest.mark.parametrize("config", NAMES)
def test_committed_configs(config: str) -> None:
    values = flat(config)
    assert (detector_name(values), protocol_name(values)) == NAMES[config]


@pytest.mark.parametrize(
    ("opts", "name"),
    [
        (["MODEL.BACKBONE.NAME", "build_vit_sfp_backbone"], "Mask R-CNN ViT-B ViTDet"),
        (
            ["MODEL.BACKBONE.NAME", "build_vit_sfp_backbone", "MODEL.VIT.EMBED_DIM", "1024", "MODEL.VIT.DEPTH", "24"],
            "Mask R-CNN ViT-L ViTDet",
        ),
        (["MODEL.BACKBONE.NAME", "build_vit_sfp_backbone", "MODEL.VIT.DEPTH", "5"], "Mask R-CNN ViT-768x5 ViTDet"),
        (
            ["MODEL.BACKBONE.NAME", "build_vit_sfp_backbone", "MODEL.ROI_HEADS.NAME", "CascadeROIHeads"],
            "Cascade Mask R-CNN ViT-B ViTDet",
        ),
        (PYRAMID, "Mask R-CNN Swin-T-FPN"),
        ([*PYRAMID, "MODEL.SWIN.DEPTHS", "[2, 2, 18, 2]"], "Mask R-CNN Swin-S-FPN"),
        (["MODEL.BACKBONE.NAME", "build_convnext_fpn_backbone"], "Mask R-CNN ConvNeXt-T-FPN"),
        (
            ["MODEL.BACKBONE.NAME", "build_convnext_fpn_backbone", "MODEL.CONVNEXT.GRN", "True"],
            "Mask R-CNN ConvNeXtV2-T-FPN",
        ),
        (["MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"], "Mask R-CNN X50-32x8d-FPN"),
        (["MODEL.KEYPOINT_ON", "True"], "Mask/Keypoint R-CNN R50-FPN"),
    ],
)
def test_other_detectors_have_names_of_their_own(opts: list[str], name: str) -> None:
    values = flat("coco_R50_FPN.yaml", *opts)
    assert detector_name(values) == name
    own = protocol_of(make_record(flat=values, iterations=90000))
    assert not matching(load(), own)[0] or name == "Mask/Keypoint R-CNN R50-FPN"


@pytest.mark.parametrize(
    ("opts", "said"),
    [
        (["SOLVER.OPTIMIZER", "AdamW"], "moco but SOLVER.OPTIMIZER AdamW"),
        (["SOLVER.BASE_LR", "0.04"], "moco but SOLVER.BASE_LR 0.04 for 16 images"),
        (["INPUT.LSJ.ENABLED", "True"], "moco but INPUT.LSJ.ENABLED True"),
        (["INPUT.CROP.ENABLED", "True"], "moco but INPUT.CROP.ENABLED True"),
        (["MODEL.BACKBONE.FREEZE_AT", "2"], "norm SyncBN, FREEZE_AT 2, PreciseBN True"),
        (["SOLVER.IMS_PER_BATCH", "8", "SOLVER.BASE_LR", "0.01"], "moco"),  # the linear rule
    ],
)
def test_a_departure_from_the_protocol_is_part_of_its_name(opts: list[str], said: str) -> None:
    values = flat("coco_R50_FPN.yaml", *opts)
    assert protocol_name(values) == said
    own = protocol_of(make_record(flat=values, iterations=90000))
    assert bool(matching(load(), own)[0]) == (said == "moco" and values["SOLVER.IMS_PER_BATCH"] == 16)


def test_a_run_of_vitdet_is_described_in_the_words_of_its_rows() -> None:
    opts = ["INPUT.LSJ.ENABLED", "True", "SOLVER.OPTIMIZER", "AdamW", "SOLVER.LAYER_DECAY", "0.7"]
    values = flat("coco_R50_FPN.yaml", "MODEL.BACKBONE.NAME", "build_vit_sfp_backbone", *opts)
    setup = setup_of_run(make_record(flat=values, iterations=90000))
    assert (setup["image_size"], setup["augmentation"]) == ("1024 px", "LSJ")
    assert (setup["backbone"], setup["neck"]) == ("ViT-B", "ViTDet")
    assert setup["optimiser"] == "AdamW with layer decay"
    assert not setup.keys() & {"backbone_norm", "frozen_stages", "stride"}
    other = {**values, "INPUT.LSJ.MIN_SCALE": 0.8}
    assert setup_of_run(make_record(flat=other))["augmentation"] == "LSJ, scale 0.8-2.0, horizontal flip"
