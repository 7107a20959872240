"""A converted ViT, Swin or ConvNeXt in a detector: every tensor set, or the setting named that would take it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convert.backbone_file import write_backbone
from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.networks import random_tensors
from tests.transfer.engines.backbone_cases import CONVNEXT, SWIN, VIT
from tests.transfer.engines.engine_cases import COMMON
from transfer.config import default_config
from transfer.engines.torchvision.builder import build_model
from transfer.engines.weights.loading import load_weights
from transfer.fine_tuning.initialisation import apply_settings, resolve_init

DETECTORS = {
    "timm-vit": {
        **VIT,
        "MODEL.VIT.EMBED_DIM": 64,
        "MODEL.VIT.DEPTH": 2,
        "MODEL.VIT.NUM_HEADS": 1,
        "MODEL.VIT.WINDOW_BLOCKS": [0],
    },
    "timm-swin": {
        **SWIN,
        "MODEL.SWIN.EMBED_DIM": 16,
        "MODEL.SWIN.DEPTHS": [2, 2, 2, 2],
        "MODEL.SWIN.NUM_HEADS": [1, 2, 2, 4],
        "MODEL.SWIN.WINDOW_SIZE": 2,
    },
    "timm-convnext": {**CONVNEXT, "MODEL.CONVNEXT.DEPTHS": [1, 1, 2, 1]},
}
DETECTORS["timm-deit3"] = {**DETECTORS["timm-vit"], "MODEL.VIT.LAYER_SCALE": True}
DETECTORS["dinov3"] = {
    **DETECTORS["timm-deit3"],
    "MODEL.VIT.ROPE": True,
    "MODEL.VIT.USE_ABS_POS": False,
    "MODEL.VIT.USE_REL_POS": False,
    "MODEL.VIT.NORM_EPS": 1e-5,
}
DETECTORS["timm-dinov3"] = {**DETECTORS["dinov3"], "MODEL.VIT.QKV_BIAS": False}
DETECTORS["transformers-dinov3-file"] = {
    **DETECTORS["dinov3"],
    "MODEL.VIT.FEED_FORWARD": "swiglu",
    "MODEL.VIT.MLP_RATIO": 6.0,
}
DETECTORS["dinov3 with all tokens"] = {
    **DETECTORS["dinov3"],
    "MODEL.VIT.WINDOW_BLOCKS": [],
    "MODEL.VIT.CLS_TOKEN": True,
    "MODEL.VIT.REGISTERS": 4,
    "MODEL.VIT.FINAL_NORM": True,
}
DETECTORS["convnextv2"] = {
    **DETECTORS["timm-convnext"],
    "MODEL.CONVNEXT.GRN": True,
    "MODEL.CONVNEXT.LAYER_SCALE": False,
}


def config(detector: dict[str, Any], **changes: Any) -> Any:
    cfg = default_config()
    for key, value in {**COMMON, **detector, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
        cfg.merge_from_list([key, value])
    return cfg


@pytest.fixture
def backbone(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        torch.save(random_tensors(name), tmp_path / f"{name}.pth")
        return write_backbone(convert(tmp_path / f"{name}.pth"), tmp_path / f"{name}_d2")[0]

    return write


@pytest.mark.parametrize("name", DETECTORS)
def test_every_tensor_of_the_backbone_is_set(name: str, backbone: Callable[[str], Path], tmp_path: Path) -> None:
    cfg, file = config(DETECTORS[name]), backbone(name.split(" ")[0])
    init = resolve_init(str(file), cfg, name=None, folder=tmp_path)
    changed = apply_settings(cfg, init, {})
    if name in ("timm-vit", "timm-deit3"):
        assert "MODEL.VIT.PRETRAIN_IMG_SIZE = 32" in changed
    model = build_model(cfg)
    report = load_weights(model, file)
    tensors = convert(file).tensors
    own = ("cls_token", "register_tokens", "backbone.net.norm.weight", "backbone.net.norm.bias")  # ViTDet has none
    left_out = () if name.endswith("all tokens") else own
    assert set(tensors) - set(report.set) == {key for key in tensors if key.endswith(left_out)}
    state = model.state_dict()
    assert all(torch.equal(state[key], torch.tensor(tensors[key])) for key in report.set)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("timm-deit3", {"MODEL__VIT__LAYER_SCALE": False}, "MODEL.VIT.LAYER_SCALE is False .* needs True"),
        ("timm-vit", {"MODEL__VIT__LAYER_SCALE": True}, "MODEL.VIT.LAYER_SCALE is True .* needs False"),
        ("timm-vit", {"MODEL__VIT__DEPTH": 1, "MODEL__VIT__WINDOW_BLOCKS": []}, "MODEL.VIT.DEPTH is 1 .* needs 2"),
        ("timm-vit", {"MODEL__VIT__NUM_HEADS": 4}, "MODEL.VIT.NUM_HEADS is 4 .* needs 1"),
        ("dinov3", {"MODEL__VIT__ROPE": False}, "MODEL.VIT.ROPE is False .* needs True"),
        ("dinov3", {"MODEL__VIT__NORM_EPS": 1e-6}, "MODEL.VIT.NORM_EPS is 1e-06 .* needs 1e-05"),
        ("timm-deit3", {"MODEL__VIT__ROPE": True}, "MODEL.VIT.ROPE is True .* needs False"),
        ("convnextv2", {"MODEL__CONVNEXT__GRN": False}, "MODEL.CONVNEXT.GRN is False .* needs True"),
        ("timm-swin", {"MODEL__SWIN__WINDOW_SIZE": 4}, "MODEL.SWIN.WINDOW_SIZE is 4 .* needs 2"),
    ],
)
def test_another_architecture_is_named(
    name: str, changes: dict[str, Any], message: str, backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    cfg = config(DETECTORS[name], **changes)
    init = resolve_init(str(backbone(name)), cfg, name=None, folder=tmp_path)
    with pytest.raises(UserError, match=message):
        apply_settings(cfg, init, {})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("timm-deit3", {"MODEL__VIT__LAYER_SCALE": False}, "set MODEL.VIT.LAYER_SCALE True, or choose another"),
        ("timm-vit", {"MODEL__VIT__LAYER_SCALE": True}, "would stay random, e.g. backbone.net.blocks.0.ls1.gamma"),
        ("timm-vit", {"MODEL__VIT__DEPTH": 1, "MODEL__VIT__WINDOW_BLOCKS": []}, "set its depth in MODEL"),
        ("timm-vit", {"MODEL__VIT__QKV_BIAS": False}, "set QKV_BIAS True"),
        ("timm-vit", {"MODEL__VIT__PRETRAIN_IMG_SIZE": 112}, "other shapes than the config asks for"),
        ("timm-vit", {"MODEL__VIT__REGISTERS": 4, "MODEL__VIT__WINDOW_BLOCKS": []}, "backbone.net.register_tokens"),
        ("dinov3", {"MODEL__VIT__ROPE": False}, "set MODEL.VIT.ROPE True, USE_ABS_POS False and USE_REL_POS False"),
        ("dinov3", {"MODEL__VIT__ROPE": False, "MODEL__VIT__USE_ABS_POS": True}, "set MODEL.VIT.ROPE True, USE_ABS"),
        (
            "timm-deit3",
            {"MODEL__VIT__ROPE": True, "MODEL__VIT__USE_ABS_POS": False, "MODEL__VIT__USE_REL_POS": False},
            "set MODEL.VIT.ROPE False and USE_ABS_POS True",
        ),
        ("dinov3", {"MODEL__VIT__NUM_HEADS": 2}, "rope_embed.periods .16,. instead of .8,"),
        ("convnextv2", {"MODEL__CONVNEXT__GRN": False}, "set MODEL.CONVNEXT.GRN True"),
        ("timm-convnext", {"MODEL__CONVNEXT__LAYER_SCALE": False}, "set MODEL.CONVNEXT.LAYER_SCALE True"),
        ("timm-swin", {"MODEL__SWIN__WINDOW_SIZE": 4}, "other shapes than the config asks for"),
    ],
)
def test_weights_without_their_sidecar_are_no_safer(
    name: str, changes: dict[str, Any], message: str, backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    file = backbone(name)
    file.with_suffix(".json").unlink()
    fitting = {"MODEL__VIT__PRETRAIN_IMG_SIZE": 32, "MODEL__VIT__PRETRAIN_CLS_TOKEN": name != "timm-deit3"}
    with pytest.raises(UserError, match=message):
        load_weights(build_model(config(DETECTORS[name], **{**fitting, **changes})), file)


def test_a_backbone_of_another_kind_is_named(backbone: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="would stay random"):
        load_weights(build_model(config(DETECTORS["timm-swin"])), backbone("timm-convnext"))
    with pytest.raises(UserError, match="would stay random"):
        load_weights(build_model(config(DETECTORS["timm-vit"])), backbone("timm-swin"))
