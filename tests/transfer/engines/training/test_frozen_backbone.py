"""A frozen backbone ends with the tensors it began with, and a run in which it does not is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch, save_torch
from tests.transfer.engines import engine_cases
from transfer.engines.torchvision.builder import build_model
from transfer.engines.training.frozen_backbone import ENTRY, FrozenBackbone, bottom_up, tensors_sha256
from transfer.engines.weights.checkpoints import OWN_KEY

C4: dict[str, Any] = {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES": ["res4"]}
C4 |= {"MODEL.RPN.IN_FEATURES": ["res4"], "MODEL.ROI_HEADS.IN_FEATURES": ["res4"]}
C4 |= {"MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32, 64]], "MODEL.ROI_BOX_HEAD.NAME": ""}
DETECTORS = {
    "R50-C4": {**C4, "MODEL.ROI_HEADS.NAME": "Res5ROIHeads"},
    "R50-FPN": {},
    "R18-C4": {**C4, **engine_cases.R18, "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead"},
    "R18-FPN": engine_cases.R18,
}
FROZEN = {"MODEL.BACKBONE.FREEZE_AT": 5, "SOLVER.MAX_ITER": 3, "SOLVER.BASE_LR": 0.02, "SOLVER.WARMUP_ITERS": 0}
SYNC = {"MODEL.RESNETS.NORM": "SyncBN", "TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": 2}


@pytest.mark.parametrize("name", DETECTORS)
def test_training_leaves_a_frozen_backbone_and_its_statistics(
    name: str, tiny_config: Callable[..., Any], engine: Any, weights_of: Callable[[Path], Any], tmp_path: Path
) -> None:
    cfg = tiny_config(DETECTORS[name], SYNC, FROZEN)
    summary = engine.train(cfg, tmp_path)
    after = weights_of(tmp_path)
    torch.manual_seed(cfg.SEED)
    before = build_model(cfg).state_dict()
    assert list(before) == list(after)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    stages = {key for key in before if key.startswith(("backbone.stem", "backbone.res", "backbone.bottom_up"))}
    assert stages
    assert not changed & stages
    assert "proposal_generator.rpn_head.conv.weight" in changed
    assert any(key.startswith("roi_heads.res5") for key in changed) == ("R50-C4" in name)
    prefix = "backbone.bottom_up." if "FPN" in name else "backbone."
    tensors = {key.removeprefix(prefix): value for key, value in after.items() if key in stages}
    assert summary.backbone_sha256 == tensors_sha256(tensors)


def test_a_tuned_run_has_no_such_digest(tiny_config: Callable[..., Any], engine: Any, tmp_path: Path) -> None:
    assert engine.train(tiny_config({"SOLVER.MAX_ITER": 1}), tmp_path).backbone_sha256 is None


def test_a_backbone_that_changed_is_refused(tiny_config: Callable[..., Any]) -> None:
    cfg = tiny_config(FROZEN)
    model = build_model(cfg)
    frozen = FrozenBackbone(cfg, model)
    frozen.check()
    next(bottom_up(model).buffers()).add_(1)
    with pytest.raises(UserError, match=r"the backbone is frozen, but training changed it: its sha256 is \w{12}"):
        frozen.check()


def test_the_start_is_remembered_over_a_resume(tiny_config: Callable[..., Any], engine: Any, tmp_path: Path) -> None:
    cfg = tiny_config(FROZEN, {"SOLVER.CHECKPOINT_PERIOD": 2})
    whole = engine.train(cfg, tmp_path / "whole")
    path = tmp_path / "whole" / "model_0000001.pth"
    content = load_torch(path)
    assert content[OWN_KEY][ENTRY] == whole.backbone_sha256
    (tmp_path / "resumed").mkdir()
    save_torch(content, tmp_path / "resumed" / path.name)
    assert engine.train(cfg, tmp_path / "resumed", resume=True).backbone_sha256 == whole.backbone_sha256
    content["model"]["backbone.bottom_up.stem.conv1.norm.running_mean"] += 1.0
    save_torch(content, tmp_path / "changed" / path.name)
    with pytest.raises(UserError, match="the checkpoint changed it"):
        engine.train(cfg, tmp_path / "changed", resume=True)


@pytest.mark.detectron2
def test_detectron2_freezes_the_same_tensors(
    tiny_config: Callable[..., Any], engine: Any, detectron2_engine: Any, tmp_path: Path
) -> None:
    for name in ("R50-C4", "R18-FPN"):
        cfg = tiny_config(DETECTORS[name], FROZEN, {"MODEL.RESNETS.NORM": "FrozenBN"})
        ours, theirs = engine.train(cfg, tmp_path / name), detectron2_engine.train(cfg, tmp_path / f"{name}-d2")
        assert ours.backbone_sha256 == theirs.backbone_sha256 is not None
