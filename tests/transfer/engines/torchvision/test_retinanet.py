"""RetinaNet in whole trainings: resumed to the same bits, and equal to Detectron2's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch
from tests.transfer.engines.detectron2_alone import train_with_detectron2_alone
from tests.transfer.engines.engine_cases import RETINANET
from transfer.config import flatten, load_config
from transfer.config.shapes import check_shapes
from transfer.engines.torchvision.model.focal_loss import skip_first_call

TRAINED = {
    **RETINANET,
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "MODEL.RPN.IN_FEATURES": ["p3"],
    "MODEL.MASK_ON": False,
    "SOLVER.MAX_ITER": 6,
}


class StopAfter:
    """Requests a stop in the given iteration."""

    def __init__(self, iterations: int) -> None:
        self.left = iterations

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("name", ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def test_a_resumed_training_continues_to_the_same_bits(
    name: str, tmp_path: Path, tiny_config: Callable[..., Any], weights_of: Callable[[Path], Any]
) -> None:
    from transfer.engines import resolve_engine

    engine, cfg = resolve_engine(name), tiny_config(TRAINED)
    skip_first_call()
    engine.train(cfg, tmp_path / "whole")
    engine.train(cfg, tmp_path / "parts", stop=StopAfter(3))
    assert not (tmp_path / "parts" / "model_final.pth").exists()
    engine.train(cfg, tmp_path / "parts", resume=True)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(parts[key], value) for key, value in whole.items())


@pytest.mark.detectron2
def test_twenty_iterations_equal_detectron2s(
    tmp_path: Path, tiny_config: Callable[..., Any], engine: Any, detectron2_engine: Any, tiny_coco: str
) -> None:
    cfg = tiny_config({**TRAINED, "SOLVER.MAX_ITER": 20, "DATALOADER.NUM_WORKERS": 1})
    skip_first_call()
    alone = train_with_detectron2_alone(cfg, tmp_path / "alone")["model"]
    detectron2_engine.train(cfg, tmp_path / "around")
    engine.train(cfg, tmp_path / "embedded")
    for other in ("around", "embedded"):
        model = load_torch(tmp_path / other / "model_final.pth")["model"]
        assert list(model) == list(alone)
        assert all(torch.equal(model[key], value) for key, value in alone.items()), other
    ours = engine.detect(cfg, tmp_path / "embedded" / "model_final.pth", tiny_coco)
    theirs = detectron2_engine.detect(cfg, tmp_path / "embedded" / "model_final.pth", tiny_coco)
    assert len(ours) > 50
    for field in ("image_index", "category", "boxes", "scores"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_an_impossible_prior_is_refused(prior: float) -> None:
    cfg = load_config("coco_RetinaNet_R50.yaml", ["MODEL.RETINANET.PRIOR_PROB", str(prior)])
    with pytest.raises(UserError, match="PRIOR_PROB .* must be above 0 and below 1"):
        check_shapes(flatten(cfg))


@pytest.mark.detectron2
def test_the_config_has_the_values_of_detectron2s() -> None:
    from detectron2 import model_zoo

    theirs = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    ours = load_config("coco_RetinaNet_R50.yaml")
    assert ours.MODEL.ANCHOR_GENERATOR.SIZES == theirs.MODEL.ANCHOR_GENERATOR.SIZES
    for section in ("RETINANET", "META_ARCHITECTURE"):
        assert str(ours.MODEL[section]) == str(theirs.MODEL[section])
    for key in ("BASE_LR", "STEPS", "MAX_ITER", "IMS_PER_BATCH"):
        assert ours.SOLVER[key] == theirs.SOLVER[key]
