"""Faster arithmetic of detection against the exact one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import UserError
from tests.transfer.engines.engine_cases import CASES, COMMON, draw_inputs, run_embedded
from transfer.engines.torchvision.inference_arithmetic import FOLDABLE, detection_model, in_arithmetic
from transfer.engines.torchvision.model.instances import ImageDetections
from transfer.engines.torchvision.model.poolers import ROIPooler

CPU = torch.device("cpu")


def trained(name: str) -> tuple[Any, list[dict[str, Any]]]:
    """A parity case's detector after a training step, and its images."""
    inputs = draw_inputs({**COMMON, **CASES[name]}["MODEL.ROI_HEADS.NUM_CLASSES"])
    return run_embedded(CASES[name], inputs)["model"].eval(), inputs


@torch.inference_mode()
def detect(model: Any, inputs: list[dict[str, Any]], arithmetic: str) -> list[ImageDetections]:
    return in_arithmetic(detection_model(model, arithmetic), arithmetic, CPU)(inputs)


def found_again(exact: ImageDetections, other: ImageDetections) -> float:
    """Share of the detections that the other run has too: the same class, nearly the same box and score."""
    near = (exact.boxes[:, None] - other.boxes[None]).abs().amax(dim=2) < 0.1
    near &= (exact.scores[:, None] - other.scores[None]).abs() < 0.01
    near &= exact.classes[:, None] == other.classes[None]
    return float(near.any(dim=1).float().mean())


@pytest.mark.parametrize(
    "name", ["fpn_mask", "fpn_mask_syncbn", "fpn_mask_gn", "fpn_4conv1fc", "fpn_resnext", "dc5_moco", "c4_mask_moco"]
)
def test_folded_norms_detect_the_same(name: str) -> None:
    model, inputs = trained(name)
    folded = detection_model(model, "folded")
    with torch.no_grad():
        features = model.backbone(model.batch_images(inputs)[0])
        others = folded.backbone(folded.batch_images(inputs)[0])
    for level, feature in features.items():
        assert float((others[level] - feature).abs().max()) <= 1e-4 * float(feature.abs().max())
    for one, other in zip(detect(model, inputs, "exact"), detect(model, inputs, "folded")):
        assert len(one) > 0
        assert found_again(one, other) > 0.9  # candidates that tie may change places


def test_only_a_copy_is_folded() -> None:
    model, inputs = trained("fpn_mask_syncbn")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fast = detection_model(model, "folded")
    assert not any(isinstance(module, FOLDABLE) for module in fast.modules())
    assert any(isinstance(module, FOLDABLE) for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert detection_model(model, "exact") is model
    images, _ = fast.batch_images(inputs)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_norm_after_a_residual_block_stays() -> None:
    model, _ = trained("c4_voc_moco")
    left = [n for n, m in detection_model(model, "folded").named_modules() if isinstance(m, FOLDABLE)]
    assert left == ["roi_heads.res5.norm"]


def test_bfloat16_detects_nearly_the_same() -> None:
    model, inputs = trained("fpn_mask")
    model.roi_heads.box_predictor.topk_per_image = 10
    for exact, rough in zip(detect(model, inputs, "exact"), detect(model, inputs, "bfloat16")):
        assert rough.boxes.dtype == torch.float32
        assert len(rough) == len(exact)
        assert float((rough.scores.float() - exact.scores).abs().mean()) < 0.02


def test_bfloat16_features_are_pooled_at_exact_places() -> None:
    ramp = (torch.arange(1024.0) % 64).expand(1, 4, 32, 1024)
    pooler = ROIPooler(7, strides=[1], sampling_ratio=0, pooler_type="ROIAlignV2")
    boxes = [torch.tensor([[902.0, 2.0, 916.0, 16.0]])]  # in bfloat16 902 is 904
    pooled = pooler([ramp.bfloat16()], boxes).float()
    assert float((pooled - pooler([ramp], boxes)).abs().max()) <= 0.07  # half a step of bfloat16 below 32


def test_the_setting_reaches_detection(
    tmp_path: Path, engine: Any, tiny_config: Callable[..., Any], tiny_coco: str
) -> None:
    settings = {"SOLVER.MAX_ITER": 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "MODEL.MASK_ON": True}
    engine.train(tiny_config(settings), tmp_path)
    found = {
        arithmetic: engine.detect(
            tiny_config(settings, {"ENGINE.TEST_ARITHMETIC": arithmetic}), tmp_path / "model_final.pth", tiny_coco
        )
        for arithmetic in ("exact", "folded", "bfloat16")
    }
    assert len(found["folded"]) == len(found["exact"]) > 0
    differences = abs(found["folded"].scores - found["exact"].scores)
    assert 0 < differences.max() < 1e-4
    assert abs(found["bfloat16"].scores[:8] - found["exact"].scores[:8]).max() < 0.05


def test_unknown_arithmetic_is_refused(engine: Any, tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="ENGINE.TEST_ARITHMETIC 'float8'.*'exact', 'folded', 'bfloat16'"):
        engine.check(tiny_config({"ENGINE.TEST_ARITHMETIC": "float8"}))
