"""Detections: joining, storing, refusing what is not theirs."""

import contextlib
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from runtime.errors import UserError
from tests.transfer.detection_arrays import make_detections
from tests.transfer.toy_data import coco_content, write_coco
from transfer.data.catalog import get_dataset
from transfer.evaluate import evaluate
from transfer.evaluate.coco_ap import coco_results
from transfer.evaluate.detections import Detections

EMPTY = coco_mask.encode(np.zeros((20, 30), np.uint8, order="F"))
RLE = coco_mask.encode(np.asfortranarray(np.eye(20, 30, dtype=np.uint8)))


def some(masks=True, ids=(5, 9)):
    rows = [
        (
            ids[0],
            [[1, 2, 3, 4], [5, 6, 7, 8.5]],
            [0.5, 0.25],
            [1, 0],
            [RLE, EMPTY] if masks else None,
        ),
        (ids[1], np.zeros((0, 4)), [], [], [] if masks else None),
    ]
    return Detections.from_images(rows)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("ids", [(5, 9), ("a", "b")])
def test_save_and_load_are_inverse(tmp_path, masks, ids):
    before = some(masks, ids)
    before.save(tmp_path / "d.npz")
    after = Detections.load(tmp_path / "d.npz")
    assert after.image_ids == before.image_ids
    assert after.masks == before.masks
    for name in ("image_index", "category", "boxes", "scores"):
        mine, other = getattr(before, name), getattr(after, name)
        assert mine.dtype == other.dtype
        assert np.array_equal(mine, other)


def test_an_empty_set_keeps_its_shapes(tmp_path):
    Detections.from_images([(1, [], [], [], None)]).save(tmp_path / "d.npz")
    assert Detections.load(tmp_path / "d.npz").boxes.shape == (0, 4)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"<html>"])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"d\.npz"):
        Detections.load(tmp_path / "d.npz")


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.savez(tmp_path / "d.npz", image_ids=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="not a readable detections file"):
        Detections.load(tmp_path / "d.npz")


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="different lengths"):
        Detections([1], [0], [0, 1], [[0, 0, 1, 1]], [0.5])


def test_results_use_the_files_category_ids_and_float32_sides():
    rows = coco_results(some(), [3, 70], "bbox")
    assert rows[0] == {"image_id": 5, "category_id": 70, "score": 0.5, "bbox": [1.0, 2.0, 2.0, 2.0]}
    assert "bbox" not in coco_results(some(), [3, 70], "segm")[0]


def test_perfect_detections_of_a_toy_set_score_100(tmp_path):
    content = coco_content(tmp_path / "images")
    spec = get_dataset(write_coco(tmp_path, content))
    index = {r["image_id"]: k for k, r in enumerate(spec.records())}
    kept = [a for a in content["annotations"] if not a["iscrowd"]]
    boxes = [[a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]] for a in kept]
    found = Detections(
        list(index),
        [index[a["image_id"]] for a in kept],
        [spec.category_ids.index(a["category_id"]) for a in kept],
        boxes,
        np.linspace(1, 0.5, len(kept)),
    )
    metrics, name = evaluate(spec, found)
    assert name.startswith("coco/")
    assert metrics["bbox"]["AP"] == pytest.approx(100)
    with pytest.raises(UserError, match="1 unknown, 1 missing"):
        evaluate(spec, Detections([0, *list(index)[1:]], [], [], [], []))


