"""The real Detectron2 takes every tensor, in each detector layout, from each file format."""

from __future__ import annotations

import pytest

from convert.conversion import convert
from convert.preprocessing import MSRA_BGR
from tests.convert.checkpoints import build, fixture, random_net, save
from tests.convert.detectron2_models import loaded_tensors

pytestmark = pytest.mark.detectron2

DC5 = [
    "MODEL.RESNETS.OUT_FEATURES",
    ["res5"],
    "MODEL.RESNETS.RES5_DILATION",
    2,
    "MODEL.ROI_HEADS.IN_FEATURES",
    ["res5"],
]


@pytest.mark.parametrize(
    ("base", "arch", "form", "expected"),
    [
        ("Base-RCNN-FPN.yaml", "resnet18", "pkl", 100),
        ("Base-RCNN-FPN.yaml", "resnet50", "pth", 265),
        ("Base-RCNN-C4.yaml", "resnet50", "pkl", 265),
        ("Base-RCNN-DilatedC5.yaml", "resnet50", "pkl", 265),
        ("Base-RCNN-FPN.yaml", "resnext50_32x4d", "pkl", 265),
    ],
)
def test_every_tensor_loads(base: str, arch: str, form: str, expected: int, tmp_path) -> None:
    assert loaded_tensors(base, tmp_path, arch, form) == expected


@pytest.mark.parametrize("arguments", [{}, {"depth": 101}, {"groups": 2, "width_per_group": 32}, {"stem": 16}])
def test_same_activations(arguments: dict, tmp_path) -> None:
    path = save(random_net(**arguments).state_dict(), tmp_path / "c.pth")
    assert "max |diff| 0.0" in convert(path, against="detectron2").notes[-1]


def test_same_activations_with_stride_in_1x1(tmp_path) -> None:
    path = save(build(fixture("msra"))[0], tmp_path / "R-50.pkl", "pickle")
    backbone = convert(path, against="detectron2")
    assert backbone.preprocessing == MSRA_BGR
    assert "max |diff| 0.0" in backbone.notes[-1]
