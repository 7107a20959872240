"""COCO and LVIS numbers against hotcoco, a second implementation of both rules (the only LVIS one for numpy 2)."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

import transfer.evaluate.coco_ap as coco_ap_module
from runtime.errors import UserError
from tests.transfer.evaluate.random_sets import as_masks, random_problem
from tests.transfer.keypoint_data import near_truth, write_keypoints
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate, keypoint_ap, lvis_ap
from transfer.evaluate.coco_ap import (
    SUMMARY,
    backends_of,
    choose_rule,
    coco_ap,
    coco_precision,
    coco_truth,
    recorded_limit,
)
from transfer.evaluate.keypoint_ap import keypoint_results

hotcoco = pytest.importorskip("hotcoco")
EQUAL = 1e-10  # of percentages: 1e-12 of an AP


def numbered(content: dict[str, Any]) -> dict[str, Any]:
    """With annotations numbered from 1: an id of 0 means no match, as in pycocotools."""
    content = copy.deepcopy(content)
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number
    return content


def by_hotcoco(content: dict[str, Any], results: list[dict[str, Any]], task: str, **options: Any) -> dict[str, float]:
    """Its numbers by their names, in percent; absent ones are NaN."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = hotcoco.COCO(numbered(content))
        evaluation = hotcoco.COCOeval(truth, truth.load_res(copy.deepcopy(results)), task, **options)
        evaluation.run()
        found = evaluation.get_results()
    return {key: 100 * value if value > -1 else math.nan for key, value in found.items()}


def assert_equal(ours: dict[str, float], theirs: dict[str, float], keys: Any) -> None:
    for key in keys:
        a, b = ours[key], theirs[key]
        assert (math.isnan(a) and math.isnan(b)) or abs(a - b) <= EQUAL, (key, a, b)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seeds", [range(k, k + 25) for k in range(0, 200, 25)], ids=str)
def test_coco_on_random_sets(seeds: range, task: str) -> None:
    for seed in seeds:
        content, results = random_problem(seed)
        results = as_masks(results, seed) if task == "segm" else results
        known = {category["id"] for category in content["categories"]}
        results = [r for r in results if r["category_id"] in known]
        names = [category["name"] for category in content["categories"]]
        ours = coco_ap(coco_truth(content, "fast"), copy.deepcopy(results), task, class_names=names, backend="fast")
        assert_equal(ours, by_hotcoco(content, results, task), SUMMARY)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(30))
def test_the_backend_gives_the_numbers_of_our_own(seed: int, task: str) -> None:
    content, results = random_problem(seed)
    results = as_masks(results, seed) if task == "segm" else results
    known = {category["id"] for category in content["categories"]}
    results = [r for r in results if r["category_id"] in known]
    names = [category["name"] for category in content["categories"]]
    content["annotations"][0]["id"] = 0
    limit = 100 if seed % 2 else 3
    found = {}
    for backend in ("fast", "hotcoco"):
        truth = coco_truth(copy.deepcopy(content), backend)
        options: Any = {"class_names": names, "max_detections": limit, "backend": backend}
        found[backend] = coco_ap(truth, copy.deepcopy(results), task, **options)
        nothing = coco_ap(coco_truth(copy.deepcopy(content), backend), [], task, **options)
        assert nothing["AP"] == 0.0
    assert found["fast"].keys() == found["hotcoco"].keys()
    assert_equal(found["fast"], found["hotcoco"], found["fast"])


def test_the_choice_is_recorded_by_its_version(tmp_path: Path) -> None:
    people = get_dataset(write_keypoints(tmp_path))
    detections = near_truth(people, 0)
    by_choice = {choice: evaluate(people, detections, evaluator=choice) for choice in ("auto", "hotcoco", "hotcoco-5")}
    version = importlib.metadata.version("hotcoco")
    assert [used for _, used in by_choice.values()] == [
        "coco/101pt-100",
        f"coco/hotcoco-{version}",
        f"coco/hotcoco-{version}-5",
    ]
    assert recorded_limit(by_choice["hotcoco-5"][1]) == 5
    assert by_choice["auto"][0]["bbox"] == pytest.approx(by_choice["hotcoco"][0]["bbox"], nan_ok=True)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_its_precisions_are_ours_to_the_bit(task: str) -> None:
    """So that ``auto`` may take either, and one record of both."""
    for seed in range(40):
        content, results = random_problem(seed)
        results = as_masks(results, seed) if task == "segm" else results
        known = {category["id"] for category in content["categories"]}
        results = [r for r in results if r["category_id"] in known]
        ours, theirs = (
            coco_precision(coco_truth(copy.deepcopy(content), b), copy.deepcopy(results), task, backend=b)
            for b in ("fast", "hotcoco")
        )
        assert np.array_equal(ours, theirs), seed


