"""Files made to harm or to mislead: nothing of them is executed, and each is one clear refusal with nothing written."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import tarfile
import types
import typing
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.backbone_file import read_backbone, write_backbone
from convert.checkpoint import read_checkpoint
from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.checkpoints import Reduce, build, fixture, random_net, refused, save


class BuildsWith:
    """Pickles as a harmless class whose state sets attributes."""

    def __reduce__(self) -> tuple:
        import collections

        return collections.OrderedDict, (), {"__class__": Reduce(os.system, "touch {mark}")}


def calls(mark: Path) -> dict[str, object]:
    """Name -> object whose unpickling would create ``mark``."""
    touch, source = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    import builtins
    import codecs
    import functools
    import operator
    import shutil
    import subprocess

    return {
        "os.system": Reduce(os.system, touch),
        "os.popen": Reduce(os.popen, touch),
        "eval": Reduce(builtins.eval, source),
        "exec": Reduce(builtins.exec, source),
        "open": Reduce(builtins.open, str(mark), "w"),
        "subprocess": Reduce(subprocess.check_output, ["touch", str(mark)]),
        "import": Reduce(builtins.__import__, "antigravity"),
        "getattr": Reduce(builtins.getattr, "name", "upper"),
        "partial": Reduce(functools.partial, os.system, touch),
        "operator": Reduce(operator.methodcaller, "system", touch),
        "codecs": Reduce(codecs.open, str(mark), "w"),
        "shutil": Reduce(shutil.rmtree, str(mark)),
        "torch.load": Reduce(torch.load, str(mark)),
        "numpy.load": Reduce(np.load, str(mark)),
        "nested": {"a": [{"b": ({"c": Reduce(os.system, touch)},)}]},
        "as key": {(1, Reduce(os.system, touch)): 1},
        "state": BuildsWith(),
        "second encoder": {"state_dict": {"x": torch.zeros(1), "y": Reduce(os.system, touch)}},
    }


CALLS = sorted(calls(Path("x")))


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
@pytest.mark.parametrize("name", CALLS)
def test_calls_are_never_made(name: str, form: str, tmp_path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "c.pth"
    hostile = calls(mark)[name]
    if form == "pickle":
        path.write_bytes(pickle.dumps(hostile, protocol=4))
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=form == "torch")
    harmless = name == "getattr"  # mmengine's own checkpoints name it; here nothing is looked up
    assert ("it contains no tensors" if harmless else "which is not a tensor or a plain value") in refused(path)
    assert not mark.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pth"]


@pytest.mark.parametrize("name", CALLS)
def test_an_independent_scanner_agrees(name: str, tmp_path) -> None:
    """What picklescan calls suspicious is refused, and it calls each of these so."""
    scanner = pytest.importorskip("picklescan.scanner")
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps(calls(tmp_path / "executed")[name], protocol=4))
    result = scanner.scan_file_path(str(path))
    suspicious = result.issues_count or any(g.safety != scanner.SafetyLevel.Innocuous for g in result.globals)
    assert suspicious
    refused(path)
    assert not (tmp_path / "executed").exists()


def test_the_error_names_the_forbidden_global(tmp_path, run_cli) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Reduce(os.system, "true")))
    done = run_cli(["convert/to_d2.py", path, "--no-verify"], check=2)
    assert "it names posix.system" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_the_types_that_real_families_carry_are_read(tmp_path) -> None:
    """argparse.Namespace and numpy scalars make torch.load(weights_only=True) fail; here they are empty shells."""
    checkpoint, _ = build(fixture("pixpro"))
    checkpoint["best"] = np.float64(0.5)
    checkpoint["where"] = Path("runs/x")
    path = save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert convert(path, verify=False).family == "pixpro"


def test_configuration_objects_are_read_without_their_packages(tmp_path, monkeypatch) -> None:
    """solo-learn keeps an omegaconf tree, whose nodes name typing.Any and Python 2's long."""
    node = types.ModuleType("omegaconf.nodes")
    node_class = type("AnyNode", (), {"__module__": "omegaconf.nodes", "__qualname__": "AnyNode"})
    monkeypatch.setattr(node, "AnyNode", node_class, raising=False)
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.nodes", node)
    value = node.AnyNode()
    value.__dict__.update(ref_type=typing.Any, object_type=int, key_type=slice(1), flags=bytearray(b"x"), factor=1j)
    value.owner = frozenset({object})
    checkpoint, encoders = build(fixture("solo-learn"))
    checkpoint["hyper_parameters"] = {"cfg": value}
    backbone = convert(save(checkpoint, tmp_path / "c.ckpt"), verify=False)
    assert np.array_equal(backbone.tensors["stem.conv1.weight"], encoders["online"]["conv1.weight"].numpy())
    (tmp_path / "python2.pkl").write_bytes(b"(dS'a'\nc__builtin__\nlong\ns.")
    refused(tmp_path / "python2.pkl", "it contains no tensors")


