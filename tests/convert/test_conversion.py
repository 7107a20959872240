"""What a user gets from the everyday checkpoints: MoCo, torchvision, this project's; and the official rule agrees."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from convert.backbone_file import read_backbone, read_sidecar, write_backbone, write_torchvision
from convert.conversion import convert
from convert.preprocessing import UNIT
from convert.verify import STAGES
from runtime.errors import UserError
from tests.convert.checkpoints import official_rule, random_net, random_resnet


def moco_checkpoint() -> dict:
    """The layout of an official MoCo checkpoint."""
    state = {f"module.encoder_q.{k}": v for k, v in random_net("q").state_dict().items()}
    state |= {f"module.encoder_k.{k}": v for k, v in random_net("k").state_dict().items()}
    state |= {f"module.encoder_{e}.fc.{n}": torch.randn(4) for e in "qk" for n in ("0.weight", "0.bias", "2.weight")}
    state |= {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


@pytest.fixture(scope="module")
def moco(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("moco") / "checkpoint_0199.pth.tar"
    checkpoint = moco_checkpoint()
    torch.save(checkpoint, path)
    return path, checkpoint


def test_moco_equals_the_official_rule(moco) -> None:
    path, checkpoint = moco
    backbone = convert(path)
    official = {k: v for k, v in official_rule(checkpoint["state_dict"]).items() if ".fc." not in k}
    assert set(backbone.tensors) == set(official)
    for name, array in official.items():
        assert array.dtype == backbone.tensors[name].dtype
        assert np.array_equal(array, backbone.tensors[name]), name
    assert backbone.coverage.set == backbone.coverage.backbone_tensors == 265
    assert backbone.max_abs_diff is not None
    assert dict(backbone.max_abs_diff) == dict.fromkeys(STAGES, 0.0)
    assert (backbone.family, backbone.encoder, backbone.architecture.name) == ("moco", "query", "resnet50w0.125")


def test_key_encoder_on_request(moco) -> None:
    path, checkpoint = moco
    backbone = convert(path, encoder="key", verify=False)
    expected = checkpoint["state_dict"]["module.encoder_k.conv1.weight"]
    assert np.array_equal(backbone.tensors["stem.conv1.weight"], expected.numpy())
    assert backbone.max_abs_diff is None


def test_command_writes_pickle_and_sidecar(moco, run_cli, tmp_path) -> None:
    path, _ = moco
    done = run_cli(["convert/to_d2.py", path, tmp_path / "out.pkl"], check=0)
    assert "265   of 265" in done.stdout
    assert "moco family, query encoder\n" in done.stdout
    with open(tmp_path / "out.pkl", "rb") as file:
        content = pickle.load(file, encoding="latin1")  # as Detectron2 does it
    assert content["matching_heuristics"] is True
    assert "__author__" in content
    assert not [k for k in content["model"] if ".fc." in k]
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["coverage"]["set"] == record["coverage"]["backbone_tensors"] == 265
    assert set(record["max_abs_diff"].values()) == {0.0}
    assert record["config"]["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 32
    tensors, sidecar = read_backbone(tmp_path / "out.pkl")
    assert sidecar == record
    assert all(np.array_equal(tensors[k], v) for k, v in content["model"].items())


def test_default_output_is_beside_the_checkpoint(run_cli, tmp_path) -> None:
    torch.save(random_net().state_dict(), tmp_path / "ckpt.pth")
    run_cli(["convert/to_d2.py", tmp_path / "ckpt.pth", "--no-verify"], check=0)
    assert {p.name for p in tmp_path.iterdir()} == {"ckpt.pth", "ckpt.pkl", "ckpt.json"}


def test_supervised_checkpoint_of_this_project(tmp_path) -> None:
    net = random_resnet("resnet18", num_classes=10)
    state = {f"module.{k}": v for k, v in net.state_dict().items()}
    torch.save({"epoch": 5, "arch": "resnet18", "state_dict": state, "method": "supervised"}, tmp_path / "s.pth.tar")
    backbone = convert(tmp_path / "s.pth.tar")
    assert backbone.coverage.set == 100
    assert backbone.max_abs_diff is not None
    assert set(backbone.max_abs_diff.values()) == {0.0}
    assert np.array_equal(backbone.tensors["res5.1.conv2.norm.running_var"], net.get_buffer("layer4.1.bn2.running_var"))


def test_a_file_that_is_not_the_sidecars_is_refused(moco, tmp_path) -> None:
    path, _ = moco
    write_backbone(convert(path, verify=False), tmp_path / "a.pkl")
    write_backbone(convert(path, encoder="key", verify=False), tmp_path / "b.pkl")
    (tmp_path / "b.json").write_text((tmp_path / "a.json").read_text().replace("a.pkl", "b.pkl"))
    with pytest.raises(UserError, match="sha256 differs"):
        read_backbone(tmp_path / "b.pkl")


def test_the_source_beside_its_backbone_is_not_what_the_sidecar_describes(moco, tmp_path) -> None:
    """ckpt.json beside ckpt.pth belongs to ckpt.pkl: ckpt.pth has still to be converted."""
    source = tmp_path / "ckpt.pth"
    source.write_bytes(moco[0].read_bytes())
    write_backbone(convert(source, verify=False), tmp_path / "ckpt")
    assert read_sidecar(source) is None
    assert read_sidecar(tmp_path / "ckpt.pkl") is not None
    (tmp_path / "ckpt.safetensors").write_bytes(b"of another program")
    assert read_sidecar(tmp_path / "ckpt.safetensors") is None


def test_a_renamed_backbone_keeps_its_sidecar(moco, tmp_path) -> None:
    write_backbone(convert(moco[0], verify=False), tmp_path / "a", ["pkl"])
    for name in ("pkl", "json"):
        (tmp_path / f"a.{name}").rename(tmp_path / f"b.{name}")
    sidecar = read_sidecar(tmp_path / "b.pkl")
    assert sidecar is not None
    assert sidecar["encoder"] == "query"
    assert read_backbone(tmp_path / "b.pkl")[1] == sidecar


def test_a_second_format_of_the_same_source_joins_the_sidecar(moco, tmp_path) -> None:
    backbone = convert(moco[0])
    write_backbone(backbone, tmp_path / "out", ["pkl"])
    write_backbone(backbone, tmp_path / "out", ["safetensors"])
    _, sidecar = read_backbone(tmp_path / "out.pkl")
    assert sidecar is not None
    assert set(sidecar["files"]) == {"out.pkl", "out.safetensors"}
    write_backbone(convert(moco[0], encoder="key"), tmp_path / "out", ["safetensors"])
    assert read_sidecar(tmp_path / "out.pkl") is None  # of the other encoder
    sidecar = read_sidecar(tmp_path / "out.safetensors")
    assert sidecar is not None
    assert set(sidecar["files"]) == {"out.safetensors"}


def test_preprocessing_of_a_replaced_file_is_not_believed(moco, tmp_path) -> None:
    backbone = convert(moco[0], preprocessing=UNIT, verify=False)
    write_torchvision(backbone, tmp_path / "net")
    assert convert(tmp_path / "net.pth", verify=False).preprocessing == UNIT
    torch.save(random_net("other").state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match="sha256 differs"):
        convert(tmp_path / "net.pth", verify=False)


def test_an_unproven_backbone_is_held_to_its_sidecar_too(moco, tmp_path) -> None:
    """--no-verify records a quick fingerprint: each changed byte, a cut and an exchange of blocks are noticed."""
    target = write_backbone(convert(moco[0], verify=False), tmp_path / "out")[0]
    content = target.read_bytes()
    assert json.loads((tmp_path / "out.json").read_text())["files"]["out.pkl"].startswith("sum64:")
    assert read_sidecar(target) is not None
    block = 1 << 18
    last = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    middle = content[:300_001] + bytes([content[300_001] ^ 128]) + content[300_002:]
    for damaged in (last, middle, content[block : 2 * block] + content[:block] + content[2 * block :], content + b"\0"):
        target.write_bytes(damaged)
        with pytest.raises(UserError, match="sha256 differs"):
            read_sidecar(target)
    write_backbone(convert(moco[0]), tmp_path / "out")
    assert len(json.loads((tmp_path / "out.json").read_text())["files"]["out.pkl"]) == 64
    assert read_sidecar(target) is not None


def test_a_raw_checkpoint_is_no_backbone(moco) -> None:
    with pytest.raises(UserError, match="convert it first"):
        read_backbone(moco[0])
