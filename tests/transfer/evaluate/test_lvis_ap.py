"""LVIS numbers: the published example, and what makes them differ from COCO's."""

import json
import math

import pytest
from pycocotools import mask as coco_mask

from tests.transfer.toy_data import coco_content
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate
from transfer.evaluate.detections import Detections
from transfer.evaluate.lvis_ap import SUMMARY, lvis_ap

SQUARE = [10.0, 10.0, 40.0, 40.0]


@pytest.mark.shared
@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("part", ["", "_mini"])
def test_published_example(shared_data, task, part):
    folder = shared_data("eval_fixtures") / "lvis100"
    expected = json.loads((folder / ("expected_mini64.json" if part else "expected.json")).read_text())
    content = json.loads((folder / "lvis_val_100.json").read_text())
    if part:
        mini = shared_data("lvis_v05_mini") / "lvis_v05_mini" / "annotations" / "lvis_v0.5_val_mini.json"
        content = json.loads(mini.read_text())
    found = lvis_ap(content, json.loads((folder / f"fake_{task}_results{part}.json").read_text()), task)
    for key in SUMMARY:
        assert found[key] / 100 == pytest.approx(expected[task][key], abs=1e-12)


def federated(loose=(), negative=()):
    """Two images of classes 1 (rare, in image 1) and 2 (frequent, in both)."""
    image = {
        "width": 100,
        "height": 100,
        "not_exhaustive_category_ids": list(loose),
        "neg_category_ids": list(negative),
    }
    boxes = [(1, 1, SQUARE), (1, 2, [60.0, 60.0, 30.0, 30.0]), (2, 2, SQUARE)]
    return {
        "images": [{**image, "id": 1}, {**image, "id": 2}],
        "annotations": [
            {"id": k, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3]}
            for k, (i, c, b) in enumerate(boxes)
        ],
        "categories": [
            {"id": 1, "name": "x", "frequency": "r"},
            {"id": 2, "name": "y", "frequency": "f"},
            {"id": 3, "name": "z", "frequency": "c"},
        ],
    }


def found(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


RIGHT = [found(1, 1, SQUARE, 0.8), found(1, 2, [60.0, 60.0, 30.0, 30.0], 0.8), found(2, 2, SQUARE, 0.8)]
WRONG = found(2, 1, SQUARE, 0.9)


def test_perfect_detections():
    values = lvis_ap(federated(), RIGHT, "bbox", class_names=["x", "y", "z"])
    assert values["AP"] == pytest.approx(100)
    assert values["APr"] == pytest.approx(100)
    assert math.isnan(values["APc"])
    assert values["AP-y"] == pytest.approx(100)


def test_detections_of_classes_nobody_looked_for_do_not_count():
    assert lvis_ap(federated(), [*RIGHT, WRONG], "bbox")["APr"] == pytest.approx(100)
    assert lvis_ap(federated(negative=[1]), [*RIGHT, WRONG], "bbox")["APr"] == pytest.approx(50, abs=1)


def test_unmatched_detections_of_loose_classes_are_ignored():
    stray = found(1, 2, [0.0, 80.0, 9.0, 9.0], 0.9)
    assert lvis_ap(federated(), [*RIGHT, stray], "bbox")["APf"] < 80
    assert lvis_ap(federated(loose=[2]), [*RIGHT, stray], "bbox")["APf"] == pytest.approx(100)


def test_only_the_best_of_an_image_count_over_all_classes():
    crowd = [found(1, 2, [0.0, 80.0, 9.0, 9.0], 0.9)] * 3
    values = lvis_ap(federated(loose=[2]), [*crowd, *RIGHT], "bbox", max_detections=3)
    assert values["APr"] == 0.0
    assert values["APf"] == pytest.approx(50, abs=1)


def test_no_detection_is_zero():
    assert lvis_ap(federated(), [], "bbox")["AP"] == 0


def test_a_data_set_of_lvis_layout_is_evaluated_by_this_rule(tmp_path):
    content = coco_content(tmp_path / "images")
    for image in content["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    content["categories"] = [
        {**c, "frequency": f, "synonyms": [c["name"]]} for c, f in zip(content["categories"], "rcf")
    ]
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    spec = get_dataset(f"lvis:{tmp_path / 'lvis.json'}:{tmp_path / 'images'}")
    index = {r["image_id"]: k for k, r in enumerate(spec.records())}
    kept = content["annotations"]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in kept)]
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    masks = [coco_mask.merge(coco_mask.frPyObjects(a["segmentation"], *sizes[a["image_id"]])) for a in kept]
    labels = [spec.category_ids.index(a["category_id"]) for a in kept]
    detections = Detections(list(index), [index[a["image_id"]] for a in kept], labels, boxes, [0.9] * len(kept), masks)
    metrics, name = evaluate(spec, detections)
    assert name == "lvis/federated-300"
    for task in ("bbox", "segm"):
        assert [metrics[task][key] for key in ("AP", "APr", "APc", "APf")] == [pytest.approx(100)] * 4
