"""The differences between an own run and a published row: each planted one is named, the largest first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from tests.transfer.run_store import make_record, write_run
from transfer.literature.effects import effect_of, effects
from transfer.literature.explain import explain, explanation_text, setup_of_run
from transfer.literature.rows import load, select
from transfer.literature.setups import FIELDS, setup_of

MOCO_FPN = {
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.CROP.ENABLED": False,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.MASK_ON": True,
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "TEST.AUG.ENABLED": False,
    "TEST.PRECISE_BN.ENABLED": True,
}
# field -> the change of the config that plants it
PLANTED: dict[str, dict[str, Any]] = {
    "schedule": {},  # by the number of iterations
    "head": {
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    },
    "backbone_norm": {"MODEL.RESNETS.NORM": "FrozenBN"},
    "frozen_stages": {"MODEL.BACKBONE.FREEZE_AT": 2},
    "precise_bn": {"TEST.PRECISE_BN.ENABLED": False},
    "input": {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]},
    "stride": {"MODEL.RESNETS.STRIDE_IN_1X1": True},
    "image_size": {"INPUT.MIN_SIZE_TRAIN": [800]},
    "augmentation": {"INPUT.RANDOM_FLIP": "none"},
    "lr": {"SOLVER.BASE_LR": 0.01},
    "batch": {"SOLVER.IMS_PER_BATCH": 8},
    "weight_decay": {"SOLVER.WEIGHT_DECAY": 5e-4},
    "test_augmentation": {"TEST.AUG.ENABLED": True},
    "test_size": {"INPUT.MIN_SIZE_TEST": 600},
}
MOCO_V1 = select(load(), paper="MoCo v1", init="MoCo v1", detector="Mask R-CNN R50-FPN", schedule="1x")


def a_run(
    iterations: int = 90000, evaluator: str = "coco/101pt-100", init: str = "moco_v1", **flat: Any
) -> dict[str, Any]:
    return make_record(init=init, flat={**MOCO_FPN, **flat}, iterations=iterations, evaluator=evaluator)


def test_the_papers_own_protocol_has_no_difference() -> None:
    explanation = explain(a_run(), load())
    assert explanation.row["paper"] == "MoCo v1"
    assert (explanation.row["detector"], explanation.row["schedule"]) == ("Mask R-CNN R50-FPN", "1x")
    assert explanation.causes == []
    assert explanation.not_compared == []
    assert set(setup_of_run(a_run())) == set(setup_of(explanation.row))
    assert explanation.differences["APbb"][:2] == (30.0, explanation.row["metrics"]["APbb"])
    assert "Every stated field of the protocol is the same" in explanation_text(explanation, "x")


@pytest.mark.parametrize(
    ("heads", "head"),
    [
        ("Res5ROIHeads", "res5"),
        ("Res5ROIHeadsExtraNorm", "res5 with an extra norm"),
        ("StandardROIHeads", "2 fc"),  # on res4 alone, as the demo's detector
    ],
)
def test_the_head_on_one_map_is_what_the_config_says(heads: str, head: str) -> None:
    one_map = {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.ROI_HEADS.NAME": heads}
    layers = {"MODEL.ROI_BOX_HEAD.NUM_CONV": 0, "MODEL.ROI_BOX_HEAD.NUM_FC": 2, "MODEL.ROI_BOX_HEAD.NORM": ""}
    assert setup_of_run(a_run(**one_map, **layers))["head"] == head


@pytest.mark.parametrize("field", PLANTED)
def test_each_planted_difference_is_named(field: str) -> None:
    run = a_run(iterations=12000 if field == "schedule" else 90000, **PLANTED[field])
    assert [cause.field for cause in explain(run, MOCO_V1).causes] == [field]


def test_all_planted_differences_are_named_largest_first() -> None:
    flat = {key: value for change in PLANTED.values() for key, value in change.items()}
    causes = explain(a_run(iterations=12000, **flat), MOCO_V1).causes
    assert {cause.field for cause in causes} == set(PLANTED)
    known = [abs(cause.effect.points) for cause in causes if cause.effect]
    assert known == sorted(known, reverse=True)
    assert len(known) >= 4
    assert [cause.effect is not None for cause in causes] == [True] * len(known) + [False] * (len(causes) - len(known))
    assert causes[0].field == "schedule"
    assert causes[0].effect is not None
    assert causes[0].effect.points < -10  # 12k is far less than 1x
    head = next(cause for cause in causes if cause.field == "head")
    assert "box head: 4 conv + 1 fc, SyncBN here, 2 fc published: +0.90 AP elsewhere" in head.text


def test_evaluator_and_label_fraction_are_named() -> None:
    row = select(load(), paper="MoCo v1", init="MoCo v1", source="Table 2b")
    flat = {
        "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"],
        "DATASETS.TEST": ["voc_2007_test"],
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.MASK_ON": False,
        "MODEL.RESNETS.RES5_DILATION": 1,
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
        "INPUT.MIN_SIZE_TRAIN": [480, 800],
    }
    same = explain(a_run(24000, "voc/07-11pt", **flat), row)
    assert same.causes == []
    area = explain(a_run(24000, "voc/area", **flat), row)
    assert [cause.field for cause in area.causes] == ["evaluator"]
    fraction = explain(a_run(**{"DATASETS.TRAIN": ["coco_2017_train@10%"]}), MOCO_V1)
    assert [cause.field for cause in fraction.causes] == ["dataset"]


def test_the_nearest_row_is_of_the_runs_initialisation_and_detector() -> None:
    assert explain(a_run(init="supervised"), load()).row["init"] == "supervised"
    assert explain(a_run(init="random"), load()).row["init"] == "random"
    row = explain(a_run(init="something_else", **PLANTED["head"]), load()).row
    assert "4conv1fc" in row["protocol"]
    with pytest.raises(UserError, match="no published detection row"):
        explain(a_run(), select(load(), task="linear"))


@pytest.mark.parametrize(
    ("data", "compared"),
    [
        ("coco_2017_train@10%", True),
        ("voc_2007_trainval", False),
        ("coco:own/train.json:own/images", False),
    ],
)
def test_values_on_other_data_are_not_set_side_by_side(data: str, compared: bool) -> None:
    test = {"coco_2017_train@10%": "coco_2017_val", "voc_2007_trainval": "voc_2007_test"}.get(data, data)
    explanation = explain(a_run(**{"DATASETS.TRAIN": [data], "DATASETS.TEST": [test]}), MOCO_V1)
    assert bool(explanation.differences) == compared
    text = explanation_text(explanation, "x")
    assert ("AP on other data is another quantity" in text) != compared
    assert "dataset" in [cause.field for cause in explanation.causes]


def test_odd_records_are_explained_as_far_as_they_go() -> None:
    run = a_run(**{"INPUT.MIN_SIZE_TRAIN": []})
    assert "image size" not in [cause.field for cause in explain(run, MOCO_V1).causes]
    run["metrics"]["bbox"]["AP"] = float("nan")
    assert "APbb" not in explain(run, MOCO_V1).differences
    nameless = explain(a_run(init="---"), load())  # of which every name would be an extension
    assert nameless.row["detector"] == "Mask R-CNN R50-FPN"


def test_effects_come_from_rows_of_equal_weights() -> None:
    longer = effect_of("schedule", "1x", "2x")
    assert longer is not None
    assert 1.0 < longer.points < 3.0
    shorter = effect_of("schedule", "2x", "1x")
    assert shorter is not None
    assert (shorter.points, shorter.low, shorter.high) == (-longer.points, -longer.high, -longer.low)
    assert effect_of("schedule", "1x", "17x") is None
    assert {effect.field for effect in effects()} <= set(FIELDS)
    frozen = effect_of("backbone_norm", "tuned SyncBN", "FrozenBN")
    assert frozen is not None
    assert frozen.metric == "mask AP"  # LVIS: 24.1 - 23.5 at 1x, 24.4 - 23.2 at 2x (MoCo v1, Appendix A.4)
    assert frozen.points == pytest.approx(0.9)


def test_command(run_cli, tmp_path: Path) -> None:
    folder = write_run(tmp_path, a_run(**PLANTED["head"]))
    command = ["transfer/published.py", "--paper", "MoCo v1", "--explain", str(folder)]
    done = run_cli(command, check=0)
    assert "1. box head: 4 conv + 1 fc, SyncBN here, 2 fc published" in done.stdout
    assert "APbb: 30.00 here, 38.5 published, -8.50" in done.stdout
    parent = run_cli(["transfer/published.py", "--explain", str(tmp_path)], check=2)
    assert f"--explain takes the folder of one finished run, e.g. {folder}" in parent.stderr
    assert run_cli(["transfer/published.py", "--explain", str(tmp_path / "none")], check=2).stderr.count("\n") == 1
