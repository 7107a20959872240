"""Keypoint R-CNN: trained, scored and resumed by both engines, with equal results."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch
from tests.transfer.engines.detectron2_alone import register_datasets, train_with_detectron2_alone
from tests.transfer.keypoint_data import NAMES, write_keypoints
from transfer.config import load_config
from transfer.data.catalog import get_dataset
from transfer.data.random_geometry import Draw
from transfer.engines.training.batches import build_mapper, training_records
from transfer.evaluate import evaluate
from transfer.evaluate.detections import Detections
from transfer.fine_tuning.checks import Datasets, check_keypoints

SHRUNK = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.DEPTH": "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "16",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "16",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": "(16,)",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "30",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "12",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MAX_SIZE_TRAIN": "96",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MAX_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.BASE_LR": "0.001",
    "SOLVER.MAX_ITER": "2",
    "TEST.PRECISE_BN.NUM_ITER": "1",
}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_keypoints(tmp_path_factory.mktemp("people"))


def arguments(people: str, folder: Path, engine: str, **opts: str) -> list[str]:
    data = f"('{people}',)"
    pairs = {**SHRUNK, "DATASETS.TRAIN": data, "DATASETS.TEST": data, "OUTPUT_DIR": str(folder), "SEED": "1", **opts}
    head = ["transfer/train_net.py", "--config-file", "coco_keypoints_R50_FPN_2x.yaml", "--init", "random"]
    return [*head, "--engine", engine, *(word for pair in pairs.items() for word in pair)]


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def test_keypoints_train_score_and_resume(
    engine: str, people: str, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    promise = {"TEST.EVAL_PERIOD": "1", "TEST.EXPECTED_RESULTS": "[['keypoints', 'AP', 50.0, 50.0]]"}
    run_cli(arguments(people, tmp_path, engine, **promise), check=0)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "finished"
    assert set(result["metrics"]) == {"bbox", "keypoints"}
    assert set(result["metrics"]["keypoints"]) == {"AP", "AP50", "AP75", "APm", "APl"}
    assert [e["iteration"] for e in result["history"]] == [1, 2]
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("loss_keypoint" in line for line in lines)
    assert any("keypoints/AP" in line for line in lines)
    found = Detections.load(tmp_path / result["detections"][0])
    assert found.keypoints is not None
    assert found.keypoints.shape == (len(found), len(NAMES), 3)
    again, _ = evaluate(get_dataset(people), found)
    for task, values in again.items():
        for key, value in values.items():
            assert result["metrics"][task][key] == (None if np.isnan(value) else pytest.approx(value))
    resumed = arguments(people, tmp_path, engine, **{"SOLVER.MAX_ITER": "3"})
    changed = ["--allow-change", "SOLVER.MAX_ITER", "--allow-change", "TEST.EVAL_PERIOD"]
    done = run_cli([*resumed[:5], "--resume", *changed, *resumed[5:]], check=0)
    assert "resuming from" in done.stdout
    assert "restarts" not in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["iterations"] == 3


@pytest.mark.detectron2
def test_twenty_iterations_equal_detectron2_with_its_own_loader(
    people: str, tmp_path: Path, engine: Any, detectron2_engine: Any
) -> None:
    words = arguments(people, tmp_path, "torchvision", **{"SOLVER.MAX_ITER": "20", "DATALOADER.NUM_WORKERS": "1"})
    cfg = load_config(words[2], words[7:])
    alone = train_with_detectron2_alone(cfg, tmp_path / "alone")["model"]
    detectron2_engine.train(cfg, tmp_path / "around")
    engine.train(cfg, tmp_path / "embedded")
    for name in ("around", "embedded"):
        other = load_torch(tmp_path / name / "model_final.pth")["model"]
        assert list(other) == list(alone)
        assert all(torch.equal(other[key], value) for key, value in alone.items())
    ours = engine.detect(cfg, tmp_path / "embedded" / "model_final.pth", people)
    theirs = detectron2_engine.detect(cfg, tmp_path / "embedded" / "model_final.pth", people)
    assert len(ours) > 20
    for field in ("image_index", "category", "boxes", "scores", "keypoints"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field


def test_a_mirrored_image_exchanges_left_and_right(people: str) -> None:
    words = arguments(people, Path("unused"), "torchvision", **{"INPUT.MIN_SIZE_TRAIN": "(80,)"})
    mapper = build_mapper(load_config(words[2], words[7:]), train=True)
    record = get_dataset(people).records()[0]
    plain, mirrored = (mapper(record, Draw(80, flip))["instances"]["keypoints"] for flip in (False, True))
    left, right = NAMES.index("left_wrist"), NAMES.index("right_wrist")
    seen = plain[:, left, 2] > 0
    assert seen.any()
    assert torch.equal(mirrored[:, right, 1:][seen], plain[:, left, 1:][seen])
    assert torch.allclose(mirrored[:, right, 0][seen], 96 - plain[:, left, 0][seen])
    hidden = plain[..., 2] == 0
    assert hidden.any()
    assert not plain[hidden].any()


def test_images_with_few_keypoints_are_left_out_of_training(people: str) -> None:
    def images(least: int) -> list[Any]:
        given = {"MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": str(least)}
        words = arguments(people, Path("unused"), "torchvision", **given)
        return [record["image_id"] for record in training_records(load_config(words[2], words[7:]))]

    assert images(0) == [1, 2, 3, 4, 5, 6, 7]  # number 8 has no person, number 3 one without a visible keypoint
    assert images(1) == [1, 2, 4, 5, 6, 7]
    assert set(images(20)) == {2, 4, 6}  # two persons each


def test_another_number_of_keypoints_is_one_line(people: str) -> None:
    record = copy.deepcopy(get_dataset(people).records()[0])
    record["annotations"][0]["keypoints"] = [1.0, 2.0, 2.0]
    words = arguments(people, Path("unused"), "torchvision")
    with pytest.raises(UserError, match=r"an annotation has 3 numbers in keypoints, 17 keypoints need 51"):
        build_mapper(load_config(words[2], words[7:]), train=True)(record, Draw(80, False))


@pytest.mark.detectron2
def test_mirrored_keypoints_change_sides(people: str) -> None:
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_FLIP_MAP, COCO_PERSON_KEYPOINT_NAMES

    register_datasets([people])
    metadata = MetadataCatalog.get(people)
    assert tuple(metadata.keypoint_names) == tuple(COCO_PERSON_KEYPOINT_NAMES)
    assert set(metadata.keypoint_flip_map) == set(COCO_PERSON_KEYPOINT_FLIP_MAP)


@pytest.mark.detectron2
def test_statistics_are_measured_so_that_ranks_agree(
    people: str, tmp_path: Path, detectron2_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.engine import hooks

    from transfer.engines.training import precise_bn

    def used(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("fvcore's precise batch norm leaves ranks with different statistics")

    averaged: list[int] = []
    original = precise_bn._averaged
    monkeypatch.setattr(hooks, "PreciseBN", used)

    def counted(*moments: Any) -> Any:
        averaged.append(1)
        return original(*moments)

    monkeypatch.setattr(precise_bn, "_averaged", counted)
    given = {**SHRUNK, "SOLVER.MAX_ITER": "1", "DATASETS.TRAIN": f"('{people}',)", "DATASETS.TEST": "()"}
    cfg = load_config("coco_keypoints_R50_FPN_2x.yaml", [word for pair in given.items() for word in pair])
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "BN"
    detectron2_engine.train(cfg, tmp_path)
    assert len(averaged) > 20  # every batch norm of the backbone


@pytest.mark.detectron2
def test_augmented_keypoints_are_refused(detectron2_engine: Any) -> None:
    cfg = load_config("coco_keypoints_R50_FPN_2x.yaml", ["TEST.AUG.ENABLED", "True"])
    with pytest.raises(UserError, match=r"TEST.AUG.ENABLED is not supported .* with MODEL.KEYPOINT_ON"):
        detectron2_engine.check(cfg)


@pytest.mark.parametrize(
    ("changes", "opts", "message"),
    [
        ({"keypoints": []}, [], "names 0 keypoints in its categories, MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is 17"),
        ({}, ["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "5"], "names 17 keypoints"),
        ({}, ["TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.2]"], "TEST.KEYPOINT_OKS_SIGMAS gives 2"),
    ],
)
def test_keypoints_that_do_not_fit_are_refused(
    changes: dict[str, Any], opts: list[str], message: str, tmp_path: Path
) -> None:
    data = f"('{write_keypoints(tmp_path, images=2, **changes)}',)"
    cfg = load_config("coco_keypoints_R50_FPN_2x.yaml", ["DATASETS.TRAIN", data, "DATASETS.TEST", data, *opts])
    datasets = Datasets.of(cfg, train=True)
    with pytest.raises(UserError, match=message):
        check_keypoints(cfg, datasets)
