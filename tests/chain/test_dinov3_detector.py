"""A DINOv3 ViT from its authors' file to a trained detector: the emitted config is enough, and another is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convert.backbone_file import read_backbone, write_backbone
from convert.conversion import convert
from runtime.errors import UserError
from tests.convert.networks import random_tensors
from tests.transfer.toy_data import write_coco
from tests.transfer.train_command import TINY
from transfer import train_net

SMALL = {**TINY, "MODEL.BACKBONE.SQUARE_PAD": "64", "INPUT.MAX_SIZE_TEST": "64", "INPUT.LSJ.SIZE": "64"}


@pytest.fixture
def command(tmp_path: Path, repo: Path) -> Callable[..., list[str]]:
    """The command that trains on toy images with the configs of these weights, into ``tmp_path / "run"``."""
    data = write_coco(tmp_path / "data", count=4)

    def words(name: str | None, *flags: str, **changes: str) -> list[str]:
        own = [str(converted(name, tmp_path).with_suffix(".yaml"))] if name else []
        config = tmp_path / "detector.yaml"
        config.write_text(f"_BASE_: {json.dumps([str(repo / 'configs' / 'demo_ViT.yaml'), *own])}\n")
        pairs = {**SMALL, "DATASETS.TRAIN": f"('{data}',)", "DATASETS.TEST": f"('{data}',)"}
        pairs |= {"OUTPUT_DIR": str(tmp_path / "run"), **{k.replace("__", "."): v for k, v in changes.items()}}
        head = ["transfer/train_net.py", "--config-file", str(config), "--engine", "torchvision", *flags]
        return [*head, *(text for pair in pairs.items() for text in pair)]

    return words


def converted(name: str, tmp_path: Path) -> Path:
    torch.save(random_tensors(name), tmp_path / f"{name}.pth")
    backbone = convert(tmp_path / f"{name}.pth")
    return write_backbone(backbone, tmp_path / f"{name}.pkl", emit_config=True)[0]


def test_the_emitted_config_trains_it(
    tmp_path: Path, run_cli: Callable[..., Any], command: Callable[..., list[str]]
) -> None:
    tokens = {"MODEL__VIT__CLS_TOKEN": "True", "MODEL__VIT__REGISTERS": "4", "MODEL__VIT__FINAL_NORM": "True"}
    run_cli(command("dinov3", **tokens), check=0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["init"]["sidecar"]["arch"] == "vit_64x2_16_rope_reg4"
    assert (result["config"]["flat"]["MODEL.VIT.ROPE"], result["config"]["flat"]["MODEL.VIT.NORM_EPS"]) == (True, 1e-5)
    trained = torch.load(tmp_path / "run" / "model_final.pth", weights_only=False)["model"]
    given, _ = read_backbone(tmp_path / "dinov3.pkl")
    name = "backbone.net.rope_embed.periods"
    assert torch.equal(torch.as_tensor(trained[name]), torch.tensor(given[name]))  # not learned
    block = "backbone.net.blocks.0.attn.qkv.weight"
    assert not torch.equal(torch.as_tensor(trained[block]), torch.tensor(given[block]))


@pytest.mark.parametrize(
    ("weights", "architecture", "changes", "message"),
    [
        ("dinov3", "timm-deit3", {"NORM_EPS": "1e-5"}, "MODEL.VIT.ROPE is False .* needs True"),
        ("timm-deit3", "dinov3", {"NORM_EPS": "1e-6"}, "MODEL.VIT.ROPE is True .* needs False"),
        (None, None, {"ROPE": "True"}, "ROPE True takes the place of other positions: set MODEL.VIT.USE_ABS_POS to"),
    ],
)
def test_other_positions_are_refused_and_nothing_is_written(
    weights: str | None,
    architecture: str | None,
    changes: dict[str, str],
    message: str,
    tmp_path: Path,
    command: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    init = str(converted(weights, tmp_path)) if weights else "random"
    words = command(architecture, "--init", init, **{f"MODEL__VIT__{key}": value for key, value in changes.items()})
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match=message) as caught:
        train_net.main()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
