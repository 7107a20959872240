"""Detector: the detections of an evaluation, for images in any form."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UserError
from tests.transfer.prediction.trained import write_detector
from tests.transfer.toy_data import write_coco
from transfer.data.catalog import get_dataset
from transfer.engines import resolve_engine
from transfer.evaluate.detections import Detections
from transfer.prediction.detected_image import DetectedImage
from transfer.prediction.detector import Detector


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    write_detector(folder, data)
    return folder


@pytest.fixture(scope="module")
def detector(run):
    return Detector.load(run, engine="torchvision")


def as_set(found: list[DetectedImage]) -> Detections:
    return Detections.from_images([(f.image_id, f.boxes, f.scores, f.classes, f.runs) for f in found])


def test_more_workers_than_cores_print_nothing(detector, data, recwarn):
    records = get_dataset(data).records()
    assert len(list(detector.stream(records, workers=(os.cpu_count() or 1) + 1))) == len(records)
    assert not recwarn.list


def assert_equal(a: Detections, b: Detections) -> None:
    assert a.image_ids == b.image_ids
    for name in ("image_index", "category", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.masks == b.masks


@pytest.mark.parametrize("masks", ["False", "True"])
def test_detections_equal_those_of_an_evaluation(tmp_path, data, masks):
    cfg = write_detector(tmp_path, data, MODEL__MASK_ON=masks)
    theirs = resolve_engine("torchvision").detect(cfg, tmp_path / "model_final.pth", data)
    found = list(Detector.load(tmp_path, engine="torchvision").stream(get_dataset(data).records()))
    assert len(theirs) > 20
    assert_equal(as_set(found), theirs)
    for one in found:
        assert (one.boxes.dtype, one.scores.dtype, one.classes.dtype) == (np.float32, np.float32, np.int64)
        assert one.boxes.shape == (len(one), 4)
        assert (np.diff(one.scores) <= 0).all()
        assert one.names == [one.class_names[c] for c in one.classes]
        if masks == "True":
            assert one.masks.shape == (len(one), one.height, one.width)
            assert one.masks.dtype == bool
        else:
            assert one.masks is None


@pytest.mark.parametrize("masks", ["False", "True"])
def test_test_time_augmentation_is_honoured(tmp_path, data, masks):
    views = {"TEST__AUG__ENABLED": "True", "TEST__AUG__MIN_SIZES": "(24, 40)"}
    cfg = write_detector(tmp_path, data, MODEL__MASK_ON=masks, **views)
    theirs = resolve_engine("torchvision").detect(cfg, tmp_path / "model_final.pth", data)
    found = list(Detector.load(tmp_path, engine="torchvision").stream(get_dataset(data).records()))
    assert_equal(as_set(found), theirs)
    assert (theirs.masks is not None) == (masks == "True")


def test_an_image_may_be_a_path_a_picture_or_an_array(detector, data):
    path = get_dataset(data).records()[0]["file_name"]
    expected = detector(path)
    assert len(expected)
    with Image.open(path) as image:
        forms = [image.copy(), np.asarray(image.convert("RGB"))]
    for form in forms:
        found = detector(form)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert found.file is None
    assert expected.file == path
    grey = np.asarray(Image.open(path).convert("L"))
    np.testing.assert_array_equal(detector(grey).boxes, detector(np.stack([grey] * 3, axis=2)).boxes)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3)), "array of float64 8 x 8 x 3; give uint8"),
        (np.zeros((3, 8, 8), np.uint8), "3 x 8 x 8"),
        (np.zeros((0, 8, 3), np.uint8), "without pixels"),
        (7, "a int; give a path"),
        (np.zeros((1, 4000, 3), np.uint8), "nothing of the shorter one is left"),
        ("nowhere.png", "nowhere.png cannot be read"),
    ],
)
def test_anything_else_is_refused(detector, image, message):
    with pytest.raises(UserError, match=message):
        detector(image)


def test_exif_rotation_is_applied_to_both_forms(detector, tmp_path, data):
    path = tmp_path / "turned.jpg"
    with Image.open(get_dataset(data).records()[0]["file_name"]) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").save(path, exif=exif, quality=95)
        size = image.size
    found = detector(path)
    assert (found.height, found.width) == size
    with Image.open(path) as image:
        np.testing.assert_array_equal(detector(image).boxes, found.boxes)


def test_a_stream_is_lazy_ordered_and_endless(detector, data):
    paths = [record["file_name"] for record in get_dataset(data).records()]
    taken: list[str] = []

    def endless():
        for path in itertools.cycle(paths):
            taken.append(path)
            yield path

    stream = detector.stream(endless())
    found = list(itertools.islice(stream, 20))
    assert [one.file for one in found] == list(itertools.islice(itertools.cycle(paths), 20))
    assert len(taken) == 20  # without workers nothing is read ahead
    assert [one.image_id for one in found] == list(range(1, 21))


def test_batches_and_workers_change_nothing_but_the_last_digits(detector, data):
    paths = [record["file_name"] for record in get_dataset(data).records()] * 2
    alone = list(detector.stream(paths))
    for found in (detector.stream(paths, batch=4), detector.stream(sorted(paths), batch=4, workers=1)):
        by_file = {one.file: one for one in found}
        assert len(by_file) == len(paths) // 2
        for one in alone:
            np.testing.assert_allclose(by_file[one.file].scores, one.scores, atol=1e-4)


def test_unreadable_images_are_reported_and_left_out(detector, data, tmp_path):
    good = get_dataset(data).records()[0]["file_name"]
    (tmp_path / "bad.jpg").write_text("no image")
    notes: list[tuple[str, str]] = []
    bad = str(tmp_path / "bad.jpg")
    found = list(detector.stream([bad, good, "gone.png"], unreadable=lambda *note: notes.append(note)))
    assert [one.image_id for one in found] == [2]
    assert [path for path, _ in notes] == [bad, "gone.png"]
    with pytest.raises(UserError, match=r"bad.jpg cannot be read"):
        list(detector.stream([bad, good]))


def test_a_score_leaves_out_the_rest(detector, data):
    path = get_dataset(data).records()[0]["file_name"]
    everything = detector(path)
    limit = float(np.median(everything.scores))
    found = detector(path, score=limit)
    np.testing.assert_array_equal(found.boxes, everything.boxes[everything.scores >= limit])
    assert 0 < len(found) < len(everything)


def test_class_names_do_not_need_the_training_data(run, tmp_path):
    names = list(Detector.load(run, engine="torchvision").class_names)
    assert names == ["dog", "cup", "kite"]  # in the order of their ids
    copy = tmp_path / "copied"
    copy.mkdir()
    for name in ("config.yaml", "model_final.pth"):
        text = (run / name).read_bytes()
        (copy / name).write_bytes(text)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(re.sub(r"coco:[^\s')]+", "coco:gone.json:gone", config))
    numbered = Detector.load(copy, engine="torchvision")
    assert list(numbered.class_names) == ["class 0", "class 1", "class 2"]
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    assert list(Detector.load(copy, engine="torchvision", classes=tmp_path / "names.txt").class_names) == [
        "a",
        "b",
        "c",
    ]
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="2 classes, the detector has 3"):
        Detector.load(copy, engine="torchvision", classes=tmp_path / "names.txt")


def test_what_is_no_detector_is_refused(tmp_path, run):
    with pytest.raises(UserError, match="no such run folder"):
        Detector.load(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no model_final.pth in it.*train it first"):
        Detector.load(tmp_path)
    (tmp_path / "runs" / "demo" / "seed0").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "seed0" / "model_final.pth").touch()
    with pytest.raises(UserError, match=r"in folders below; name one: .*runs/demo/seed0$"):
        Detector.load(tmp_path / "runs")
    (tmp_path / "model_0000009.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"name a checkpoint of it, .*model_0000009.pth"):
        Detector.load(tmp_path)
    with pytest.raises(UserError, match=r"no config.yaml beside"):
        Detector.load(tmp_path / "model_0000009.pth")
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text().replace("DEPTH: 18", "DEPTH: 34"))
    (tmp_path / "model_final.pth").write_bytes((run / "model_final.pth").read_bytes())
    with pytest.raises(UserError, match="would stay random"):
        Detector.load(tmp_path, engine="torchvision")


def test_importing_the_detector_imports_nothing_heavy(repo):
    heavy = "{'torch', 'fvcore', 'pycocotools'}"
    code = f"import sys; from transfer.predict import Detector; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.detectron2
@pytest.mark.parametrize("masks", ["False", "True"])
def test_detectron2s_default_predictor_finds_the_same(tmp_path, data, masks):
    """The lines of docs/predict.md."""
    import cv2
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    write_detector(tmp_path, data, MODEL__MASK_ON=masks)
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    predict = DefaultPredictor(cfg)
    for engine in ("torchvision", "detectron2"):
        for found in Detector.load(tmp_path, engine=engine).stream(get_dataset(data).records()):
            theirs = predict(cv2.imread(found.file))["instances"]
            np.testing.assert_array_equal(theirs.pred_boxes.tensor.numpy(), found.boxes)
            np.testing.assert_array_equal(theirs.scores.numpy(), found.scores)
            np.testing.assert_array_equal(theirs.pred_classes.numpy(), found.classes)
            if masks == "True":
                np.testing.assert_array_equal(theirs.pred_masks.numpy(), found.masks)