def test_auto_takes_it_where_its_numbers_are_known_to_be_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"images": [{"id": 3}], "annotations": [], "categories": [{"id": 1}, {"id": 2}]}
    auto = choose_rule("auto")
    assert backends_of(auto, content) == ("hotcoco", "fast")
    assert backends_of(choose_rule("fast"), content) == ("fast",)
    for key, value in {
        "images": [{"id": "3"}],
        "categories": [{"id": 1}, {"id": 1}],
    }.items():
        assert backends_of(auto, content | {key: value}) == ("fast",)
    assert backends_of(auto, content | {"images": [{"id": 2**53}]}) == ("fast",)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1.4.0")
    assert backends_of(auto, content) == ("fast",)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backends_of(auto, content) == ("fast",)


@pytest.mark.parametrize("refuses", [False, True])
def test_auto_goes_on_with_ours_where_it_refuses(
    refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = get_dataset(write_keypoints(tmp_path))
    detections = near_truth(people, 0)
    ours = evaluate(people, detections, evaluator="fast")
    asked: list[str] = []

    def watched(truth: Any, results: list[dict[str, Any]], task: str, max_detections: int) -> np.ndarray:
        asked.append(task)
        if refuses:
            raise UserError("evaluator hotcoco cannot evaluate this data")
        return hotcoco_precision(truth, results, task, max_detections)

    hotcoco_precision = coco_ap_module._hotcoco_precision
    monkeypatch.setattr(coco_ap_module, "_hotcoco_precision", watched)
    metrics, used = evaluate(people, detections)
    assert asked == ["bbox"]
    assert used == ours[1] == "coco/101pt-100"
    assert str(metrics) == str(ours[0])  # NaN equals NaN as text


def test_what_it_does_not_take_is_one_line() -> None:
    content = {"images": [{"id": "a"}], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    with pytest.raises(UserError, match="evaluator hotcoco cannot evaluate this data .*; use auto"):
        coco_truth(content, "hotcoco")


def test_without_the_package_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="hotcoco: it is not installed; pip install hotcoco"):
        choose_rule("hotcoco")


def federated_problem(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A random set as LVIS has it: frequencies, classes verified absent, and images that are not exhaustive."""
    content, results = random_problem(seed, images=6, classes=6, crowded=False)
    rng = np.random.default_rng(seed)
    for category, frequency in zip(content["categories"], "rcfrcf"):
        category["frequency"] = frequency
    ids = [category["id"] for category in content["categories"]]
    for image in content["images"]:
        there = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        absent = [c for c in ids if c not in there]
        image["neg_category_ids"] = [c for c in absent if rng.uniform() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in ids if c in there and rng.uniform() < 0.3]
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    return content, [r for r in results if r["category_id"] in ids]


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seeds", [range(k, k + 25) for k in range(0, 200, 25)], ids=str)
def test_lvis_on_random_sets(seeds: range, task: str) -> None:
    for seed in seeds:
        content, results = federated_problem(seed)
        results = as_masks(results, seed) if task == "segm" else results
        ours = lvis_ap.lvis_ap(copy.deepcopy(content), copy.deepcopy(results), task)
        # the LVIS API does not see detections without area (lvis.py, get_ann_ids); hotcoco counts them as wrong
        results = [r for r in results if task == "bbox" or coco_mask.area(r["segmentation"]) > 0]
        theirs = by_hotcoco(content, results, task, lvis_style=True)
        assert_equal(ours, theirs, lvis_ap.SUMMARY)


@pytest.mark.parametrize("seed", range(10))
def test_keypoints(seed: int, tmp_path: Path) -> None:
    people = get_dataset(write_keypoints(tmp_path))
    detections = near_truth(people, seed)
    ours = evaluate(people, detections)[0]["keypoints"]
    content = json.loads(Path(people.annotations).read_text())
    theirs = by_hotcoco(content, keypoint_results(detections, [1]), "keypoints")
    assert_equal(ours, theirs, keypoint_ap.SUMMARY)


@pytest.mark.shared
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_the_published_examples(shared_data: Any, task: str) -> None:
    folder = shared_data("eval_fixtures")
    coco = json.loads((folder / "coco100" / "instances_val2014_100.json").read_text())
    found = json.loads((folder / "coco100" / f"instances_val2014_fake{task}100_results.json").read_text())
    if task == "segm":
        found = [{k: v for k, v in r.items() if k != "bbox"} for r in found]
    names = [c["name"] for c in sorted(coco["categories"], key=lambda c: c["id"])]
    ours = coco_ap(coco_truth(coco, "fast"), copy.deepcopy(found), task, class_names=names, backend="fast")
    assert_equal(ours, by_hotcoco(coco, found, task), SUMMARY)
    lvis = json.loads((folder / "lvis100" / "lvis_val_100.json").read_text())
    found = json.loads((folder / "lvis100" / f"fake_{task}_results.json").read_text())
    theirs = by_hotcoco(lvis, found, task, lvis_style=True)
    assert_equal(lvis_ap.lvis_ap(lvis, found, task), theirs, lvis_ap.SUMMARY)
