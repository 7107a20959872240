"""AP from match tables equals that of the evaluators, also on a resample written out as a data set of its own."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.transfer.detection_arrays import make_detections
from transfer.comparison.comparison import complete
from transfer.comparison.gap import compare
from transfer.comparison.image_bootstrap import ImageBootstrap
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate
from transfer.evaluate.detections import Detections
from transfer.evaluate.match_tables import match_table
from transfer.records.run import find_runs
from transfer.report.csv_rows import csv_rows, verdict_class
from transfer.report.sentences import summary

IMAGES, CLASSES = 12, 3


def write_coco(folder: Path, rng: np.random.Generator, weights: np.ndarray | None = None) -> tuple[Path, list, list]:
    """Random objects as a COCO file; returns it, the image ids and the boxes per image."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    boxes = []
    for i in range(IMAGES):
        images.append({"id": i + 1, "width": 200, "height": 150, "file_name": f"{i}.jpg"})
        for _ in range(rng.integers(1, 5)):
            x, y, w, h = (float(v) for v in (*rng.uniform(0, 80, 2), *rng.uniform(10, 60, 2)))
            crowd = int(rng.random() < 0.1)
            row = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": int(rng.integers(1, CLASSES + 1))}
            annotations.append({**row, "bbox": [x, y, w, h], "area": w * h, "iscrowd": crowd})
            boxes.append((i, annotations[-1]["category_id"] - 1, [x, y, x + w, y + h]))
    categories = [{"id": c + 1, "name": f"class{c}"} for c in range(CLASSES)]
    path = folder / "truth.json"
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        (folder / image["file_name"]).write_bytes(b"")
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, images, boxes


def random_detections(rng: np.random.Generator, boxes: list, noise: float, ids: list, digits: int = 2) -> Detections:
    index, category, found, scores = [], [], [], []
    for i, c, box in boxes:
        for _ in range(rng.integers(0, 3)):
            index.append(i)
            category.append(c if rng.random() < 0.8 else int(rng.integers(CLASSES)))
            found.append(np.asarray(box) + rng.normal(0, noise, 4))
            scores.append(float(np.round(rng.random(), digits)))  # two digits: with ties
    return make_detections(ids, index, category, found, scores)


def as_lvis(path: Path, rng: np.random.Generator) -> None:
    """Turn a COCO file into an LVIS one, with negative and not exhaustively annotated classes, and frequencies."""
    content = json.loads(path.read_text())
    for image in content["images"]:
        present = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        absent = sorted(set(range(1, CLASSES + 1)) - present)
        image["neg_category_ids"] = [c for c in absent if rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in sorted(present) if rng.random() < 0.3]
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    for category, frequency in zip(content["categories"], "rcf"):
        category.update(frequency=frequency, synonyms=[category["name"]], image_count=5)
    path.write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path: Path) -> tuple[str, list, np.random.Generator]:
    rng = np.random.default_rng(4)
    path, _, boxes = write_coco(tmp_path / "data", rng)
    return f"coco:{path}:{path.parent}", boxes, rng


@pytest.fixture(params=["coco", "lvis"])
def matched_by_class(request, coco) -> tuple[str, list, np.random.Generator]:
    """A COCO and an LVIS data set."""
    name, boxes, rng = coco
    if request.param == "lvis":
        as_lvis(Path(name.split(":")[1]), rng)
    return name.replace("coco:", f"{request.param}:"), boxes, rng


def test_unit_weights_give_the_evaluators_numbers(matched_by_class) -> None:
    name, boxes, rng = matched_by_class
    spec = get_dataset(name)
    detections = random_detections(rng, boxes, 4.0, list(range(1, IMAGES + 1)))
    expected = evaluate(spec, detections, evaluator="official")[0]["bbox"]
    table = match_table(spec, detections, "bbox")
    assert table is not None
    assert table.ap(np.ones(IMAGES)) == pytest.approx({k: expected[k] for k in ("AP", "AP50", "AP75")}, abs=1e-9)


