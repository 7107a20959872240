"""Cityscapes' AP: equal to cityscapesscripts, live where it is installed and to its stored numbers elsewhere."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from runtime.errors import UserError
from tests.transfer.cityscapes_data import random_case, write_cityscapes
from transfer.data.catalog import get_dataset
from transfer.data.cityscapes import LABEL_IDS, VOID_IDS, instance_file
from transfer.evaluate import evaluate, evaluator_id
from transfer.evaluate.detections import Detections
from transfer.evaluate.match_tables import match_table

pytest.importorskip("shapely")
# seed -> metrics, made by cityscapesscripts 2.3.0 from the same files
STORED = json.loads(Path(__file__).with_name("cityscapes_cases.json").read_text())


@pytest.mark.parametrize("seed", STORED)
def test_equals_the_stored_numbers(tmp_path, seed):
    spec, detections = random_case(tmp_path, int(seed))
    found, used = evaluate(spec, detections)
    assert used == evaluator_id(spec) == "cityscapes/instances"
    assert found["segm"] == pytest.approx(STORED[seed], abs=1e-12, nan_ok=True)


@pytest.mark.slow
def test_equals_cityscapesscripts_on_200_sets(tmp_path, monkeypatch):
    pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    compared = 0
    for seed in range(200):
        spec, detections = random_case(tmp_path / str(seed), seed)
        if (expected := by_cityscapesscripts(spec, detections, tmp_path / f"out{seed}", monkeypatch)) is not None:
            assert evaluate(spec, detections)[0]["segm"] == pytest.approx(expected, abs=1e-12, nan_ok=True)
            compared += 1
    assert compared > 100


def by_cityscapesscripts(spec, detections, folder, monkeypatch):
    """Its metrics; None where it fails, which it does on a class of which every detection is ignored."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official

    monkeypatch.setattr(official, "writeDict2JSON", lambda *a: None)  # it cannot write numpy's integers
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # numpy 2.4 has it no longer
    folder.mkdir()
    predictions, truth = [], []
    for i, record in enumerate(spec.records()):
        lines = []
        for row in np.flatnonzero(detections.image_index == i):
            Image.fromarray(coco_mask.decode(detections.masks[row]) * 255).save(folder / f"{row}.png")
            label = spec.category_ids[detections.category[row]]
            lines.append(f"{row}.png {label} {float(detections.scores[row])}\n")
        (folder / f"{i}.txt").write_text("".join(lines))
        predictions.append(str(folder / f"{i}.txt"))
        truth.append(str(instance_file(spec.annotations, record["file_name"])))
    settings = official.args
    settings.predictionPath, settings.quiet, settings.JSONOutput = str(folder), True, False
    settings.gtInstancesFile = str(folder / "none.json")
    try:
        found = official.evaluateImgLists(predictions, truth, settings)["averages"]
    except IndexError:
        return None
    classes = {f"AP-{name}": found["classes"][name]["ap"] for name in spec.class_names}
    return {
        name: float(value) * 100 for name, value in {"AP": found["allAp"], "AP50": found["allAp50%"], **classes}.items()
    }


def test_labels_are_those_of_cityscapesscripts():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    assert {label.name: label.id for label in labels} == LABEL_IDS
    assert sorted(label.id for label in labels if label.ignoreInEval and label.id >= 0) == sorted(VOID_IDS)


def one_car(folder, *masks, scores=(), extra=()):
    """A data set of one image with car 0 at rows 10-29 and columns 10-39, and detections of cars."""
    spec = get_dataset(write_cityscapes(folder, images=1))
    values = np.full((120, 160), LABEL_IDS["road"], dtype=np.uint16)
    values[10:30, 10:40] = 26000
    for (top, bottom, left, right), value in extra:
        values[top:bottom, left:right] = value
    record = spec.records()[0]
    Image.fromarray(values).save(instance_file(spec.annotations, record["file_name"]))
    found = []
    for top, bottom, left, right in masks:
        mask = np.zeros(values.shape, dtype=np.uint8, order="F")
        mask[top:bottom, left:right] = 1
        found.append(coco_mask.encode(mask))
    scores = np.array(scores or [0.5] * len(masks))
    boxes, cars = np.zeros((len(masks), 4)), np.full(len(masks), spec.class_names.index("car"))
    return spec, Detections.from_images([(record["image_id"], boxes, scores, cars, found)])


