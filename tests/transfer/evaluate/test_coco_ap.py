"""COCO numbers: the published example, pycocotools on 200 random sets, Detectron2's evaluator."""

import copy
import json
import math

import numpy as np
import pytest

from runtime.errors import UserError
from tests.transfer.evaluate.random_sets import as_masks, random_problem
from transfer.evaluate.coco_ap import (
    SUMMARY,
    Rule,
    choose_rule,
    coco_ap,
    coco_precision,
    coco_truth,
    recorded_limit,
)

BACKENDS = ["official", "fast"]


def ap(content, results, task, backend):
    truth = coco_truth(copy.deepcopy(content), backend)
    return coco_ap(truth, copy.deepcopy(results), task, class_names=["a", "b", "c", "d"], backend=backend)


@pytest.mark.shared
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_published_example(shared_data, task, backend):
    folder = shared_data("eval_fixtures") / "coco100"
    expected = json.loads((folder / "expected.json").read_text())
    content = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{task}100_results.json").read_text())
    if task == "segm":
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    names = [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]
    found = coco_ap(coco_truth(content, backend), results, task, class_names=names, backend=backend)
    for key in SUMMARY:
        assert found[key] / 100 == pytest.approx(expected[task][key], abs=1e-12)
    for name, value in expected.get(f"{task}_per_category_AP", {}).items():
        assert found[f"AP-{name}"] / 100 == pytest.approx(value, abs=1e-12)


