"""Whole trainings: Detectron2 alone, Detectron2 behind this project's engine, and the embedded engine."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.metrics import read_metrics
from runtime.torch_files import load_torch
from tests.transfer.engines.detectron2_alone import train_with_detectron2_alone
from tests.transfer.engines.engine_cases import EXTRA_NORM_C4

pytestmark = pytest.mark.detectron2

TWENTY = {
    "SOLVER.MAX_ITER": 20,
    "SOLVER.STEPS": (12, 16),
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "MODEL.MASK_ON": True,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.FPN.NORM": "SyncBN",
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DATALOADER.NUM_WORKERS": 1,
    "SOLVER.CHECKPOINT_PERIOD": 8,
}


def write_backbone(path: Path, cfg: Any) -> str:
    """A random backbone under bare names, as the converter writes it."""
    from transfer.engines.torchvision.builder import build_backbone

    torch.manual_seed(5)
    bare = cfg.clone()
    bare.merge_from_list(["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res5"]])
    tensors = {name: np.array(value) for name, value in build_backbone(bare).state_dict().items()}
    path.write_bytes(pickle.dumps({"model": tensors, "__author__": "tests", "matching_heuristics": True}))
    return str(path)


# without loader workers, precise batch norm and training draw from the same generator
WITHOUT_WORKERS = {"DATALOADER.NUM_WORKERS": 0, "TEST.EVAL_PERIOD": 6}


@pytest.mark.parametrize("kind", ["fpn", "c4", "without workers"])
def test_twenty_iterations_end_with_equal_weights(
    kind: str, tmp_path: Path, tiny_config: Callable[..., Any], engine: Any, detectron2_engine: Any
) -> None:
    cfg = tiny_config(TWENTY, {"fpn": {}, "c4": EXTRA_NORM_C4, "without workers": WITHOUT_WORKERS}[kind])
    cfg.MODEL.WEIGHTS = write_backbone(tmp_path / "backbone.pkl", cfg)
    alone = train_with_detectron2_alone(cfg, tmp_path / "alone")
    detectron2_engine.train(cfg, tmp_path / "around")
    engine.train(cfg, tmp_path / "embedded")
    for other in ("around", "embedded"):
        content = load_torch(tmp_path / other / "model_final.pth")
        assert list(content["model"]) == list(alone["model"])
        for name, value in alone["model"].items():
            assert torch.equal(content["model"][name], value), (other, name)
        theirs, ours = (c["trainer"]["_trainer"]["optimizer"]["state"] for c in (alone, content))
        assert all(torch.equal(theirs[k]["momentum_buffer"], ours[k]["momentum_buffer"]) for k in theirs)
        assert {p.name for p in (tmp_path / other).glob("*.pth")} == {
            p.name for p in (tmp_path / "alone").glob("*.pth")
        }
    records = [read_metrics(tmp_path / name / "metrics.json")[-1] for name in ("alone", "around", "embedded")]
    for key in ("total_loss", "loss_cls", "loss_rpn_loc", "lr"):
        assert records[0][key] == pytest.approx(records[1][key]) == pytest.approx(records[2][key])


def test_either_engine_reads_the_others_checkpoint(
    tmp_path: Path, tiny_config: Callable[..., Any], engine: Any, detectron2_engine: Any, tiny_coco: str
) -> None:
    cfg = tiny_config({"MODEL.MASK_ON": True, "SOLVER.MAX_ITER": 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0})
    engine.train(cfg, tmp_path / "a")
    detectron2_engine.train(cfg, tmp_path / "b")
    for folder in ("a", "b"):
        ours = engine.detect(cfg, tmp_path / folder / "model_final.pth", tiny_coco)
        theirs = detectron2_engine.detect(cfg, tmp_path / folder / "model_final.pth", tiny_coco)
        assert len(ours) > 50
        for field in ("image_index", "category", "boxes", "scores"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field
        assert ours.image_ids == theirs.image_ids
        assert [m["counts"] for m in ours.masks] == [m["counts"] for m in theirs.masks]


@pytest.mark.parametrize("masks", [True, False])
def test_augmented_detections_are_equal(
    masks: bool, tmp_path: Path, tiny_config: Callable[..., Any], engine: Any, detectron2_engine: Any, tiny_coco: str
) -> None:
    aug = {"TEST.AUG.ENABLED": True, "TEST.AUG.MIN_SIZES": (56, 72), "TEST.AUG.MAX_SIZE": 100}
    cfg = tiny_config({"MODEL.MASK_ON": masks, "SOLVER.MAX_ITER": 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}, aug)
    engine.train(cfg, tmp_path)
    ours = engine.detect(cfg, tmp_path / "model_final.pth", tiny_coco)
    theirs = detectron2_engine.detect(cfg, tmp_path / "model_final.pth", tiny_coco)
    assert len(ours) > 100
    for field in ("image_index", "category", "boxes", "scores"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field
    if masks:
        assert [m["counts"] for m in ours.masks] == [m["counts"] for m in theirs.masks]


def test_detectron2_resumes_exactly(
    tmp_path: Path, tiny_config: Callable[..., Any], detectron2_engine: Any, weights_of: Callable[[Path], Any]
) -> None:
    cfg = tiny_config(
        {
            "SOLVER.MAX_ITER": 6,
            "TEST.EVAL_PERIOD": 2,
            "TEST.PRECISE_BN.ENABLED": True,
            "TEST.PRECISE_BN.NUM_ITER": 1,
        }
    )

    class StopAt:
        left = 3

        @property
        def requested(self) -> bool:
            self.left -= 1
            return self.left <= 0

    seen: list[int] = []

    def after_eval(iteration: int, detections: Any) -> dict[str, float]:
        seen.append(iteration)
        return {"bbox/AP": 1.0}

    detectron2_engine.train(cfg, tmp_path / "whole", after_eval=after_eval)
    first = detectron2_engine.train(cfg, tmp_path / "parts", stop=StopAt(), after_eval=lambda i, d: {})
    assert (first.iterations, first.stopped) == (3, True)
    np.random.seed(1)
    detectron2_engine.train(cfg, tmp_path / "parts", resume=True, after_eval=lambda i, d: {})
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert seen == [2, 4]


def test_own_keys_are_refused_by_name(tiny_config: Callable[..., Any], detectron2_engine: Any) -> None:
    with pytest.raises(UserError, match="ENGINE.ACCUMULATE 2 is not supported by engine detectron2"):
        detectron2_engine.check(tiny_config({"ENGINE.ACCUMULATE": 2}))


def test_heads_are_registered_on_import(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    from detectron2.engine import DefaultPredictor

    import transfer.engines.detectron2.heads  # noqa: F401
    from transfer.engines.detectron2.engine import detectron2_config

    own = detectron2_config(tiny_config(TWENTY, EXTRA_NORM_C4), tmp_path)
    found = DefaultPredictor(own)(np.zeros((64, 80, 3), np.uint8))["instances"]
    assert found.image_size == (64, 80)
