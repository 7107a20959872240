"""A second whole encoder of other content is never passed over in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.checkpoints import assert_equal, build, fixture, in_layout, random_net, save
from tests.convert.networks import random_tensors

S, E = random_net("s", depth=18, stem=64).state_dict(), random_net("e", depth=18, stem=64).state_dict()


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


# name -> checkpoint that holds S and E, the flags that take S, and the prefix that takes E
TWO: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "ema": ({"model": S, "ema": E}, {"encoder": "encoder"}, "ema"),
    "ema_state_dict": ({"state_dict": S, "ema_state_dict": E}, {"encoder": "encoder"}, "ema_state_dict"),
    "Lightning": (
        {"state_dict": {**under("model.", S), **under("ema_model.module.", E)}, "pytorch-lightning_version": "2.0"},
        {"encoder": "encoder"},
        "state_dict.ema_model",
    ),
    "mmengine": (
        {"state_dict": under("backbone.", S), "ema_state_dict": under("module.backbone.", E), "meta": {}},
        {"encoder": "online"},
        "ema_state_dict.backbone",
    ),
    "another name": ({"model": S, "swa_model": E}, {"encoder": "encoder"}, "swa_model"),
    "another layout": (
        {"model": S, "averaged": {in_layout(name, "sequential"): value for name, value in E.items()}},
        {"encoder": "encoder"},
        "averaged",
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_it_needs_a_choice(name: str, tmp_path) -> None:
    checkpoint, flags, prefix = TWO[name]
    path = save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(UserError, match=f"two encoders with different tensors.*--prefix '{prefix}'") as caught:
        convert(path)
    assert ("EMAHook swaps" in str(caught.value)) == ("ema_state_dict" in checkpoint)
    assert_equal(convert(path, verify=False, **flags), S)  # type: ignore[arg-type]
    assert_equal(convert(path, verify=False, prefix=prefix), E)


def test_equal_content_needs_none(tmp_path) -> None:
    path = save({"model": S, "ema": {k: v.clone() for k, v in S.items()}}, tmp_path / "c.pth")
    assert_equal(convert(path, verify=False), S)


def test_half_a_network_needs_none(tmp_path) -> None:
    """A head that begins like a ResNet is not a second encoder."""
    half = {k: v for k, v in E.items() if "layer4" not in k}
    assert_equal(convert(save({"model": S, "ema": half}, tmp_path / "c.pth"), verify=False), S)


def test_the_families_own_second_encoder_needs_none(tmp_path) -> None:
    checkpoint, encoders = build(fixture("moco"))
    assert_equal(convert(save(checkpoint, tmp_path / "c.pth"), verify=False), encoders["query"])
    checkpoint["ema"] = encoders["key"]
    with pytest.raises(UserError, match="--encoder query or --prefix 'ema'"):
        convert(save(checkpoint, tmp_path / "d.pth"))


VIT = random_tensors("timm-vit")
OF_TWO_KINDS: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "a ViT as teacher": ({**under("encoder_q.", S), **under("teacher.", VIT)}, {"encoder": "query"}, "teacher"),
    "where the family has its second": (
        {"state_dict": {**under("encoder_q.", S), **under("encoder_k.", VIT)}},
        {"encoder": "query"},
        "state_dict.encoder_k",
    ),
    "a Swin as average": ({"state_dict": S, "ema": random_tensors("timm-swin")}, {"encoder": "encoder"}, "ema"),
}


@pytest.mark.parametrize("name", OF_TWO_KINDS)
def test_one_of_another_kind_needs_a_choice(name: str, tmp_path) -> None:
    checkpoint, flags, prefix = OF_TWO_KINDS[name]
    path = save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(UserError, match=f"two networks, a ResNet and a (ViT|Swin) .*--prefix '{prefix}'"):
        convert(path)
    assert_equal(convert(path, verify=False, **flags), S)  # type: ignore[arg-type]
    assert convert(path, verify=False, prefix=prefix).architecture.name.startswith(("vit_", "swin_"))


def test_a_resnet_beside_a_vit_needs_one_too(tmp_path) -> None:
    path = save({**under("base_encoder.", VIT), **under("tokenizer.", S)}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="two networks, a ViT and a ResNet .*--encoder query or --prefix 'tokenizer'"):
        convert(path)


HF = random_tensors("transformers-vit")
# a second tensor for a place that has one, in another of the names that its maker has used
TWICE: dict[str, tuple[dict[str, torch.Tensor], str, str]] = {
    "a block in two chunks": (VIT, "blocks.1.norm1.weight", "blocks.0.1.norm1.weight"),
    "two names of registers": (random_tensors("timm-dinov2-registers"), "reg_token", "register_tokens"),
    "two versions of transformers": (HF, "layers.0.mlp.fc1.bias", "layers.0.intermediate.dense.bias"),
}


@pytest.mark.parametrize("name", TWICE)
def test_two_tensors_for_one_place_are_not_mixed(name: str, tmp_path) -> None:
    tensors, one, other = TWICE[name]
    expected = convert(save(tensors, tmp_path / "a.pth"), verify=False)
    same = convert(save({**tensors, other: tensors[one].clone()}, tmp_path / "b.pth"), verify=False)
    assert all((same.tensors[key] == array).all() for key, array in expected.tensors.items())
    with pytest.raises(UserError, match=f"two tensors for one place in the network, {one} and {other}"):
        convert(save({**tensors, other: tensors[one] + 1}, tmp_path / "c.pth"))
