"""Average recall of proposals: values by hand, and Detectron2's function on random sets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.transfer.toy_data import write_coco, write_voc
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate, evaluator_id
from transfer.evaluate.detections import Detections
from transfer.evaluate.proposal_recall import objects_of, proposal_recall


def proposals(rows: dict[Any, list[list[float]]]) -> Detections:
    """``rows``: image id -> [x0, y0, x1, y1, logit]."""
    images = []
    for image_id, found in rows.items():
        array = np.array(found, dtype=np.float32).reshape(-1, 5)
        images.append((image_id, array[:, :4], array[:, 4], np.zeros(len(array)), None))
    joined = Detections.from_images(images)
    joined.are_proposals = True
    return joined


def objects(*boxes: list[float]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return array, (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])


def test_recall_by_hand() -> None:
    # object 1 is covered by 3/4 of the union (6 of 10 thresholds: .5 .. .75), object 2 exactly, object 3 not at all
    truth = {"a": objects([0, 0, 40, 40], [60, 0, 100, 40]), "b": objects([0, 0, 10, 10])}
    found = proposals({"a": [[0, 0, 40, 30, 2.0], [60, 0, 100, 40, 1.0]], "b": [[50, 50, 60, 60, 0.0]]})
    recall = proposal_recall(truth, found)
    assert recall["AR@1000"] == pytest.approx(100 * (6 * 2 + 4 * 1) / 30)
    assert recall["ARs@1000"] == 0.0
    assert recall["ARm@1000"] == pytest.approx(100 * (6 * 2 + 4 * 1) / 20)
    assert math.isnan(recall["ARl@1000"])


def test_a_proposal_finds_one_object() -> None:
    found = proposals({1: [[0, 0, 10, 10, 0.0]]})
    assert proposal_recall({1: objects([0, 0, 10, 10], [0, 0, 10, 10])}, found)["AR@100"] == 50.0


def test_only_the_best_hundred_count() -> None:
    rows = [[50.0, 50, 60, 60, 5.0 - k / 100] for k in range(100)] + [[0.0, 0, 10, 10, -9.0]]
    recall = proposal_recall({1: objects([0, 0, 10, 10])}, proposals({1: rows}))
    assert (recall["AR@100"], recall["AR@1000"]) == (0.0, 100.0)


def test_an_image_without_proposals_has_its_objects_missed() -> None:
    recall = proposal_recall(
        {1: objects([0, 0, 10, 10]), 2: objects([0, 0, 10, 10])}, proposals({1: [[0, 0, 10, 10, 0.0]], 2: []})
    )
    assert recall["AR@100"] == 50.0


def test_crowds_and_difficult_objects_are_left_out(tmp_path: Path) -> None:
    coco = get_dataset(write_coco(tmp_path / "coco"))
    crowds = sum(a["iscrowd"] for a in coco.content()["annotations"])
    assert crowds > 0
    assert sum(len(boxes) for boxes, _ in objects_of(coco).values()) == coco.summary.annotations - crowds
    voc = get_dataset(write_voc(tmp_path / "voc", {"a": [("cat", 0, [1, 1, 20, 20]), ("dog", 1, [5, 5, 30, 30])]}))
    assert objects_of(voc)["a"][0].tolist() == [[0.0, 0.0, 20.0, 20.0]]


def test_a_data_set_is_scored_by_recall(tmp_path: Path) -> None:
    spec = get_dataset(write_coco(tmp_path))
    rows = {r["image_id"]: [[0.0, 0, r["width"], r["height"], 1.0]] for r in spec.records()}
    metrics, used = evaluate(spec, proposals(rows))
    assert list(metrics) == ["box_proposals"]
    assert used == evaluator_id(spec, proposals=True) == "proposals/recall-1000"


@pytest.mark.detectron2
@pytest.mark.parametrize("seed", range(20))
def test_recall_equals_detectron2(seed: int, tmp_path: Path) -> None:
    import torch
    from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
    from detectron2.structures import Boxes, Instances
    from pycocotools.coco import COCO

    rng = np.random.RandomState(seed)
    spec = get_dataset(write_coco(tmp_path / "images"))
    content = spec.content()
    for annotation in content["annotations"]:
        annotation["area"] = float(rng.choice([900, 1024, 3000, 9216, 20000]))
    rows = {}
    for record in spec.records():
        boxes = [[a["bbox"][0], a["bbox"][1], *np.add(a["bbox"][:2], a["bbox"][2:])] for a in record["annotations"]]
        moved = np.array(boxes * 40) + rng.normal(0, 4, (40 * len(boxes), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        rows[record["image_id"]] = np.concatenate([moved, rng.normal(0, 2, (len(moved), 1)).round(1)], 1).tolist()
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    ours = proposals(rows)
    theirs = []
    for index, image_id in enumerate(ours.image_ids):
        mine = ours.image_index == index
        one = Instances((100, 100))
        one.proposal_boxes = Boxes(torch.from_numpy(ours.boxes[mine]))
        one.objectness_logits = torch.from_numpy(ours.scores[mine])
        theirs.append({"image_id": image_id, "proposals": one})
    by_image = {i: objects_of(spec)[i] for i in ours.image_ids}
    for image_id, (boxes, _) in by_image.items():
        kept = [a["area"] for a in content["annotations"] if a["image_id"] == image_id and not a["iscrowd"]]
        by_image[image_id] = boxes, np.array(kept, dtype=np.float32)
    recall = proposal_recall(by_image, ours)
    for limit in (100, 1000):
        for area, suffix in {"all": "", "small": "s", "medium": "m", "large": "l"}.items():
            expected = float(_evaluate_box_proposals(theirs, truth, area=area, limit=limit)["ar"].item() * 100)
            assert recall[f"AR{suffix}@{limit}"] == pytest.approx(expected, abs=0, nan_ok=True)
