"""The drawn data set: deterministic, in standard layouts that standard readers agree on."""

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from pycocotools.coco import COCO

from demo.scenes import CLASS_NAMES, MIN_VISIBLE, box_xyxy, draw_scene, polygons
from demo.textures import CLASSES

SMALL = ["--per-class", "3", "--train-scenes", "6", "--val-scenes", "3"]


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, run_cli):
    folder = tmp_path_factory.mktemp("demo") / "data"
    run_cli(["demo/draw.py", folder, *SMALL], check=0)
    return folder


def test_same_seed_same_files_other_seed_other_files(drawn, tmp_path, run_cli):
    run_cli(["demo/draw.py", tmp_path / "again", *SMALL], check=0)
    run_cli(["demo/draw.py", tmp_path / "other", *SMALL, "--seed", "1"], check=0)
    assert digest(tmp_path / "again") == digest(drawn)
    assert digest(tmp_path / "other" / "coco") != digest(drawn / "coco")


def test_second_call_leaves_a_finished_folder_alone(drawn, run_cli):
    before = (drawn / "coco" / "train" / "000000.jpg").stat().st_mtime_ns
    done = run_cli(["demo/draw.py", drawn, *SMALL], check=0)
    assert "already drawn" in done.stdout
    assert (drawn / "coco" / "train" / "000000.jpg").stat().st_mtime_ns == before


def test_unfinished_folder_is_drawn_again_and_a_foreign_one_refused(drawn, tmp_path, run_cli):
    (tmp_path / "half" / "images").mkdir(parents=True)
    (tmp_path / "half" / ".drawing").write_text("")
    run_cli(["demo/draw.py", tmp_path / "half", *SMALL], check=0)
    assert digest(tmp_path / "half") == digest(drawn)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    done = run_cli(["demo/draw.py", tmp_path / "mine", *SMALL], check=2)
    assert "holds other files" in done.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    done = run_cli(["demo/draw.py", tmp_path / "mine" / "thesis.txt", *SMALL], check=2)
    assert "is a file" in done.stderr


def test_damaged_record_is_drawn_again(drawn, tmp_path, run_cli):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "demo.json").write_text('{"drawing"')
    (tmp_path / "torn" / "images").mkdir()
    (tmp_path / "torn" / "images" / "old.jpg").write_text("")
    run_cli(["demo/draw.py", tmp_path / "torn", *SMALL], check=0)
    assert digest(tmp_path / "torn") == digest(drawn)


def test_imagefolder_reads_it(drawn):
    from torchvision.datasets import ImageFolder

    train = ImageFolder(drawn / "images" / "train")
    assert train.classes == sorted(CLASS_NAMES)
    assert len(train) == 3 * len(CLASS_NAMES) == len(list((drawn / "unlabelled").iterdir()))
    assert train[0][0].size == (96, 96)


def test_pycocotools_reads_it_and_polygons_fill_the_boxes(drawn):
    for split in ("train", "val"):
        coco = COCO(str(drawn / "coco" / "annotations" / f"instances_{split}.json"))
        assert len(coco.getCatIds()) == 10 >= 8
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            assert mask.sum() == pytest.approx(annotation["area"], rel=0.35, abs=40)
            x, y, w, h = annotation["bbox"]
            columns = np.flatnonzero(mask.any(0))
            assert columns[0] >= x - 1.5
            assert columns[-1] <= x + w + 1.5


def test_voc_and_coco_hold_the_same_boxes(drawn):
    voc = drawn / "VOCdevkit" / "VOC2007"
    coco = json.loads((drawn / "coco" / "annotations" / "instances_val.json").read_text())
    by_image = {i["file_name"][:-4]: i["id"] for i in coco["images"]}
    assert (voc / "ImageSets" / "Main" / "test.txt").read_text().split() == sorted(by_image)
    for name, image_id in by_image.items():
        root = ElementTree.parse(voc / "Annotations" / f"{name}.xml").getroot()
        corners = [[int(b.find(k).text) for k in ("xmin", "ymin", "xmax", "ymax")] for b in root.iter("bndbox")]
        from_voc = sorted([x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1] for x0, y0, x1, y1 in corners)
        assert from_voc == sorted(a["bbox"] for a in coco["annotations"] if a["image_id"] == image_id)


def test_visible_masks_are_disjoint_and_mostly_seen():
    rng = np.random.default_rng(5)
    for _ in range(5):
        scene = draw_scene(120, 160, [0, 3, 5, 7, 9], (15, 40), rng)
        assert np.sum([o.mask for o in scene.objects], axis=0).max() <= 1
        assert all(o.visible >= MIN_VISIBLE for o in scene.objects)
        assert all(polygons(o.mask) for o in scene.objects)


def test_neither_silhouette_nor_texture_alone_tells_the_class():
    for place in (0, 1):
        values = [pair[place] for pair in CLASSES.values()]
        assert all(values.count(v) == 2 for v in values)


def test_box_is_tight():
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert box_xyxy(mask) == (3, 2, 9, 5)


def test_bad_counts_are_refused(tmp_path, run_cli):
    assert "at least 1" in run_cli(["demo/draw.py", tmp_path / "x", "--per-class", "0"], check=2).stderr
