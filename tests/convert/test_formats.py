"""Reading equals torch.load and the safetensors library; what is written, they read."""

from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.backbone_file import read_backbone, write_backbone
from convert.checkpoint import read_checkpoint
from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.checkpoints import random_net, save

TENSORS = {
    "f32": torch.randn(3, 4, 5),
    "f16": torch.randn(7).half(),
    "bf16": torch.randn(2, 3).bfloat16(),
    "f64": torch.randn(4).double(),
    "i64": torch.arange(5),
    "i8": torch.arange(5, dtype=torch.int8),
    "u8": torch.arange(5, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "transposed": torch.randn(3, 4).t(),
    "slice": torch.arange(20.0).reshape(4, 5)[1:3, ::2],
    "parameter": torch.nn.Parameter(torch.randn(2)),
}


@pytest.mark.parametrize("new", [True, False])
def test_equals_torch_load(new: bool, tmp_path) -> None:
    path = tmp_path / "c.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=new)
    ours = read_checkpoint(path).tensors
    for name, theirs in torch.load(path, weights_only=True).items():
        array = ours[name].load()
        assert array.shape == theirs.shape
        assert np.array_equal(array, theirs.detach().float().numpy() if name == "bf16" else theirs.detach().numpy())


def test_equals_safetensors(tmp_path) -> None:
    tensors = {k: v.detach().contiguous() for k, v in TENSORS.items()}
    save_file(tensors, tmp_path / "c.safetensors", metadata={"format": "pt"})
    ours = read_checkpoint(tmp_path / "c.safetensors").tensors
    for name, theirs in load_file(tmp_path / "c.safetensors").items():
        assert np.array_equal(ours[name].load(), theirs.float().numpy() if name == "bf16" else theirs.numpy())


def test_every_format_holds_the_same(tmp_path) -> None:
    source = save(random_net().state_dict(), tmp_path / "c.pth")
    backbone = convert(source)
    files = write_backbone(backbone, tmp_path / "out", ["pkl", "pth", "safetensors"])
    assert [f.name for f in files] == ["out.pkl", "out.pth", "out.safetensors", "out.json"]
    for file in files[:3]:
        tensors, record = read_backbone(file)
        assert record is not None
        assert set(tensors) == set(backbone.tensors)
        assert all(np.array_equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in backbone.tensors.items())
    twin = torch.load(tmp_path / "out.pth", weights_only=True)
    assert twin["matching_heuristics"] is True
    assert torch.equal(twin["model"]["stem.conv1.weight"], load_file(tmp_path / "out.safetensors")["stem.conv1.weight"])


def test_unknown_format_is_an_argparse_error(run_cli, tmp_path) -> None:
    done = run_cli(["convert/to_d2.py", "x.pth", "--format", "pkl,onnx"], check=2)
    assert "unknown format 'onnx' (choose from pkl, pth, safetensors)" in done.stderr


def test_the_source_is_never_overwritten(run_cli, tmp_path) -> None:
    path = save(random_net().state_dict(), tmp_path / "c.pth")
    before = path.read_bytes()
    assert "would replace its own source" in run_cli(["convert/to_d2.py", path, path], check=2).stderr
    run_cli(["convert/to_d2.py", path, "--format", "pth", "--no-verify"], check=0)
    assert path.read_bytes() == before
    assert (tmp_path / "c_d2.pth").exists()


def test_a_folder_as_output(run_cli, tmp_path) -> None:
    path = save(random_net().state_dict(), tmp_path / "c.pth.tar")
    (tmp_path / "backbones").mkdir()
    run_cli(["convert/to_d2.py", path, tmp_path / "backbones", "--no-verify"], check=0)
    assert {p.name for p in (tmp_path / "backbones").iterdir()} == {"c.pkl", "c.json"}
    run_cli(["convert/to_torchvision.py", path, tmp_path / "new" / "d2.pth", "--no-verify"], check=0)
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"d2.pth", "d2.json"}


def test_a_config_of_ones_own_is_not_replaced(tmp_path) -> None:
    backbone = convert(save(random_net().state_dict(), tmp_path / "c.pth"), verify=False)
    (tmp_path / "out.yaml").write_text("MODEL: {WEIGHTS: other.pkl}\n")
    with pytest.raises(UserError, match="not the config of a backbone"):
        write_backbone(backbone, tmp_path / "out", emit_config=True)
    assert {p.name for p in tmp_path.iterdir()} == {"c.pth", "out.yaml"}
    for _ in range(2):  # its own earlier config it writes anew
        write_backbone(backbone, tmp_path / "again", emit_config=True)
    assert "again.pkl" in (tmp_path / "again.yaml").read_text()


def test_a_shared_storage_is_checked_once(tmp_path, monkeypatch) -> None:
    """Flattened parameters are views of one storage: reading it through for each would take minutes."""
    from convert import torch_archive

    state = random_net().state_dict()
    floats = {k: v for k, v in state.items() if v.is_floating_point()}
    flat = torch.cat([v.flatten() for v in floats.values()])
    views = {
        k: part.view_as(v) for (k, v), part in zip(floats.items(), flat.split([v.numel() for v in floats.values()]))
    }
    torch.save(state | views, tmp_path / "c.pth")
    calls: list[int] = []
    crc32 = zlib.crc32

    def counted(data):
        calls.append(len(data))
        return crc32(data)

    monkeypatch.setattr(torch_archive.zlib, "crc32", counted)
    backbone = convert(tmp_path / "c.pth")
    assert calls.count(flat.nbytes) == 1
    assert np.array_equal(backbone.tensors["res5.2.conv3.weight"], state["layer4.2.conv3.weight"])


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    import errno

    from convert import backbone_file

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    backbone = convert(save(random_net().state_dict(), tmp_path / "c.pth"), verify=False)
    monkeypatch.setitem(backbone_file.FORMATS, "pkl", fail)
    with pytest.raises(UserError, match="disk full"):
        write_backbone(backbone, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


def test_torch_is_not_imported_without_verification(tmp_path, repo) -> None:
    path = save(random_net().state_dict(), tmp_path / "c.pth")
    command = [sys.executable, "-m", "tests.convert.programs.convert_unverified", str(path), str(tmp_path / "out")]
    assert subprocess.check_output(command, cwd=repo, text=True).strip() == "False"
