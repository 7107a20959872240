"""VOC numbers: the published example, hand-made cases, and Detectron2's evaluator."""

import json
import math

import numpy as np
import pytest

from tests.transfer.toy_data import write_voc
from transfer.data.catalog import get_dataset
from transfer.data.voc import VOC_CLASSES
from transfer.evaluate import evaluate
from transfer.evaluate.detections import Detections
from transfer.evaluate.voc_ap import average_precision, match, voc_ap, written_boxes


@pytest.mark.shared
def test_published_example(shared_data):
    folder = shared_data("eval_fixtures") / "voc_case1"
    expected = json.loads((folder / "expected.json").read_text())

    def read(part):
        rows = []
        for image, file in enumerate(sorted((folder / part).glob("*.txt"))):
            for line in file.read_text().splitlines():
                *head, x, y, w, h = line.split()[1:]
                rows.append(
                    (
                        image,
                        float(head[0]) if head else 0.0,
                        float(x),
                        float(y),
                        float(x) + float(w),
                        float(y) + float(h),
                    )
                )
        return np.array(rows)

    found, truth = read("dets"), read("gts")
    matches = match(found[:, 2:], found[:, 1], found[:, 0], truth[:, 2:], truth[:, 0], np.zeros(len(truth), dtype=bool))
    for threshold, values in expected["recomputed"].items():
        assert average_precision(matches, float(threshold), eleven_point=False) == pytest.approx(
            values["every_point"], abs=1e-12
        )
        assert average_precision(matches, float(threshold), eleven_point=True) == pytest.approx(
            values["eleven_point"], abs=1e-12
        )


def one_class(boxes, scores, truth, difficult=None):
    difficult = np.zeros(len(truth), bool) if difficult is None else np.array(difficult)
    images, objects = np.zeros(len(boxes), int), np.zeros(len(truth), int)
    return match(
        np.array(boxes, float).reshape(-1, 4), np.array(scores), images, np.array(truth, float), objects, difficult
    )


A, B = [1, 1, 10, 10], [31, 31, 60, 60]


def test_a_second_detection_of_an_object_is_wrong():
    matches = one_class([A, A, B], [0.9, 0.8, 0.7], [A, B])
    assert average_precision(matches, 0.5, eleven_point=False) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_difficult_objects_neither_count_nor_punish():
    matches = one_class([B, A], [0.9, 0.8], [A, B], [False, True])
    assert matches.positives == 1
    assert average_precision(matches, 0.5, eleven_point=True) == pytest.approx(1.0)


def test_overlap_must_be_above_the_threshold():
    matches = one_class([[1, 1, 10, 5]], [0.9], [A])
    assert matches.overlap[0] == 0.5
    assert average_precision(matches, 0.5, eleven_point=True) == 0.0


def test_a_width_includes_both_ends():
    assert one_class([[1, 1, 10, 9]], [0.9], [A]).overlap[0] == pytest.approx(0.9)


def test_boxes_are_rounded_as_text_would_be():
    boxes = np.array([[0.04, 0.05, 10.25, 10.35], [99.95, 7.449999, 120.0, 33.333]], dtype=np.float32)
    expected = []
    for x0, y0, x1, y1 in boxes:
        expected.append([float(f"{v:.1f}") for v in (x0 + np.float32(1), y0 + np.float32(1), x1, y1)])
    assert written_boxes(boxes).tolist() == expected


def test_classes_without_objects_or_detections(tmp_path):
    objects = {"a": [("dog", 0, [1, 1, 20, 20])]}
    found = Detections(["a"], [0, 0], [11, 7], [[0, 0, 20, 20], [5, 5, 9, 9]], [0.9, 0.8])
    metrics, name = evaluate(get_dataset(write_voc(tmp_path / "x", objects)), found)
    assert name == "voc/2007-11pt"
    assert metrics["bbox"]["AP-dog"] == pytest.approx(100)
    assert metrics["bbox"]["AP50"] == pytest.approx(100 / 20)
    later, name = evaluate(get_dataset(write_voc(tmp_path / "y", objects, year=2012)), found)
    assert name == "voc/area"
    assert math.isnan(later["bbox"]["AP"])  # detections of a class that has no object


@pytest.mark.detectron2
@pytest.mark.parametrize("year", [2007, 2012])
def test_equal_to_detectron2(tmp_path, year):
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    rng = np.random.default_rng(year)
    objects, per_image = {}, []
    for k in range(12):
        listed = []
        for _ in range(rng.integers(0, 5)):
            x, y = rng.integers(1, 60, 2)
            listed.append(
                (
                    VOC_CLASSES[rng.integers(0, 4)],
                    int(rng.uniform() < 0.3),
                    [x, y, x + rng.integers(5, 39), y + rng.integers(5, 19)],
                )
            )
        objects[f"im{k}"] = listed
    spec = get_dataset(write_voc(tmp_path, objects, year=year))
    # distinct scores: Detectron2 leaves the order of equal ones to numpy's unstable sort
    scores = iter(rng.permutation(999)[:400] / 1000)
    for image_id, listed in objects.items():
        boxes = [np.array(b) - [1, 1, 0, 0] + rng.normal(0, 1.5, 4) for _, _, b in listed for _ in range(2)]
        labels = [VOC_CLASSES.index(name) for name, _, _ in listed for _ in range(2)]
        boxes, labels = [*boxes, np.array([3, 4, 30, 40.0])], [*labels, int(rng.integers(0, 4))]
        per_image.append((image_id, np.array(boxes, np.float32), [float(next(scores)) for _ in boxes], labels))
    MetadataCatalog.pop("toy_voc", None)
    folder = str(tmp_path / f"VOC{year}")
    MetadataCatalog.get("toy_voc").set(dirname=folder, year=year, split="test", thing_classes=list(VOC_CLASSES))
    evaluator = PascalVOCDetectionEvaluator("toy_voc")
    evaluator.reset()
    for image_id, boxes, values, labels in per_image:
        instances = Instances((80, 100))
        instances.pred_boxes, instances.scores = Boxes(torch.tensor(boxes)), torch.tensor(values)
        instances.pred_classes = torch.tensor(labels)
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    theirs = evaluator.evaluate()["bbox"]
    found = Detections.from_images((i, b, s, c, None) for i, b, s, c in per_image)
    ours = voc_ap(spec.records(), found, spec.class_names, eleven_point=year == 2007)
    for key in ("AP", "AP50", "AP75"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-12, nan_ok=True)
    assert ours["AP50"] > 5