def archive(path: Path) -> bytes:
    """A small sound checkpoint's bytes."""
    return save({"state_dict": random_net("q", depth=50).state_dict()}, path).read_bytes()


def test_truncation_at_every_offset(tmp_path) -> None:
    for form in (True, False):
        path = tmp_path / "whole.pth"
        torch.save(random_net("q").state_dict(), path, _use_new_zipfile_serialization=form)
        content = path.read_bytes()
        cut = tmp_path / "cut.pth"
        for offset in np.linspace(0, len(content) - 1, 64).astype(int):
            cut.write_bytes(content[:offset])
            refused(cut)


def test_flipped_bytes_are_noticed(tmp_path) -> None:
    content = bytearray(archive(tmp_path / "c.pth"))
    place = content.index(np.float32(random_net("q").conv1.weight.detach().numpy().flat[0]).tobytes())
    content[place] ^= 1
    (tmp_path / "c.pth").write_bytes(content)
    refused(tmp_path / "c.pth", "checksum")


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", b"\x80\x02" + b"0" * 50_000_000)


def huge_shape(path: Path) -> None:
    array = np.zeros(4, np.float32)
    stream = pickle.dumps({"conv1.weight": array}, protocol=2)
    path.write_bytes(stream.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"))


def object_array(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": np.array([{"a": 1}, None], dtype=object)}))


def many_bytes(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x")


def huge_memo(path: Path) -> None:
    path.write_bytes(b"\x80\x04Nr\xff\xff\xff\x1f.")  # ten bytes that ask for 8 GB


def huge_memo_as_text(path: Path) -> None:
    path.write_bytes(b"Np+536_870_911\n.")


def huge_memo_after_text(path: Path) -> None:
    path.write_bytes(b"(S'r\xff'\nX\x01\x00\x00\x00r\x8c\x01rcnumpy\nndarray\nr\xff\xff\xff\x1f.")


def huge_memo_in_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}r\xff\xff\xff\x1f.")


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("checkpoint.pth"))


def safetensors_header(text: bytes) -> Callable[[Path], int]:
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)


def numpy_array(path: Path) -> None:
    with path.open("wb") as file:  # np.save would add .npy to a name
        np.save(file, np.zeros(3))


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def lying_storage(path: Path) -> None:
    tensor = torch.zeros(4)
    stream = io.BytesIO()
    torch.save({"conv1.weight": tensor}, stream)
    content = stream.getvalue().replace(b"K\x04\x85", b"K\xff\x85")
    path.write_bytes(content)


