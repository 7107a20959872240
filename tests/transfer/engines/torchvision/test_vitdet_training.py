"""Twenty training steps of a ViT and a Swin detector against Detectron2's model, optimiser and schedule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.seeds import seed_everything
from tests.transfer.engines.backbone_cases import SWIN, VIT
from transfer.data.loader import draw_base_seed
from transfer.engines.training.batches import TrainingFeed

pytestmark = pytest.mark.detectron2

STEPS = {
    "SOLVER.OPTIMIZER": "AdamW",
    "SOLVER.BASE_LR": 0.0002,
    "SOLVER.WEIGHT_DECAY": 0.1,
    "SOLVER.MAX_ITER": 20,
    "SOLVER.STEPS": (12, 17),
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "DATALOADER.NUM_WORKERS": 1,
    "MODEL.MASK_ON": True,
}
JITTER = {"INPUT.LSJ.ENABLED": True, "INPUT.LSJ.SIZE": 128, "INPUT.LSJ.MIN_SCALE": 0.4, "INPUT.LSJ.MAX_SCALE": 1.5}
CASES: dict[str, dict[str, Any]] = {
    "ViT": {**VIT, **JITTER, "SOLVER.LAYER_DECAY": 0.7, "SOLVER.NO_DECAY": ["pos_embed"]},
    "ViT, bfloat16": {
        **VIT,
        "SOLVER.LAYER_DECAY": 0.7,
        "SOLVER.NO_DECAY": ["pos_embed"],
        "SOLVER.AMP.ENABLED": True,
        "ENGINE.AMP_DTYPE": "bfloat16",
    },
    "Swin": {**SWIN, "SOLVER.NO_DECAY": ["relative_position_bias_table"]},
}


def train_as_vitdet(cfg: Any, folder: Path) -> dict[str, torch.Tensor]:
    """What projects/ViTDet trains with: Detectron2's model, parameter groups, AdamW, multiplier of the rate."""
    from detectron2.modeling import build_model
    from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
    from detectron2.solver import LRMultiplier, WarmupParamScheduler
    from detectron2.solver.build import get_default_optimizer_params
    from detectron2.utils.events import EventStorage
    from fvcore.common.param_scheduler import MultiStepParamScheduler

    import transfer.engines.detectron2.heads  # noqa: F401
    from transfer.engines.detectron2.data import as_detectron2_items
    from transfer.engines.detectron2.engine import detectron2_config

    solver = cfg.SOLVER
    seed_everything(cfg.SEED)
    model = build_model(detectron2_config(cfg, folder)).train()
    decay = partial(get_vit_lr_decay_rate, num_layers=cfg.MODEL.VIT.DEPTH, lr_decay_rate=solver.LAYER_DECAY)
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        lr_factor_func=decay if solver.LAYER_DECAY != 1 else None,
        overrides={name: {"weight_decay": 0.0} for name in solver.NO_DECAY},
    )
    optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=(0.9, 0.999), weight_decay=solver.WEIGHT_DECAY)
    decay_steps = MultiStepParamScheduler(
        values=[1.0, 0.1, 0.01], milestones=list(solver.STEPS), num_updates=solver.MAX_ITER
    )
    warmup = solver.WARMUP_ITERS / solver.MAX_ITER
    multiplier = WarmupParamScheduler(decay_steps, solver.WARMUP_FACTOR, warmup, "linear")
    schedule = LRMultiplier(optimizer, multiplier, max_iter=solver.MAX_ITER)
    feed = TrainingFeed(cfg, 0, 1, cfg.SEED)
    batches, _ = feed.streams(draw_base_seed(), 0, 0)
    with EventStorage():
        for _ in range(solver.MAX_ITER):
            with torch.autocast("cpu", torch.bfloat16, enabled=solver.AMP.ENABLED):
                losses = model(as_detectron2_items(next(batches)))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            schedule.step()
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_end_with_equal_weights(
    name: str, tmp_path: Path, tiny_config: Callable[..., Any], engine: Any, weights_of: Callable[[Path], Any]
) -> None:
    cfg = tiny_config({**CASES[name], "MODEL.ROI_HEADS.NUM_CLASSES": 3}, STEPS)
    theirs = train_as_vitdet(cfg, tmp_path / "theirs")
    engine.train(cfg, tmp_path / "ours")
    ours = weights_of(tmp_path / "ours")
    assert list(ours) == list(theirs)
    differ = [key for key, value in theirs.items() if not torch.equal(ours[key], value)]
    assert not differ
