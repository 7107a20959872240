"""There and back is bit-equal; a detector's backbone comes out as it is; MSRA's names work in both directions."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from convert.backbone_file import read_backbone, write_backbone, write_caffe2, write_torchvision
from convert.conversion import convert
from convert.preprocessing import MSRA_BGR, UNIT
from tests.convert.checkpoints import NarrowResNet, build, fixture, in_layout, random_net, save


@pytest.mark.parametrize("form", ["pkl", "pth", "safetensors"])
def test_there_and_back_is_bit_equal(form: str, tmp_path) -> None:
    state = random_net(depth=101).state_dict()
    source = save(state, tmp_path / "c.pth")
    write_backbone(convert(source, verify=False), tmp_path / "d2", [form])
    back = write_torchvision(convert(tmp_path / f"d2.{form}"), tmp_path / "back")[0]
    again = torch.load(back, weights_only=True)
    assert set(again) == set(state)  # num_batches_tracked travels too
    assert all(torch.equal(again[k], v) and again[k].dtype == v.dtype for k, v in state.items())
    net = NarrowResNet(101)
    net.load_state_dict(again, strict=True)


def test_reverse_of_a_fine_tuned_detector(run_cli, tmp_path) -> None:
    checkpoint, encoders = build(fixture("detectron2-detector-c4"))
    source = save(checkpoint, tmp_path / "model_final.pth")
    done = run_cli(["convert/to_torchvision.py", source], check=0)
    assert "detectron2-detector family" in done.stdout
    state = torch.load(tmp_path / "model_final_torchvision.pth", weights_only=True)
    assert all(torch.equal(state[k], v) for k, v in encoders["encoder"].items())
    run_cli(["convert/to_d2.py", source, tmp_path / "flag.pth", "--reverse", "--no-verify"], check=0)
    assert set(torch.load(tmp_path / "flag.pth", weights_only=True)) == set(state)


def test_detector_says_how_it_saw_its_images(tmp_path) -> None:
    checkpoint, _ = build(fixture("detectron2-detector"))
    source = save(checkpoint, tmp_path / "model_final.pth")
    assert "assumed" in " ".join(convert(source, verify=False).notes)
    (tmp_path / "config.yaml").write_text(
        "INPUT: {FORMAT: BGR}\nMODEL:\n  PIXEL_MEAN: [103.53, 116.28, 123.675]\n  PIXEL_STD: [1.0, 1.0, 1.0]\n"
        "  RESNETS: {STRIDE_IN_1X1: true}\n"
    )
    backbone = convert(source)
    assert backbone.preprocessing == MSRA_BGR
    assert backbone.max_abs_diff is not None
    assert backbone.max_abs_diff["res5"] == 0.0


def test_msra_names_both_ways(tmp_path) -> None:
    checkpoint, _ = build(fixture("msra"))
    source = save(checkpoint, tmp_path / "R-50.pkl", "pickle")
    backbone = convert(source)
    assert backbone.config["INPUT.FORMAT"] == "BGR"
    assert backbone.config["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]
    assert backbone.config["MODEL.RESNETS.STRIDE_IN_1X1"] is True
    assert backbone.max_abs_diff is not None
    assert set(backbone.max_abs_diff.values()) == {0.0}
    written = write_caffe2(backbone, tmp_path / "again.pkl")[0]
    with open(written, "rb") as file:
        again = pickle.load(file, encoding="latin1")
    original = {k: np.asarray(v) for k, v in checkpoint.items() if not k.startswith(("fc1000", "conv1_b"))}
    assert set(again) == set(original)
    assert all(np.array_equal(again[k], v) for k, v in original.items())
    # transfer reads the zoo's own file without conversion
    tensors, _ = read_backbone(source)
    assert all(np.array_equal(tensors[k], v) for k, v in backbone.tensors.items())


def test_preprocessing_survives_torchvision_names(tmp_path) -> None:
    source = save(build(fixture("msra"))[0], tmp_path / "R-50.pkl", "pickle")
    write_torchvision(convert(source), tmp_path / "msra_torchvision")
    assert convert(tmp_path / "msra_torchvision.pth").preprocessing == MSRA_BGR


def test_emitted_config_has_every_key(run_cli, tmp_path) -> None:
    import yaml

    state = {"resnet": {in_layout(k, "simclr v2"): v for k, v in random_net(depth=50, stem=16).state_dict().items()}}
    source = save(state, tmp_path / "r50_2x_sk0.pth")
    out = tmp_path / "simclr"
    run_cli(["convert/to_d2.py", source, out, "--emit-config", "--format", "pth,pkl", "--no-verify"], check=0)
    config = yaml.safe_load((tmp_path / "simclr.yaml").read_text())
    assert config["INPUT"]["FORMAT"] == "RGB"
    assert config["MODEL"]["PIXEL_STD"] == list(UNIT.pixel_std)
    assert config["MODEL"]["RESNETS"]["STEM_OUT_CHANNELS"] == 16
    assert config["MODEL"]["RESNETS"]["RES2_OUT_CHANNELS"] == 64
    assert config["MODEL"]["RESNETS"]["WIDTH_PER_GROUP"] == 16
    record = json.loads((tmp_path / "simclr.json").read_text())
    assert record["arch"] == "resnet50w0.25"
    assert set(record["files"]) == {"simclr.pth", "simclr.pkl"}
