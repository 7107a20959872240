"""The real Detectron2 takes every tensor, in each detector layout, from each file format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convert.backbone_file import write_backbone
from convert.conversion import convert
from convert.preprocessing import MSRA_BGR
from tests.convert.checkpoints import build, fixture, random_net, random_resnet, save

pytestmark = pytest.mark.detectron2

DC5 = [
    "MODEL.RESNETS.OUT_FEATURES",
    ["res5"],
    "MODEL.RESNETS.RES5_DILATION",
    2,
    "MODEL.ROI_HEADS.IN_FEATURES",
    ["res5"],
]


def detector(base: str, options: list) -> torch.nn.Module:
    """A stock detector on CPU from one of Detectron2's base configs."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(str(Path(model_zoo.__file__).parent / "configs" / base))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", *options])
    return build_model(cfg)


def loaded_tensors(
    base: str, folder: Path, arch: str = "resnet50", form: str = "pkl", options: list | None = None
) -> int:
    """How many tensors Detectron2's own checkpointer sets, each bit for bit, from a converted ``arch``."""
    from detectron2.checkpoint import DetectionCheckpointer

    backbone = convert(save(random_resnet(arch).state_dict(), folder / "c.pth"), verify=False)
    file = write_backbone(backbone, folder / "out", [form])[0]
    flat = [item for pair in backbone.config.items() for item in pair]
    model = detector(base, flat + (options or []))
    DetectionCheckpointer(model).load(str(file))
    state, found = model.state_dict(), 0
    for name, array in backbone.tensors.items():
        if not name.endswith("num_batches_tracked"):
            target = next(n for n in state if n == name or n.endswith(f".{name}"))
            found += torch.equal(state[target], torch.tensor(array))
    return found


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