def test_weights_equal_a_resampled_data_set(matched_by_class) -> None:
    name, boxes, rng = matched_by_class
    spec = get_dataset(name)
    # without ties: the order of equal scores in different images is not defined
    detections = random_detections(rng, boxes, 4.0, list(range(1, IMAGES + 1)), digits=9)
    table = match_table(spec, detections, "bbox")
    assert table is not None
    content = spec.content()
    for trial in range(8):
        draw = rng.integers(0, IMAGES, IMAGES)
        again = copy.deepcopy({**content, "images": [], "annotations": []})
        rows = []
        for new, old in enumerate(draw):
            again["images"].append({**content["images"][old], "id": new + 1})
            again["annotations"] += [
                {**a, "image_id": new + 1, "id": 1000 * (new + 1) + a["id"]}
                for a in content["annotations"]
                if a["image_id"] == old + 1
            ]
            rows += [(new, k) for k in np.flatnonzero(detections.image_index == old)]
        path = Path(name.split(":")[1]).parent / f"sample{trial}.json"
        path.write_text(json.dumps(again))
        of = [k for _, k in rows]
        copied = make_detections(
            list(range(1, IMAGES + 1)),
            [i for i, _ in rows],
            detections.category[of],
            detections.boxes[of],
            detections.scores[of],
        )
        sample = get_dataset(f"{name.split(':')[0]}:{path}:{path.parent}")
        expected = evaluate(sample, copied, evaluator="official")[0]["bbox"]
        found = table.ap(np.bincount(draw, minlength=IMAGES))
        assert found == pytest.approx({k: expected[k] for k in found}, abs=1e-9)


