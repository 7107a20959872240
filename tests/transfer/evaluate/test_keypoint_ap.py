"""Keypoint AP: equal to pycocotools and to Detectron2's evaluator, and what is refused."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest

from runtime.errors import UserError
from tests.transfer.keypoint_data import near_truth, write_keypoints
from tests.transfer.toy_data import write_coco, write_voc
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate
from transfer.evaluate.detections import Detections
from transfer.evaluate.keypoint_ap import SUMMARY, keypoint_ap, keypoint_results
from transfer.evaluate.match_tables import match_table


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return get_dataset(write_keypoints(tmp_path_factory.mktemp("people")))


def by_pycocotools(spec, detections):
    """The library as its own demo uses it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(spec.annotations))
        evaluation = COCOeval(truth, truth.loadRes(keypoint_results(detections, [1])), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(SUMMARY, (evaluation.stats[:5] * 100).tolist()))


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools(people, seed):
    detections = near_truth(people, seed)
    metrics, _ = evaluate(people, detections)
    assert list(metrics) == ["bbox", "keypoints"]
    expected = by_pycocotools(people, detections)
    assert 5 < expected["AP"] < 95
    for key, value in metrics["keypoints"].items():
        assert value == pytest.approx(expected[key]) or (np.isnan(value) and expected[key] == -100)


@pytest.mark.detectron2
def test_equal_to_detectron2s_evaluator(people, tmp_path):
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    from tests.transfer.engines.detectron2_alone import register_datasets

    register_datasets([people.name])
    MetadataCatalog.get(people.name).set(json_file=str(people.annotations), thing_dataset_id_to_contiguous_id={1: 0})
    detections = near_truth(people, 5)
    theirs = COCOEvaluator(people.name, ("bbox", "keypoints"), distributed=False, output_dir=str(tmp_path))
    theirs.reset()
    for k, image_id in enumerate(detections.image_ids):
        rows = detections.image_index == k
        found = Instances((96, 96))
        found.pred_boxes, found.scores = Boxes(detections.boxes[rows]), torch.tensor(detections.scores[rows])
        found.pred_classes = torch.tensor(detections.category[rows])
        found.pred_keypoints = torch.tensor(detections.keypoints[rows])
        theirs.process([{"image_id": image_id}], [{"instances": found}])
    expected = theirs.evaluate()
    metrics, _ = evaluate(people, detections)
    for task in ("bbox", "keypoints"):
        for key, value in expected[task].items():
            assert metrics[task][key] == pytest.approx(value, nan_ok=True), (task, key)


def test_perfect_detections_are_100_and_none_are_0(people):
    content = json.loads(people.annotations.read_text())
    images = [
        (r["image_id"], [[x, y, x + w, y + h]], [0.9], [0], None, np.array(a["keypoints"]).reshape(1, 17, 3))
        for r in people.records()
        for a in r["annotations"][:1]
        for x, y, w, h in [a["bbox"]]
    ]
    of_first = {image[0] for image in images}
    content["annotations"] = [
        next(a for a in content["annotations"] if a["image_id"] == image_id) for image_id in sorted(of_first)
    ]
    for annotation in content["annotations"]:
        del annotation["num_keypoints"]
    assert keypoint_ap(content, Detections.from_images(images), [1])["AP"] == pytest.approx(100)
    nothing = Detections([1], [], [], [], [], keypoints=np.zeros((0, 17, 3)))
    assert keypoint_ap(content, nothing, [1]) == dict.fromkeys(SUMMARY, 0.0)


def test_tighter_sigmas_lower_the_score(people):
    detections = near_truth(people, 1)
    usual = keypoint_ap(people.content(), detections, [1])["AP"]
    assert keypoint_ap(people.content(), detections, [1], [0.01] * 17)["AP"] < usual
    with pytest.raises(UserError, match="KEYPOINT_OKS_SIGMAS has 5 entries"):
        keypoint_ap(people.content(), detections, [1], [0.1] * 5)


def test_what_cannot_be_scored_is_refused(people, tmp_path):
    detections = near_truth(people, 1)
    voc = get_dataset(write_voc(tmp_path, {"a": [("dog", 0, [1, 1, 9, 9])]}))
    found = Detections(["a"], [0], [0], [[1, 1, 5, 5]], [0.5], keypoints=np.zeros((1, 17, 3)))
    with pytest.raises(UserError, match="on COCO files only"):
        evaluate(voc, found)
    with pytest.raises(UserError, match="no keypoints"):
        keypoint_ap(people.content(), Detections([1], [0], [0], [[1, 1, 5, 5]], [0.5]), [1])
    content = copy.deepcopy(people.content())
    content["annotations"][0]["keypoints"] = [1, 2, 2]
    with pytest.raises(UserError, match="annotation 1 has 3 numbers in keypoints, not 51"):
        keypoint_ap(content, detections, [1])
    assert match_table(people, detections, "keypoints") is None


def test_keypoints_are_stored_with_the_detections(people, tmp_path):
    detections = near_truth(people, 2)
    detections.save(tmp_path / "d.npz")
    assert np.array_equal(Detections.load(tmp_path / "d.npz").keypoints, detections.keypoints)
    with pytest.raises(ValueError, match="N x K x 3"):
        Detections([1], [0], [0], [[1, 1, 5, 5]], [0.5], keypoints=np.zeros((1, 17)))


def test_keypoint_names_come_from_the_categories(people, tmp_path):
    assert people.summary.keypoint_names[:3] == ["nose", "left_eye", "right_eye"]
    assert get_dataset(write_coco(tmp_path / "toy", count=2)).summary.keypoint_names == []
