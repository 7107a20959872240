"""The proof proves something: it is torchvision's forward pass to the bit, and a misplaced tensor fails it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convert.conversion import convert
from convert.rename import DETECTRON2
from convert.verify import STAGES, compare, detectron2_forward, torchvision_forward
from runtime.errors import UserError
from tests.convert.checkpoints import random_net, random_resnet, save


@pytest.mark.parametrize(
    "arguments", [{}, {"depth": 18, "stem": 64}, {"depth": 101}, {"groups": 2, "width_per_group": 32}], ids=str
)
def test_source_pass_is_torchvisions(arguments: dict, tmp_path) -> None:
    net = random_net(**arguments)
    backbone = convert(save(net.state_dict(), tmp_path / "c.pth"))
    image = torch.randn(2, 3, 96, 64)
    ours = torchvision_forward(net.state_dict(), backbone.architecture, False)(image)
    target = {k: torch.tensor(v) for k, v in backbone.tensors.items()}
    converted = detectron2_forward(target, backbone.architecture, False)(image)
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1(image))))
        for index, stage in enumerate(STAGES):
            x = x if index == 0 else net.get_submodule(f"layer{index}")(x)
            assert torch.equal(ours[stage], x)
            assert torch.equal(converted[stage], x)


def test_against_torchvision_itself(tmp_path) -> None:
    path = save(random_resnet("resnet18").state_dict(), tmp_path / "c.pth")
    assert "checked against torchvision: max |diff| 0.0" in convert(path, against="torchvision").notes[-1]


@pytest.mark.parametrize(
    ("first", "second", "stage"),
    [
        ("stem.conv1.norm.weight", "stem.conv1.norm.bias", "stem"),
        ("res2.1.conv1.weight", "res2.2.conv1.weight", "res2"),
        ("res3.0.conv1.norm.running_mean", "res3.0.conv2.norm.running_mean", "res3"),
        ("res5.0.shortcut.norm.running_var", "res5.0.conv3.norm.running_var", "res5"),
    ],
)
def test_two_tensors_swapped_are_found(first: str, second: str, stage: str, tmp_path) -> None:
    backbone = convert(save(random_net().state_dict(), tmp_path / "c.pth"), verify=False)
    arrays = {part: a for name, a in backbone.tensors.items() if (part := DETECTRON2.parse(name))}
    swapped = {**backbone.tensors, first: backbone.tensors[second], second: backbone.tensors[first]}
    with pytest.raises(UserError, match=f"differs from its source in {stage}"):
        compare(arrays, swapped, backbone.architecture)


def test_wrong_stride_place_is_seen(tmp_path) -> None:
    backbone = convert(save(random_net().state_dict(), tmp_path / "c.pth"), verify=False)
    weights = {k: torch.tensor(v) for k, v in backbone.tensors.items()}
    image = torch.randn(1, 3, 64, 64)
    outputs = [detectron2_forward(weights, backbone.architecture, place)(image)["res3"] for place in (False, True)]
    assert not torch.equal(*outputs)
    assert np.isfinite(outputs[1].numpy()).all()
