"""What cannot become a Detectron2 backbone is refused in one line that says why and what would work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convert.architecture import infer
from convert.conversion import convert
from convert.rename import TORCHVISION
from runtime.errors import UserError
from tests.convert.checkpoints import NarrowResNet, build, fixture, random_net, save


def change(state: dict[str, torch.Tensor], **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """``state`` with tensors replaced, added, or (None) removed; ``__`` stands for a dot."""
    changed = dict(state)
    for key, value in changes.items():
        changed[key.replace("__", ".")] = value  # type: ignore[assignment]
    return {k: v for k, v in changed.items() if v is not None}


STATE = random_net().state_dict()
NAN, INF = (STATE["layer3.1.conv2.weight"].clone() for _ in range(2))
NAN[0, 0, 0, 0], INF[-1, -1, -1, -1] = float("nan"), float("-inf")
VIT = {"cls_token": torch.zeros(1, 1, 8), "patch_embed.proj.weight": torch.zeros(8, 3, 16, 16)}

REFUSED = {
    "cifar stem": (
        change(STATE, conv1__weight=torch.zeros(8, 3, 3, 3)),
        "8x3x3x3, a CIFAR or deep stem.*Pretrain with",
    ),
    "grey stem": (change(STATE, conv1__weight=torch.zeros(8, 1, 7, 7)), "takes 1 channels"),
    "deep stem": (
        change(STATE, conv1__weight=None, conv1__0__weight=torch.zeros(8, 3, 3, 3)),
        "deep stem.*use a plain",
    ),
    "resnet-d": (change(STATE, layer1__0__downsample__2__weight=torch.zeros(32)), "pooled shortcut"),
    "squeeze and excitation": (change(STATE, layer1__0__se__fc1__weight=torch.zeros(2, 32, 1, 1)), "squeeze-and-excit"),
    "folded batch norm": (change(STATE, layer1__0__conv1__bias=torch.zeros(8)), "BN folded in"),
    "stem bias": (change(STATE, conv1__bias=torch.zeros(8)), "conv1.bias is not a tensor"),
    "part of a vit": (VIT, "vision transformer of another kind.*ResNets, plain ViTs"),
    "moco v3 vit": ({f"module.base_encoder.{k}": v for k, v in VIT.items()}, "vision transformer"),
    "regnet": ({"_feature_blocks.block1.0.weight": torch.zeros(4)}, "RegNet"),
    "no stem": (change(STATE, conv1__weight=None), "no stem convolution beside it: this is half a network"),
    "no layer4": ({k: v for k, v in STATE.items() if "layer4" not in k}, "res5 has no tensors: this is half a network"),
    "no layer2.1": ({k: v for k, v in STATE.items() if "layer2.1." not in k}, "15 of 265 tensors .* missing: layer2.1"),
    "one tensor missing": (change(STATE, layer4__2__bn3__running_var=None), "1 of 265 .* layer4.2.bn3.running_var"),
    "wrong shape": (
        change(STATE, layer2__0__conv3__weight=torch.zeros(64, 17, 1, 1)),
        "64x17x1x1 instead of 64x16x1x1",
    ),
    "group norm": (
        {k: v for k, v in STATE.items() if "running" not in k and "tracked" not in k},
        "106 of 265 .* BN statistics were folded away",
    ),
    "nan": (change(STATE, layer3__1__conv2__weight=NAN), "layer3.1.conv2.weight holds NaN or Inf"),
    "inf": (change(STATE, layer3__1__conv2__weight=INF), "layer3.1.conv2.weight holds NaN or Inf"),
    "integers": (change(STATE, conv1__weight=torch.zeros(8, 3, 7, 7, dtype=torch.int8)), "int8, not floating point"),
    "another depth": ({k: v for k, v in STATE.items() if "layer3.5." not in k}, r"\(3, 4, 5, 3\).*18, 34, 50"),
    "narrow basic blocks": (NarrowResNet(18).state_dict(), "ResNet-18 of width 8; Detectron2 builds"),
    "not a resnet": ({"encoder.lstm.weight_ih_l0": torch.zeros(4, 4)}, "No ResNet of torchvision's topology"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_with_reason(name: str, tmp_path) -> None:
    state, match = REFUSED[name]
    path = save(state, tmp_path / "c.pth")
    with pytest.raises(UserError, match=match) as caught:
        convert(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_refusal_writes_nothing(run_cli, tmp_path) -> None:
    path = save(REFUSED["one tensor missing"][0], tmp_path / "c.pth")
    done = run_cli(["convert/to_d2.py", path, tmp_path / "out.pkl", "--emit-config"], check=2)
    assert done.stderr.startswith("error: cannot convert ")
    assert done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


def test_width_that_is_not_doubled_is_refused() -> None:
    shapes = {p: tuple(v.shape) for k, v in STATE.items() if (p := TORCHVISION.parse(k))}
    odd = {p: (n[0] + 1, *n[1:]) if n and p.stage == 4 and p.conv == 3 else n for p, n in shapes.items()}
    with pytest.raises(UserError, match="Detectron2 cannot build this width"):
        infer(odd)


def test_collision_after_prefixes(tmp_path) -> None:
    path = save({**STATE, "module.conv1.weight": STATE["conv1.weight"] + 1}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="are both conv1.weight without module. and _orig_mod.; keep one"):
        convert(path)


def test_half_precision_is_widened_exactly(tmp_path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in STATE.items()}
        backbone = convert(save(state, tmp_path / "c.pth"))
        array = backbone.tensors["res3.0.conv1.weight"]
        assert array.dtype == "float32"
        assert (array == state["layer2.0.conv1.weight"].float().numpy()).all()


def test_too_large_for_float32_is_no_divergence(tmp_path, run_cli) -> None:
    state = {**STATE, "conv1.weight": STATE["conv1.weight"].double() * 1e60}
    done = run_cli(["convert/to_d2.py", save(state, tmp_path / "c.pth"), "--no-verify"], check=2)
    assert "conv1.weight holds numbers too large for float32" in done.stderr
    assert done.stderr.count("\n") == 1


def test_large_numbers_are_finite(tmp_path) -> None:
    """The sum of their squares is not."""
    state = {**STATE, "bn1.running_var": torch.full_like(STATE["bn1.running_var"], 1e30)}
    backbone = convert(save(state, tmp_path / "c.pth"), verify=False)
    assert (backbone.tensors["stem.conv1.norm.running_var"] == np.float32(1e30)).all()


def test_flags_that_exclude_each_other(run_cli, tmp_path) -> None:
    for flags, match in (
        (["--prefix", "net", "--family", "moco"], "leave out --family and --encoder"),
        (["--prefix", "net", "--encoder", "key"], "leave out --family and --encoder"),
        (["--reverse", "--emit-config"], "leave it out with --reverse"),
    ):
        assert match in run_cli(["convert/to_d2.py", "c.pth", *flags], check=2).stderr
    done = run_cli(["convert/to_torchvision.py", "c.pth", tmp_path / "x.pth", "--names", "caffe2"], check=2)
    assert "name the output" in done.stderr
    assert "x.pkl" in done.stderr


def test_strided_tensors_are_read_right(tmp_path) -> None:
    """channels_last training saves convolutions with other strides; views share a storage at an offset."""
    state = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in STATE.items()}
    flat = torch.cat([torch.zeros(3), state["bn1.weight"]])
    state["bn1.weight"] = flat[3:]
    for form in (True, False):
        torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=form)
        backbone = convert(tmp_path / "c.pth")
        assert (backbone.tensors["res2.0.conv2.weight"] == STATE["layer1.0.conv2.weight"].numpy()).all()
        assert (backbone.tensors["stem.conv1.norm.weight"] == STATE["bn1.weight"].numpy()).all()


def test_family_and_encoder_flags_reach_the_converter(run_cli, tmp_path) -> None:
    path = save(build(fixture("dino"))[0], tmp_path / "c.pth")
    done = run_cli(["convert/to_d2.py", path, "--family", "dino", "--encoder", "student", "--no-verify"], check=0)
    assert "dino family, student encoder" in done.stdout
    assert "invalid choice" in run_cli(["convert/to_d2.py", path, "--family", "nope"], check=2).stderr
    listing = run_cli(["convert/to_d2.py", "--list-families"], check=0).stdout
    assert "cmc " in listing
    assert "REFUSED" in listing
    assert listing.count("\n") >= 35