def test_second_mask_on_an_object_is_wrong_and_equal_scores_are_one_point(tmp_path):
    twice = [(10, 30, 10, 40)] * 2
    spec, detections = one_car(tmp_path / "a", *twice, scores=[0.9, 0.8])
    assert evaluate(spec, detections)[0]["segm"]["AP-car"] == pytest.approx(100)  # found before the repetition
    spec, detections = one_car(tmp_path / "b", *twice, scores=[0.9, 0.9])
    assert evaluate(spec, detections)[0]["segm"]["AP-car"] == pytest.approx(75)
    spec, detections = one_car(tmp_path / "c", (10, 30, 10, 40))
    assert evaluate(spec, detections)[0]["segm"]["AP50"] == pytest.approx(100)


@pytest.mark.parametrize("value", [4, 26, 26001])  # void, a group of cars, an object of fewer than 100 pixels
def test_mask_in_an_excused_region_is_not_wrong(tmp_path, value):
    region = (60, 69, 60, 71)  # 99 pixels
    masks = [(10, 30, 10, 40), region]
    spec, detections = one_car(tmp_path, *masks, scores=[0.5, 0.9], extra=[(region, value)])
    assert evaluate(spec, detections)[0]["segm"]["AP-car"] == pytest.approx(100)
    assert evaluate(spec, one_car(tmp_path, *masks, scores=[0.5, 0.9])[1])[0]["segm"]["AP-car"] == pytest.approx(25)


def test_class_of_which_every_detection_is_ignored_has_an_ap_of_0(tmp_path):
    region = (60, 80, 60, 80)
    spec, detections = one_car(tmp_path, region, extra=[(region, 4)])
    assert evaluate(spec, detections)[0]["segm"]["AP-car"] == 0


def test_resampled_images_equal_a_data_set_of_their_own(tmp_path):
    spec, detections = random_case(tmp_path, 3)
    table = match_table(spec, detections, "segm")
    assert table.ap(np.ones(5, dtype=int))["AP"] == pytest.approx(evaluate(spec, detections)[0]["segm"]["AP"])
    # an image counted twice: its objects and detections twice
    doubled = table.ap(np.array([2, 2, 2, 2, 2]))
    assert doubled == pytest.approx(table.ap(np.ones(5, dtype=int)))
    one = [int(i == 2) for i in range(5)]
    kept = Detections.from_images([(detections.image_ids[2], *of_image(detections, 2))])
    for record in spec.records()[:]:
        if record["image_id"] != detections.image_ids[2]:
            Path(record["file_name"]).unlink()
    again = type(spec)(spec.name, spec.kind, spec.annotations, spec.images)  # reads the folder anew
    assert table.ap(np.array(one))["AP"] == pytest.approx(evaluate(again, kept)[0]["segm"]["AP"], nan_ok=True)
    assert match_table(spec, detections, "bbox") is None


def of_image(detections, image):
    rows = np.flatnonzero(detections.image_index == image)
    masks = [detections.masks[row] for row in rows]
    return detections.boxes[rows], detections.scores[rows], detections.category[rows], masks


def test_detections_without_masks_and_foreign_maps_are_one_line(tmp_path):
    spec, detections = one_car(tmp_path, (10, 30, 10, 40))
    bare = Detections(
        detections.image_ids, detections.image_index, detections.category, detections.boxes, detections.scores
    )
    with pytest.raises(UserError, match="Cityscapes is evaluated on masks; set MODEL.MASK_ON True"):
        evaluate(spec, bare)
    path = instance_file(spec.annotations, spec.records()[0]["file_name"])
    for values, problem in (
        (np.zeros((60, 80), np.uint16), "another size"),
        (np.full((120, 160), 40000, np.uint16), "value 40000 is of no label"),
        (np.zeros((120, 160, 3), np.uint8), "not a map of objects"),
    ):
        Image.fromarray(values).save(path)
        with pytest.raises(UserError, match=problem):
            evaluate(spec, detections)
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot read the map of the objects"):
        evaluate(spec, detections)


def test_no_object_at_all_is_not_a_number(tmp_path):
    spec, detections = one_car(tmp_path, (10, 30, 10, 40))
    Image.fromarray(np.zeros((120, 160), np.uint16)).save(
        instance_file(spec.annotations, spec.records()[0]["file_name"])
    )
    assert math.isnan(evaluate(spec, detections)[0]["segm"]["AP"])