@pytest.mark.parametrize("shape", [[[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[], [9, 9]]], ids=str)
@pytest.mark.parametrize("evaluator", ["fast", "official"])
def test_boxes_are_scored_where_polygons_are_unusable(tmp_path, evaluator, shape):
    content = coco_content(tmp_path / "images")
    whole = get_dataset(write_coco(tmp_path, content))
    rng = np.random.default_rng(0)
    kept = content["annotations"][2:]  # a perfect detector that misses two objects, with boxes a little off
    index = {image_id: k for k, image_id in enumerate(whole.summary.image_ids)}
    corners = np.array([a["bbox"] for a in kept])
    corners[:, 2:] += corners[:, :2]
    found = Detections(
        list(index),
        [index[a["image_id"]] for a in kept],
        [whole.category_ids.index(a["category_id"]) for a in kept],
        corners + rng.normal(0, 1, corners.shape),
        rng.permutation(len(kept)) / 100,
    )
    expected = evaluate(whole, found, evaluator="official")[0]["bbox"]
    for annotation in content["annotations"][::2]:
        if not annotation["iscrowd"]:
            annotation["segmentation"] = shape
    (tmp_path / "shapes.json").write_text(json.dumps(content))
    spec = get_dataset(f"coco:{tmp_path / 'shapes.json'}:{tmp_path / 'images'}")
    metrics = evaluate(spec, found, evaluator=evaluator)[0]["bbox"]
    assert 20 < expected["AP"] < 95
    assert metrics == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_detections_are_put_in_another_order_of_images():
    stored = make_detections(["b", "c", "a"], [0, 2, 2], [0, 1, 0], np.arange(12), [0.5, 0.4, 0.3])
    ordered = stored.in_order_of(["a", "b", "c"])
    assert ordered.image_ids == ["a", "b", "c"]
    assert ordered.image_index.tolist() == [1, 0, 0]  # rows stay where they are
    assert ordered.category.tolist() == [0, 1, 0]
    assert stored.in_order_of(["b", "c", "a"]) is stored
    for others in (["a", "b"], ["a", "b", "d"], ["a", "b", "c", "d"]):
        with pytest.raises(UserError, match="of other images"):
            stored.in_order_of(others)


@pytest.mark.parametrize("evaluator", ["fast", "official"])
def test_masks_are_scored_beside_polygons_of_two_points(tmp_path, evaluator):
    content = coco_content(tmp_path / "images", count=2)
    first, second = content["annotations"][:2]
    first["segmentation"] = [[1, 2, 3, 4]]
    second["segmentation"].insert(0, [1, 2, 3, 4])
    spec = get_dataset(write_coco(tmp_path, content))
    kept = content["annotations"][1:]
    index = {image["id"]: k for k, image in enumerate(content["images"])}
    masks = [
        coco_mask.merge(coco_mask.frPyObjects(a["segmentation"][-1:], image["height"], image["width"]))
        for a in kept
        for image in [content["images"][index[a["image_id"]]]]
    ]
    found = Detections(
        list(index),
        [index[a["image_id"]] for a in kept],
        [spec.category_ids.index(a["category_id"]) for a in kept],
        [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in kept)],
        np.linspace(1, 0.5, len(kept)),
        masks,
    )
    metrics, _ = evaluate(spec, found, evaluator=evaluator)
    assert metrics["segm"]["AP"] == metrics["bbox"]["AP"] == pytest.approx(100)


def test_every_torn_or_foreign_file_is_one_error(tmp_path):
    some().save(tmp_path / "d.npz")
    whole = (tmp_path / "d.npz").read_bytes()
    for position in range(30, len(whole), 37):
        (tmp_path / "d.npz").write_bytes(whole[:position] + b"\xff\xff\xff" + whole[position + 3 :])
        with contextlib.suppress(UserError):  # bytes that no reader looks at may differ; nothing else may be raised
            Detections.load(tmp_path / "d.npz")
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"d\.npy"):
        Detections.load(tmp_path / "d.npy")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_index", [0, 10**6], "image_index is not within its 2 images"),
        ("image_index", [-1, 0], "image_index is not within its 2 images"),
        ("category", [0, -1], "a category is negative"),
        ("scores", [0.5, float("nan")], "a score or box is not finite"),
        ("category", [[0], [1]], "detections: image_index, category and scores must be flat lists of N"),
        ("boxes", [[0, 0, float("inf"), 1], [0, 0, 1, 1]], "a score or box is not finite"),
        ("image_ids", ["7", "7"], "an image is listed twice"),
    ],
)
def test_contents_that_no_detector_makes_are_refused(name, value, message, tmp_path):
    arrays = {
        "image_ids": np.array(["7", "8"]),
        "integer_ids": np.array(True),
        "image_index": np.array([0, 1]),
        "category": np.array([0, 1]),
        "boxes": np.array([[0, 0, 1, 1], [0, 0, 2, 2]], dtype=np.float32),
        "scores": np.array([0.5, 0.25], dtype=np.float32),
    }
    np.savez(tmp_path / "good.npz", **arrays)
    assert len(Detections.load(tmp_path / "good.npz")) == 2
    np.savez(tmp_path / "bad.npz", **{**arrays, name: np.array(value)})
    with pytest.raises(UserError, match=f"bad.npz: not a readable detections file .{message}"):
        Detections.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("counts", [b"", b"0", RLE["counts"][:-2], RLE["counts"] + b"11"])
def test_masks_that_do_not_cover_their_image_are_refused(counts, tmp_path):
    found = some()
    found.masks[0] = {**RLE, "counts": counts}
    found.save(tmp_path / "d.npz")
    with pytest.raises(UserError, match="the run lengths of a mask do not cover its image"):
        Detections.load(tmp_path / "d.npz")