def write_voc(folder: Path, boxes: list) -> str:
    names = [f"{i:06d}" for i in range(IMAGES)]
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / "VOC2007" / part).mkdir(parents=True)
    for i, name in enumerate(names):
        root = ElementTree.Element("annotation")
        size = ElementTree.SubElement(root, "size")
        for key, value in (("width", 200), ("height", 150), ("depth", 3)):
            ElementTree.SubElement(size, key).text = str(value)
        for k, (image, c, box) in enumerate(boxes):
            if image == i:
                item = ElementTree.SubElement(root, "object")
                ElementTree.SubElement(item, "name").text = f"class{c}"
                ElementTree.SubElement(item, "difficult").text = str(int(k % 7 == 0))
                corners = ElementTree.SubElement(item, "bndbox")
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box):
                    ElementTree.SubElement(corners, key).text = str(int(value) + 1)
        ElementTree.ElementTree(root).write(folder / "VOC2007" / "Annotations" / f"{name}.xml")
        (folder / "VOC2007" / "JPEGImages" / f"{name}.jpg").write_bytes(b"")
    (folder / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("\n".join(names) + "\n")
    return f"voc:{folder}:2007:test"


def test_voc_rule_is_reproduced(coco, tmp_path: Path) -> None:
    _, boxes, rng = coco
    name = write_voc(tmp_path / "devkit", boxes)
    spec = get_dataset(name)
    detections = random_detections(rng, boxes, 3.0, [r["image_id"] for r in spec.records()])
    expected = evaluate(spec, detections)[0]["bbox"]
    table = match_table(spec, detections, "bbox")
    assert table is not None
    assert table.ap(np.ones(IMAGES)) == pytest.approx({k: expected[k] for k in ("AP", "AP50", "AP75")}, abs=1e-9)


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("detected", [True, False])
def test_an_absent_class_has_the_same_effect_as_in_the_evaluator(coco, tmp_path: Path, year, detected) -> None:
    _, boxes, rng = coco
    name = write_voc(tmp_path / "devkit", boxes)
    if year != 2007:
        (tmp_path / "devkit" / "VOC2007").rename(tmp_path / "devkit" / f"VOC{year}")
        name = name.replace("2007", str(year))
    spec = get_dataset(name)
    detections = random_detections(rng, boxes, 3.0, [r["image_id"] for r in spec.records()])
    absent = spec.class_names.index("sheep") if "sheep" in spec.class_names else len(spec.class_names)
    if absent == len(spec.class_names):
        spec.summary.class_names.append("sheep")
    if detected:
        detections.category[0] = absent
    expected = evaluate(spec, detections)[0]["bbox"]
    table = match_table(spec, detections, "bbox")
    assert table is not None
    assert np.isnan(expected["AP"]) == (year != 2007 and detected)
    found = table.ap(np.ones(IMAGES))
    assert found == pytest.approx({k: expected[k] for k in found}, abs=1e-9, nan_ok=True)


def test_the_order_in_which_a_run_stored_its_images_does_not_matter(coco, store) -> None:
    name, boxes, _ = coco
    spec = get_dataset(name)
    test = {"name": name, "sha256": spec.sha256(), "images": IMAGES}
    for init, order in (("supervised", range(IMAGES)), ("moco", np.random.default_rng(1).permutation(IMAGES))):
        detections = random_detections(np.random.default_rng(9), boxes, 4.0, list(range(1, IMAGES + 1)), digits=9)
        metrics = evaluate(spec, detections)[0]
        ids = [detections.image_ids[i] for i in order]
        place = {int(old): new for new, old in enumerate(order)}
        moved = replace(detections, image_ids=ids, image_index=[place[i] for i in detections.image_index.tolist()])
        root = store(init=init, metrics=metrics, datasets={"train": [], "test": [test]}, detections=["d.npz"])
        moved.save(root / "toy" / init / "seed0" / "d.npz")
    runs = {run.init: run for run in find_runs(root)}
    interval = ImageBootstrap(replicates=50)(runs["moco"], runs["supervised"], "bbox", "AP")
    assert (interval.low, interval.high) == (0.0, 0.0)  # the same detections


def test_the_limit_of_detections_is_that_of_the_run(tmp_path: Path) -> None:
    path, _, boxes = write_coco(tmp_path, np.random.default_rng(4))
    spec = get_dataset(f"coco:{path}:{path.parent}")
    detections = random_detections(np.random.default_rng(2), boxes, 3.0, spec.summary.image_ids, digits=9)
    for evaluator in ("fast-1", "official-1", "fast-100"):
        metrics, name = evaluate(spec, detections, evaluator=evaluator)
        table = match_table(spec, detections, "bbox", name)
        assert table is not None
        assert table.ap(np.ones(IMAGES))["AP"] == pytest.approx(metrics["bbox"]["AP"], abs=1e-9)
    assert evaluate(spec, detections, evaluator="fast-1")[0] != evaluate(spec, detections, evaluator="fast")[0]


def test_one_seed_gets_an_interval_over_images(coco, store, tmp_path: Path) -> None:
    name, boxes, rng = coco
    spec = get_dataset(name)
    test = {"name": name, "sha256": spec.sha256(), "images": IMAGES}
    for init, noise in (("supervised", 6.0), ("moco", 1.0)):
        detections = random_detections(np.random.default_rng(9), boxes, noise, list(range(1, IMAGES + 1)))
        metrics = evaluate(spec, detections, evaluator="official")[0]
        sets = {"train": [test], "test": [test]}
        root = store(init=init, metrics=metrics, datasets=sets, detections=["detections_0.npz"])
        detections.save(root / "toy" / init / "seed0" / "detections_0.npz")
    bootstrap = ImageBootstrap(replicates=200)
    (table,) = compare(list(find_runs(root)), {"supervised": "supervised"}, image_interval=bootstrap)
    row = table.row("moco", "bbox", "AP")
    assert row is not None
    gap = row.gaps["supervised"]
    interval = gap.over_images
    assert interval is not None
    assert interval.method == "paired bootstrap over images, 200 replicates"
    assert interval.low is not None
    assert interval.high is not None
    assert 0 < interval.low < gap.difference.mean < interval.high
    assert gap.difference.low is None  # the interval describes the images and is no test of the initialisations
    per_class = table.row("moco", "bbox", "AP-class0")
    assert per_class is not None
    over_images = per_class.gaps["supervised"].over_images
    assert over_images is not None
    assert over_images.low is None
    comparison = complete([table], detections=False)
    (sentence,) = summary(comparison)
    assert "box AP on these images, with this seed; other seeds may differ by as much (n=1: no verdict" in sentence
    assert "95 % interval over the test images +" in sentence
    assert not re.search("ahead|behind", sentence)
    (line,) = [row for row in csv_rows(comparison.tables) if (row["init"], row["metric"]) == ("moco", "AP")]
    assert line["vs_supervised_interval"] == interval.method
    assert line["vs_supervised_verdict"] == "no verdict"
    assert verdict_class(line, "supervised") == "even"


def test_no_interval_without_the_detections_or_data_of_the_runs(coco, store) -> None:
    name, _, _ = coco
    sets = {"train": [], "test": [{"name": name, "sha256": "0" * 64, "images": IMAGES}]}
    store(init="supervised", datasets=sets, detections=["detections_0.npz"])
    root = store(init="moco", datasets=sets, detections=["detections_0.npz"])
    runs = list(find_runs(root))
    interval = ImageBootstrap()(runs[0], runs[1], "bbox", "AP")
    assert interval.method == "none (n=1; no stored detections)"
    for run in runs:
        (run.folder / "detections_0.npz").write_bytes(b"")
    assert "has changed since" in ImageBootstrap()(runs[0], runs[1], "bbox", "AP").method