NONSENSE: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "html": (lambda p: p.write_bytes(b"<!DOCTYPE html><html>404"), "HTML"),
    "lfs pointer": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + b"0" * 64), "gzip"),
    "image": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 64), "image"),
    "text": (lambda p: p.write_bytes(b"hello, this is no checkpoint\n"), "damaged or not a checkpoint"),
    "noise": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(4096)), None),
    "zip without pickle": (lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "x"), None),
    "zip bomb": (zip_bomb, "compressed zip"),
    "torchscript": (torchscript, "TorchScript|names"),
    "huge shape": (huge_shape, "damaged"),
    "object array": (object_array, "No ResNet of torchvision's topology"),
    "many bytes": (many_bytes, "damaged"),
    "huge memo": (huge_memo, "memo index"),
    "huge memo as text": (huge_memo_as_text, "memo index"),
    "huge memo after text": (huge_memo_after_text, "memo index"),
    "huge memo in zip": (huge_memo_in_zip, "memo index"),
    "tar": (tar, "tar archive"),
    "bzip2": (lambda p: p.write_bytes(b"BZh9" + b"0" * 64), "bzip2"),
    "xz": (lambda p: p.write_bytes(b"\xfd7zXZ\0" + b"0" * 64), "xz"),
    "7z": (lambda p: p.write_bytes(b"7z\xbc\xaf\x27\x1c" + b"0" * 64), "7z"),
    "npy": (numpy_array, "numpy array"),
    "lying storage": (lying_storage, "damaged"),
    "no tensor": (lambda p: p.write_bytes(pickle.dumps({"epoch": 3})), "it contains no tensors"),
    "cycle": (lambda p: p.write_bytes(pickle.dumps(cyclic())), "it contains no tensors"),
    "safetensors beyond end": (
        safetensors_header(b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
        "safetensors header names bytes beyond the end",
    ),
    "safetensors negative": (
        safetensors_header(b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[4,0]}}'),
        "safetensors header",
    ),
    "safetensors nonsense": (safetensors_header(b'{"w":[1,2]}'), "safetensors header"),
}


def cyclic() -> dict:
    loop: dict = {}
    loop["self"] = loop
    return loop


@pytest.mark.parametrize("name", sorted(NONSENSE))
def test_nonsense_is_refused(name: str, tmp_path) -> None:
    make, match = NONSENSE[name]
    path = tmp_path / "c.pth"
    make(path)
    refused(path, match)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pth"]


def test_missing_file_and_folder(tmp_path, run_cli) -> None:
    refused(tmp_path / "no.pth", "No such file")
    refused(tmp_path, "folder")
    for address in ("https://example.org/moco.pth.tar", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"):
        assert "download it first" in run_cli(["convert/to_d2.py", address], check=2).stderr
    assert "No such file" in run_cli(["convert/to_d2.py", tmp_path / "no.pth"], check=2).stderr


def test_deep_nesting_ends(tmp_path) -> None:
    deep: object = torch.zeros(1)
    for _ in range(200):
        deep = {"d": deep}
    path = save({"x": deep}, tmp_path / "c.pth")  # type: ignore[dict-item]
    refused(path, "it contains no tensors")


def test_a_file_cannot_change_what_the_next_one_sees(tmp_path) -> None:
    """A pickle may set attributes on what it names; the stand-ins are made anew for every file."""
    stream = b"\x80\x02cnumpy\nndarray\n}X\x05\x00\x00\x00arrayK\x01s\x86b."
    (tmp_path / "a.pkl").write_bytes(stream)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "a.pkl")
    array = np.arange(6, dtype=np.float32)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"w": array}))
    assert np.array_equal(read_checkpoint(tmp_path / "b.pkl").tensors["w"].load(), array)


def test_an_unrelated_json_is_not_replaced(tmp_path) -> None:
    path = save(random_net().state_dict(), tmp_path / "c.pth")
    (tmp_path / "c.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="not a backbone's sidecar"):
        write_backbone(convert(path, verify=False), tmp_path / "c")
    assert {p.name for p in tmp_path.iterdir()} == {"c.pth", "c.json"}
    target = write_backbone(convert(path, verify=False), tmp_path / "out")[0]
    (tmp_path / "out.json").write_text('{"mine": 1}')
    assert read_backbone(target)[1] is None