def pycocotools_numbers(content, results, task):
    """Summary and precision array straight from pycocotools, with its own limits of 1, 10 and 100 detections.

    Annotations are numbered from 1: pycocotools takes a match with the annotation of id 0 for none.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    for number, annotation in enumerate(truth.dataset["annotations"], 1):
        annotation["id"] = number
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6], evaluation.eval["precision"]


def precision(content, results, task, backend, **options):
    truth = coco_truth(copy.deepcopy(content), backend)
    return coco_precision(truth, copy.deepcopy(results), task, backend=backend, **options)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seeds", [range(k, k + 25) for k in range(0, 200, 25)], ids=str)
def test_equal_to_pycocotools_on_random_sets(seeds, task, capsys):
    for seed in seeds:
        content, results = random_problem(seed)
        results = as_masks(results, seed) if task == "segm" else results
        stats, expected = pycocotools_numbers(content, results, task)
        for backend in BACKENDS if seed % 25 == 0 else ["fast"]:
            assert np.abs(precision(content, results, task, backend) - expected[..., 2]).max() <= 1e-12
        limited = precision(content, results, task, "fast", max_detections=10)
        assert np.abs(limited - expected[..., 1]).max() <= 1e-12
        values = [ap(content, results, task, "fast")[key] for key in SUMMARY]
        wanted = [s * 100 if s > -1 else math.nan for s in stats]
        assert np.allclose(values, wanted, rtol=0, atol=1e-12 * 100, equal_nan=True)


@pytest.mark.parametrize("ids", [lambda k: k, str, lambda k: 7 * k], ids=["from 0", "text", "other numbers"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_annotation_ids_do_not_change_the_numbers(task, backend, ids):
    content, results = random_problem(1)
    results = as_masks(results, 1) if task == "segm" else results
    expected = pycocotools_numbers(content, results, task)[1][..., 2]
    for k, annotation in enumerate(content["annotations"]):
        annotation["id"] = ids(k)
    assert np.abs(precision(content, results, task, backend) - expected).max() <= 1e-12


def test_a_perfect_detection_of_annotation_0_counts():
    """pycocotools itself gives 75 here: four classes of one object, one of which has id 0 (cocoapi#332)."""
    box = [10.0, 10.0, 40.0, 40.0]
    image = {"id": 1, "width": 200, "height": 150}
    content = {"images": [image], "annotations": [], "categories": [{"id": c, "name": str(c)} for c in range(1, 5)]}
    content["annotations"] = [
        {"id": k, "image_id": 1, "category_id": k + 1, "bbox": box, "area": 1600.0, "iscrowd": 0} for k in range(4)
    ]
    results = [{"image_id": 1, "category_id": c, "bbox": box, "score": 0.9} for c in range(1, 5)]
    for backend in BACKENDS:
        assert ap(content, results, "bbox", backend)["AP"] == pytest.approx(100)


def test_areas_of_masks_come_from_boxes_where_results_have_both(capsys):
    content, results = random_problem(3)
    both = [{**m, "bbox": r["bbox"]} for m, r in zip(as_masks(results), results)]
    expected = pycocotools_numbers(content, both, "segm")[1][..., 2]
    assert np.abs(precision(content, both, "segm", "fast") - expected).max() <= 1e-12
    assert (precision(content, as_masks(results), "segm", "fast") != expected).any()


def test_the_evaluation_leaves_its_input_alone():
    content, results = random_problem(5)
    before = copy.deepcopy((content, results))
    coco_precision(coco_truth(content, "fast"), results, "bbox", backend="fast")
    assert (content, results) == before


def test_the_random_sets_hold_what_they_promise():
    problems = [random_problem(seed) for seed in range(40)]
    annotations = [a for content, _ in problems for a in content["annotations"]]
    assert {type(a["segmentation"]) for a in annotations if a["iscrowd"]} == {list, dict}
    assert all(len({r["score"] for r in results}) < len(results) for _, results in problems if len(results) > 11)
    assert max(sum(r["image_id"] == 2 for r in results) for _, results in problems) > 100
    assert all(a["category_id"] != 7 for a in annotations)
    assert any(a["id"] == 0 for a in annotations)
    assert any(r["category_id"] == 9 for _, results in problems for r in results)
    assert any(content["images"][0]["id"] != 1 for content, _ in problems)


@pytest.mark.parametrize("backend", ["official", "fast"])
def test_no_detection_is_zero_and_a_class_without_objects_nan(backend):
    content, results = random_problem(1)
    nothing = ap(content, [], "bbox", backend)
    assert nothing["AP"] == nothing["AP50"] == nothing["AP75"] == 0
    assert math.isnan(nothing["AP-d"])
    assert math.isnan(ap(content, results, "bbox", "official")["AP-d"])


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_classes_without_detections_are_zero_for_both_backends(task):
    content, results = random_problem(1)
    some = [r for r in as_masks(results) if r["category_id"] == 1] if task == "segm" else []
    fast, official = (precision(content, some, task, backend) for backend in ("fast", "official"))
    assert np.array_equal(fast, official)
    assert (fast == 0).any()


def test_evaluators_are_checked():
    assert choose_rule("official") == Rule("official", 100)
    assert choose_rule("auto") == Rule("auto", 100)
    assert choose_rule("fast") == Rule("fast", 100)
    assert choose_rule("auto").id == choose_rule("fast").id  # one rule, by the faster of two that agree to the bit
    assert choose_rule("official-256") == Rule("official", 256)
    for name in ("slow", "auto-", "auto-0", "fast--1", "-100", "fast-1e3"):
        with pytest.raises(UserError, match="auto, official, fast or hotcoco"):
            choose_rule(name)


def test_a_raised_limit_has_an_id_of_its_own():
    assert choose_rule("auto").id == "coco/101pt-100"
    assert choose_rule("fast-256").id == "coco/101pt-256"
    assert choose_rule("official-256").id == f"{choose_rule('official').id}-256"
    for name in ("auto", "official", "auto-256", "official-256"):
        rule = choose_rule(name)
        assert recorded_limit(f"{rule.id}+voc/area") == rule.limit
    assert recorded_limit("voc/area") == recorded_limit("None") == 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_perfect_boxes_of_a_crowded_image_need_a_raised_limit(backend):
    boxes = [[10.0 * (k % 16), 10.0 * (k // 16), 8.0, 8.0] for k in range(256)]
    annotations = [
        {"id": k + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 64.0, "iscrowd": 0}
        for k, box in enumerate(boxes)
    ]
    content = {"images": [{"id": 1, "width": 200, "height": 200}], "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "a"}]
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 1 - k / 300} for k, box in enumerate(boxes)]
    truth = coco_truth(content, backend)
    values = [coco_ap(truth, copy.deepcopy(results), "bbox", max_detections=n, backend=backend) for n in (100, 256)]
    # 100 of 256 objects are recalled, without an error: precision is 1 at the recalls 0, 0.01 ... 0.39
    assert values[0]["AP"] == pytest.approx(100 * 40 / 101)
    assert values[1]["AP"] == pytest.approx(100)
