"""Every family of the table: recognised by its keys alone, each encoder found, every tensor in its place, proven."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convert.checkpoint import read_checkpoint
from convert.conversion import convert
from convert.families import TABLE
from convert.layouts import LAYOUTS
from convert.preprocessing import PREPROCESSING
from convert.recognition import fits, key_prefixes, recognise
from runtime.errors import UserError
from tests.convert.checkpoints import NAMES, assert_equal, build, fixture, random_net, save, with_variant


def test_every_row_of_the_table_has_a_fixture() -> None:
    resnets = {name for name, row in TABLE.items() if LAYOUTS[row.main.layout].network == "resnet"}
    assert {fixture(n)["family"] for n in NAMES} | {"cmc"} == resnets


@pytest.mark.parametrize("name", NAMES)
def test_family(name: str, tmp_path) -> None:
    spec = fixture(name)
    expected = spec.get("auto", spec["family"])
    for number, variant in enumerate([[], *spec.get("variants", [])]):
        checkpoint, encoders = build(with_variant(spec, variant))
        path = save(checkpoint, tmp_path / f"{number}.anything", spec.get("format", "torch"))
        read = read_checkpoint(path)
        fitting = [
            n for n, row in TABLE.items() if not row.same_keys_as and fits(read, row, key_prefixes(read.tensors))
        ]
        assert fitting == [expected]
        backbone = convert(path)
        default = next(iter(encoders))
        assert (backbone.family, backbone.encoder) == (expected, default)
        assert_equal(backbone, encoders[default])
        assert backbone.coverage.set == backbone.coverage.backbone_tensors == 265
        assert backbone.max_abs_diff is not None
        assert set(backbone.max_abs_diff.values()) == {0.0}
    for encoder, state in encoders.items():
        named = convert(path, family=spec["family"], encoder=encoder, verify=False)
        assert (named.family, named.encoder) == (spec["family"], encoder)
        assert_equal(named, state)
    assert named.preprocessing == PREPROCESSING[spec.get("preprocessing", "imagenet")]


@pytest.mark.parametrize("name", [n for n in NAMES if fixture(n).get("bare")])
def test_bare_released_file(name: str, tmp_path) -> None:
    """Barlow Twins, VICReg, DINO, BYOL also publish the backbone alone: torchvision's keys, or by name."""
    net = random_net()
    path = save(net.state_dict(), tmp_path / "resnet50.pth")
    assert convert(path, verify=False).family == "torchvision"
    named = convert(path, family=name, verify=False)
    assert named.family == name
    assert_equal(named, net.state_dict())


def test_lightly_keys_are_those_of_nn_sequential(tmp_path) -> None:
    net = random_net()
    backbone = nn.Sequential(*list(net.children())[:-1])
    torch.save({f"backbone.{k}": v for k, v in backbone.state_dict().items()}, tmp_path / "m.pth")
    assert_equal(convert(tmp_path / "m.pth"), net.state_dict())


def test_two_families_is_an_error_that_names_both(tmp_path) -> None:
    moco, _ = build(fixture("moco"))
    other, _ = build(fixture("moco-v3"))
    path = save({"state_dict": {**moco["state_dict"], **other["state_dict"]}}, tmp_path / "both.pth")
    with pytest.raises(UserError, match="moco and moco-v3: choose with --family moco or --family moco-v3"):
        convert(path)
    assert convert(path, family="moco-v3", verify=False).family == "moco-v3"


def test_encoder_that_the_family_has_not(tmp_path) -> None:
    path = save(build(fixture("moco"))[0], tmp_path / "c.pth")
    with pytest.raises(UserError, match="family moco has no encoder 'teacher'; it has query, key"):
        convert(path, encoder="teacher")
    with pytest.raises(UserError, match="no teacher encoder of family dino"):
        convert(path, family="dino")


def test_cmc_is_refused_with_the_reason(tmp_path) -> None:
    half = {f"module.encoder1.{k}": v for k, v in random_net().state_dict().items()}
    half |= {f"module.encoder2.{k}": v for k, v in random_net().state_dict().items()}
    path = save({"model": half}, tmp_path / "cmc.pth")
    with pytest.raises(UserError, match=r"CMC trains two half-width networks.*Convert another method"):
        convert(path)


def test_copies_of_different_content_are_not_chosen_between(tmp_path) -> None:
    checkpoint, _ = build(fixture("openselfsup"))
    state = checkpoint["state_dict"]
    state["encoder_q.0.layer2.0.conv1.weight"] = state["encoder_q.0.layer2.0.conv1.weight"] + 1
    path = save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(UserError, match="two encoders with different tensors"):
        convert(path)
    assert convert(path, prefix="state_dict.backbone", verify=False).family == "custom"


def test_ema_beside_the_model_needs_a_choice(tmp_path) -> None:
    first, second = random_net("a").state_dict(), random_net("b").state_dict()
    path = save({"model": first, "model_ema": {f"module.{k}": v for k, v in second.items()}}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="--encoder encoder or --encoder ema"):
        convert(path)
    assert_equal(convert(path, encoder="ema", verify=False), second)
    assert_equal(convert(path, encoder="encoder", verify=False), first)


def test_prefix_takes_a_resnet_of_no_known_family(tmp_path) -> None:
    net = random_net()
    path = save({"net": {f"student.trunk.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"There is a ResNet at net\.student\.trunk\.\*: take it with --prefix"):
        convert(path)
    assert_equal(convert(path, prefix="net.student.trunk"), net.state_dict())


@pytest.mark.parametrize("name", fixture("torchvision")["archs"])
def test_shapes_of_every_torchvision_arch(name: str, tmp_path) -> None:
    """Recognition and architecture need no tensor's bytes: full-size networks are checked by shape alone."""
    import torchvision

    from convert.architecture import infer
    from convert.checkpoint import Checkpoint
    from convert.lazy_array import LazyArray, Storage

    with torch.device("meta"):
        state = torchvision.models.get_model(name).state_dict()
    tensors = {
        k: LazyArray(Storage("float32", v.numel(), bytes), 0, tuple(v.shape), v.stride()) for k, v in state.items()
    }
    found = recognise(Checkpoint(tmp_path, tensors, {k: k for k in tensors}))
    architecture = infer({p: tensors[n].shape for p, n in found.names.items()})
    assert architecture.name == name
    assert (
        sum(1 for _ in architecture.parts())
        == {"18": 100, "34": 180, "50": 265, "01": 520, "52": 775}[str(architecture.depth)[-2:]]
    )
