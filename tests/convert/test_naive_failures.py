"""The published converters' silent failures: each converts rightly here, or is refused by name.

The naive rules are written down from what those scripts do, to show that the input is one that they let through.
"""

from __future__ import annotations

import argparse
import json
import pickle
import pickletools

import numpy as np
import pytest
import torch
from torch import nn

from convert.backbone_file import read_backbone, write_backbone
from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.checkpoints import assert_equal, build, fixture, in_layout, official_rule, random_net, save


def test_v1_another_prefix_gives_an_empty_pickle_elsewhere(tmp_path) -> None:
    """The MoCo converter on solo-learn or CMC: exit 0, no tensor at all."""
    checkpoint, encoders = build(fixture("solo-learn"))
    assert official_rule(checkpoint["state_dict"]) == {}
    assert_equal(convert(save(checkpoint, tmp_path / "c.ckpt")), encoders["online"])


def test_v2_v3_unextracted_openmmlab_checkpoint(tmp_path) -> None:
    """The extract step forgotten: 210 of 265 (C4) or 0 of 265 (FPN) tensors load elsewhere."""
    checkpoint, encoders = build(fixture("densecl"))
    backbone = convert(save(checkpoint, tmp_path / "c.pth"))
    assert not [n for n in backbone.tensors if n.startswith("backbone.")]
    assert backbone.coverage.set == 265
    assert_equal(backbone, encoders["query"])


def test_v4_lightly_sequential_names(tmp_path) -> None:
    """318 keys written, none loads elsewhere."""
    checkpoint, encoders = build(fixture("lightly"))
    assert_equal(convert(save(checkpoint, tmp_path / "c.ckpt")), encoders["online"])


def test_v5_cifar_stem(tmp_path) -> None:
    """264 of 265 load elsewhere, the stem stays random."""
    state = random_net().state_dict() | {"conv1.weight": torch.zeros(8, 3, 3, 3)}
    with pytest.raises(UserError, match="CIFAR"):
        convert(save({"state_dict": {f"backbone.{k}": v for k, v in state.items()}, "meta": {}}, tmp_path / "c.pth"))


def test_v6_resnet_d(tmp_path) -> None:
    """244 of 265 load elsewhere: a convolution lands in shortcut.norm."""
    state = {}
    for key, value in random_net().state_dict().items():
        if "downsample" in key:
            key = key.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1")
        state["conv1.0.weight" if key == "conv1.weight" else key] = value
    path = save(state, tmp_path / "resnet50d.pth")
    with pytest.raises(UserError, match="deep stem"):
        convert(path)
    state["conv1.weight"] = state.pop("conv1.0.weight")
    with pytest.raises(UserError, match="ResNet-D"):
        convert(save(state, path))


def test_v7_raw_torchvision_is_converted_not_matched(tmp_path) -> None:
    """With ?matching_heuristics=True one tensor loads elsewhere (stem.conv1.weight); here read_backbone refuses it."""
    path = save(random_net().state_dict(), tmp_path / "r50.pth")
    with pytest.raises(UserError, match="convert it first"):
        read_backbone(path)
    assert convert(path).coverage.set == 265


def test_v8_a_pkl_is_a_pickle(tmp_path) -> None:
    """torch.save under the name .pkl cannot be unpickled by Detectron2; ours is a plain pickle for every numpy."""
    target = write_backbone(convert(save(random_net().state_dict(), tmp_path / "c.pth")), tmp_path / "out")[0]
    with open(target, "rb") as file:
        content = pickle.load(file, encoding="latin1")
    assert len(content["model"]) == 318
    names = [arg for op, arg, _ in pickletools.genops(target.read_bytes()) if op.name in ("GLOBAL", "STACK_GLOBAL")]
    assert set(names) == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    # a torch.save file that somebody called .pkl is read by its content
    wrong = tmp_path / "wrong.pkl"
    torch.save({"model": {in_layout(k, "detectron2"): v for k, v in random_net().state_dict().items()}}, wrong)
    assert len(read_backbone(wrong)[0]) == 318


def test_v9_switches_travel_with_the_weights(tmp_path) -> None:
    """A config left at its defaults (BGR, std 1, stride in 1x1) contradicts these weights: the sidecar says so."""
    record = write_backbone(convert(save(random_net().state_dict(), tmp_path / "c.pth")), tmp_path / "out")[1]
    config = json.loads(record.read_text())["config"]
    assert config["INPUT.FORMAT"] == "RGB"
    assert config["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert config["MODEL.PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert config["MODEL.RESNETS.STRIDE_IN_1X1"] is False


@pytest.mark.detectron2
@pytest.mark.parametrize("head", ["Res5ROIHeads", "StandardROIHeads"])
def test_v10_v11_own_names_load_whole_into_stock_heads(head: str, tmp_path) -> None:
    """No extra head class of ours is needed to take the weights: C4 and FPN of Detectron2 itself load all 265."""
    from tests.convert.detectron2_models import loaded_tensors

    base = "Base-RCNN-C4.yaml" if head == "Res5ROIHeads" else "Base-RCNN-FPN.yaml"
    assert loaded_tensors(base, tmp_path) == 265


def test_v12_namespace_and_numpy_scalars(tmp_path) -> None:
    """PixPro and DINO keep an argparse.Namespace, others numpy scalars: torch.load's default stops at them."""
    checkpoint, encoders = build(fixture("dino"))
    checkpoint["args"] = argparse.Namespace(lr=np.float64(0.1), arch="resnet50")
    path = save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert_equal(convert(path), encoders["teacher"])


def test_projection_head_never_becomes_a_stem(tmp_path) -> None:
    """stem.fc.* in other converters' files; Barlow Twins' module.bn.* must not become a stem either."""
    for name in ("moco", "barlow-twins"):
        backbone = convert(save(build(fixture(name))[0], tmp_path / "c.pth"), verify=False)
        assert {n for n in backbone.tensors if n.startswith("stem.")} == {
            "stem.conv1.weight",
            *(f"stem.conv1.norm.{f}" for f in nn.BatchNorm2d(1).state_dict()),
        }
