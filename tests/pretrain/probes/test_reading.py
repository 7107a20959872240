"""Checkpoints that the probes read by themselves are held to the converter's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.encoders import build_encoder
from pretrain.encoders.reading import read_encoder
from runtime.errors import UserError


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_encoder("resnet18", outputs=4).state_dict()


STATE, OTHER = state(0), state(1)


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def written(path: Path, state_dict: Any, **beside: Any) -> Path:
    torch.save({"arch": "resnet18", "state_dict": state_dict, **beside}, path)
    return path


def vit() -> dict[str, torch.Tensor]:
    sizes = {"patch_embed.proj.weight": (8, 3, 16, 16), "pos_embed": (1, 5, 8), "cls_token": (1, 1, 8)}
    return {name: torch.ones(size) for name, size in sizes.items()} | {
        f"blocks.0.norm{n}.{field}": torch.ones(8) for n in (1, 2) for field in ("weight", "bias")
    }


SECOND: dict[str, tuple[Any, dict[str, Any]]] = {
    "timm's average": (STATE, {"state_dict_ema": OTHER}),
    "an average of MoCo's": (under("module.encoder_q.", STATE), {"ema": under("module.encoder_q.", OTHER)}),
    "a ViT as teacher": (under("encoder_q.", STATE), {"teacher": vit()}),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_encoder_needs_a_choice(name: str, tmp_path: Path) -> None:
    state_dict, beside = SECOND[name]
    with pytest.raises(UserError, match=r"holds two .* are flags of convert/to_d2\.py: probe the file that it writes"):
        read_encoder(written(tmp_path / "c.pth", state_dict, **beside))
    same = {key: state_dict for key in beside if name != "a ViT as teacher"}
    assert read_encoder(written(tmp_path / "d.pth", state_dict, **same)).arch == "resnet18"


VALUES: dict[str, tuple[str, Any, str]] = {
    "a number": ("conv1.weight", 5, "conv1.weight is int, not a tensor"),
    "nothing": ("fc.weight", None, "fc.weight is NoneType, not a tensor"),
    "a scalar stem": ("conv1.weight", torch.tensor(1.0), "conv1.weight is a single number"),
    "a scalar head": ("fc.weight", torch.tensor(1.0), "fc.weight is a single number"),
    "integers": ("conv1.weight", torch.ones(64, 3, 7, 7, dtype=torch.int8), "conv1.weight holds int8, not floating"),
    "complex": ("bn1.weight", torch.ones(64, dtype=torch.complex64), "bn1.weight holds complex64, not floating"),
    "negative": ("bn1.running_var", -torch.ones(64), "bn1.running_var holds negative numbers"),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_no_weight_is_named(name: str, tmp_path: Path) -> None:
    key, value, message = VALUES[name]
    with pytest.raises(UserError, match=message):
        read_encoder(written(tmp_path / "c.pth", {**STATE, key: value}))


def test_weights_that_were_never_filled_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all its convolutions are 0"):
        read_encoder(written(tmp_path / "c.pth", {key: torch.zeros_like(value) for key, value in STATE.items()}))


def test_keys_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    read = read_encoder(written(tmp_path / "c.pth", {**STATE, 5: torch.ones(1)}))
    torch.testing.assert_close(read.network.state_dict(), STATE)


@pytest.mark.parametrize("size", ["224", [224, 224], None, 0, True])
def test_settings_of_other_code_are_not_ours(size: Any, tmp_path: Path) -> None:
    read = read_encoder(written(tmp_path / "c.pth", STATE, settings={"image_size": size, "views": 7}))
    assert read.settings == {}
    ours = {"image_size": 96, "views": "v2"}
    assert read_encoder(written(tmp_path / "d.pth", STATE, settings=ours)).settings == ours
