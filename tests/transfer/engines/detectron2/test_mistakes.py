"""Mistakes behind Detectron2: the same line as the embedded engine's, and checkpoints of something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch
from transfer.config import CONFIG_FOLDER, changed_keys, load_config

pytestmark = pytest.mark.detectron2

ONE_PIXEL = {  # a batch norm behind a stride of 32 sees one value per channel of one image of this size
    "INPUT.MIN_SIZE_TRAIN": (16,),
    "INPUT.MAX_SIZE_TRAIN": 32,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.MAX_ITER": 1,
}
FEDERATED = {"MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SOLVER.MAX_ITER": 5, "SOLVER.STEPS": (5,)}, r"SOLVER.STEPS \(5,\) must rise from 1 and end before"),
        (ONE_PIXEL, "a batch norm sees one value per channel at iteration 0, images"),
        ({"SOLVER.BASE_LR": 1e12, "SOLVER.MAX_ITER": 6, "SOLVER.WARMUP_ITERS": 0}, "the loss is not finite"),
        ({"SOLVER.IMS_PER_BATCH": 3, "SOLVER.REFERENCE_WORLD_SIZE": 2}, "not a multiple of REFERENCE_WORLD_SIZE 2"),
    ],
)
def test_both_engines_end_with_the_same_message(
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    tiny_config: Callable[..., Any],
    engine: Any,
    detectron2_engine: Any,
) -> None:
    said = []
    for one in (engine, detectron2_engine):
        with pytest.raises(UserError, match=message) as caught:
            one.train(tiny_config(settings), tmp_path / one.name)
        said.append(str(caught.value).split(" (")[0])
        assert not (tmp_path / one.name / "model_final.pth").exists()
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MODEL.META_ARCHITECTURE": "SemanticSegmentor"}, "MODEL.META_ARCHITECTURE 'SemanticSegmentor'"),
        ({"MODEL.META_ARCHITECTURE": "PanopticFPN"}, "MODEL.META_ARCHITECTURE 'PanopticFPN'"),
        ({"MODEL.META_ARCHITECTURE": "YOLO"}, "MODEL.META_ARCHITECTURE 'YOLO' is not registered in Detectron2"),
        ({"MODEL.RESNETS.NORM": "XN"}, "MODEL.RESNETS.NORM 'XN' is not a norm"),
        (
            {"MODEL.RESNETS.DEPTH": 20},
            "DEPTH 20 is not supported by engine detectron2; choose one of 18, 34",
        ),
        ({"MODEL.RESNETS.DEPTH": 18}, "RES2_OUT_CHANNELS must be 64 for DEPTH 18 and 34 .engine detectron2"),
        ({"MODEL.ROI_BOX_HEAD.NAME": ""}, "MODEL.ROI_BOX_HEAD.NAME must be FastRCNNConvFCHead"),
        (
            {"SOLVER.CLIP_GRADIENTS.ENABLED": True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full"},
            "CLIP_TYPE 'full' is not supported by engine detectron2",
        ),
        ({"DATALOADER.SAMPLER_TRAIN": "RandomSubsetTrainingSampler"}, "SAMPLER_TRAIN 'RandomSubsetTrainingSampler'"),
        ({"MODEL.ROI_BOX_HEAD.USE_FED_LOSS": True}, "USE_FED_LOSS needs USE_SIGMOID_CE True"),
        (FEDERATED, "USE_FED_LOSS needs .* LVIS v1 only, not for data set coco:"),
    ],
)
def test_what_no_run_could_be_made_with_is_named(
    settings: dict[str, Any], message: str, tiny_config: Callable[..., Any], detectron2_engine: Any
) -> None:
    with pytest.raises(UserError, match=message):
        detectron2_engine.check(tiny_config(settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True},
        {"MODEL.META_ARCHITECTURE": "ProposalNetwork"},
        {"MODEL.RESNETS.NORM": "LN"},
        {"DATASETS.TRAIN": ("lvis_v1_train",), **FEDERATED},
    ],
)
def test_what_detectron2_knows_is_let_through(
    settings: dict[str, Any], tiny_config: Callable[..., Any], detectron2_engine: Any
) -> None:
    detectron2_engine.check(tiny_config(settings))


def test_every_config_that_the_embedded_engine_runs_is_let_through(detectron2_engine: Any) -> None:
    for path in sorted(CONFIG_FOLDER.glob("*.yaml")):
        from transfer.engines.detectron2.support import EMBEDDED_ONLY

        cfg = load_config(path)
        used = changed_keys(cfg)
        if any(key.startswith("ENGINE.") or key in EMBEDDED_ONLY for key in used):
            with pytest.raises(
                UserError, match="is not supported by engine detectron2; use --engine torchvision for it"
            ):
                detectron2_engine.check(cfg)
        else:
            detectron2_engine.check(cfg)


def test_switches_of_arithmetic_are_set(
    tmp_path: Path, tiny_config: Callable[..., Any], detectron2_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    cfg = tiny_config({"CUDNN_BENCHMARK": True, "FLOAT32_PRECISION": "high", "SOLVER.MAX_ITER": 1})
    detectron2_engine.train(cfg, tmp_path)
    assert torch.backends.cudnn.benchmark
    assert asked == ["high"]


def test_a_reference_world_size_scales_batch_and_schedule_alike(
    tmp_path: Path, tiny_config: Callable[..., Any], engine: Any, detectron2_engine: Any, weights_of: Callable
) -> None:
    cfg = tiny_config({"SOLVER.IMS_PER_BATCH": 4, "SOLVER.MAX_ITER": 1, "SOLVER.REFERENCE_WORLD_SIZE": 2})
    done = [one.train(cfg, tmp_path / one.name).iterations for one in (engine, detectron2_engine)]
    assert done == [2, 2]
    ours, theirs = weights_of(tmp_path / "torchvision"), weights_of(tmp_path / "detectron2")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("damage", "settings", "message"),
    [
        (lambda c: c["trainer"].pop("_trainer"), {}, "was written by a different config"),
        (lambda c: c.update(model=[]), {}, "was written by a different config"),
        (lambda c: c["trainer"].update(iteration="x"), {}, "was written by a different config"),
        (lambda c: c["trainer"]["_trainer"].update(optimizer={"a": 1}), {}, "was written by a different config"),
        (lambda c: c.update(exact_resume=5), {"SOLVER.MAX_ITER": 3}, "was written by a different config"),
        (lambda c: None, {"MODEL.FPN.OUT_CHANNELS": 16}, "was written by a different config"),
        (lambda c: None, {"SOLVER.MAX_ITER": 1}, "has 2 iterations, SOLVER.MAX_ITER is 1"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    damage: Callable[[dict[str, Any]], Any],
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    short_run: Path,
    tiny_config: Callable[..., Any],
    detectron2_engine: Any,
) -> None:
    content = load_torch(short_run / "model_final.pth")
    damage(content)
    torch.save(content, tmp_path / "model_final.pth")
    with pytest.raises(UserError, match=message):
        detectron2_engine.train(tiny_config({"SOLVER.MAX_ITER": 2}, settings), tmp_path, resume=True)


@pytest.fixture(scope="module")
def short_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Any], detectron2_engine: Any
) -> Path:
    """The folder of two iterations."""
    folder = tmp_path_factory.mktemp("short")
    detectron2_engine.train(tiny_config({"SOLVER.MAX_ITER": 2}), folder)
    return folder
