"""Cityscapes' layout: records as Detectron2 reads them, and what is refused."""

import collections
import importlib.util
import json
import shutil
import sys
import types

import pytest

from runtime.errors import UserError
from tests.transfer.cityscapes_data import SIZE, write_cityscapes
from transfer.data.catalog import get_dataset
from transfer.data.cityscapes import CLASSES, LABEL_IDS

pytest.importorskip("shapely")


def one_image(folder, *objects, **content):
    """The annotations of a data set of one image with these (label, corners, more fields)."""
    name = write_cityscapes(folder, images=1)
    spec = get_dataset(name)
    path = next(spec.annotations.glob("*/*_polygons.json"))
    entries = [{"label": label, "polygon": corners, **more} for label, corners, more in objects]
    path.write_text(json.dumps({"imgHeight": SIZE[1], "imgWidth": SIZE[0], "objects": entries, **content}))
    return spec


def square(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_later_polygons_cover_earlier_ones(tmp_path):
    spec = one_image(
        tmp_path,
        ("car", square(10, 10, 49, 29), {}),
        ("building", square(30, 0, 159, 119), {}),  # no object, but it covers
        ("person", square(12, 12, 19, 19), {}),
        ("bus", square(0, 0, 100, 100), {"deleted": 1}),
        ("license plate", square(10, 10, 49, 29), {}),
    )
    person, car = spec.records()[0]["annotations"]
    assert (person["category_id"], car["category_id"]) == (CLASSES.index("person"), CLASSES.index("car"))
    # corners at pixel centres (+ 0.5), and half a pixel more on each side
    assert person["bbox"] == pytest.approx([12, 12, 20, 20])
    assert car["bbox"] == pytest.approx([10, 10, 30, 30])
    assert len(car["segmentation"]) == 1  # the hole that the person makes is filled
    assert (spec.class_names, spec.category_ids) == (list(CLASSES), [24, 25, 26, 27, 28, 31, 32, 33])


def test_divided_object_is_one_annotation_and_groups_are_crowds(tmp_path):
    spec = one_image(
        tmp_path,
        ("bicyclegroup", square(0, 60, 159, 69), {}),
        ("pole", square(70, 0, 79, 119), {}),
        ("bus", square(0, 0, 0, 0), {}),
        ("static", square(0, 0, 5, 5), {}),
    )
    (group,) = spec.records()[0]["annotations"]
    assert group["iscrowd"] == 1
    assert group["category_id"] == CLASSES.index("bicycle")
    assert len(group["segmentation"]) == 2
    assert spec.records()[0]["image_id"].endswith("_leftImg8bit.png")


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore:The 'resolution' argument is deprecated")  # of shapely, in Detectron2's code
@pytest.mark.parametrize("seed", range(5))
def test_records_equal_those_of_detectron2(tmp_path, monkeypatch, seed):
    spec = get_dataset(write_cityscapes(tmp_path, images=6, seed=seed))
    theirs = read_by_detectron2(spec, monkeypatch)
    theirs.sort(key=lambda record: record["file_name"])
    ours = spec.records()
    assert [r["file_name"] for r in ours] == [r["file_name"] for r in theirs]
    for own, other in zip(ours, theirs):
        assert {key: own[key] for key in ("image_id", "height", "width")} == {
            key: other[key] for key in ("image_id", "height", "width")
        }
        assert len(own["annotations"]) == len(other["annotations"])
        for a, b in zip(own["annotations"], other["annotations"]):
            assert (a["bbox"], a["segmentation"]) == (list(b["bbox"]), [list(part) for part in b["segmentation"]])
            assert (a["category_id"], a["iscrowd"]) == (b["category_id"], b["iscrowd"])
            assert a["bbox_mode"] == int(b["bbox_mode"])


def read_by_detectron2(spec, monkeypatch):
    """Detectron2 imports the labels of cityscapesscripts by a path of its makers; they are put there."""
    label = collections.namedtuple("label", "name id hasInstances ignoreInEval")
    inner = ("caravan", "trailer")
    module = types.ModuleType("labels")
    module.labels = [
        label(name, number, name in CLASSES or name in inner, name not in CLASSES) for name, number in LABEL_IDS.items()
    ]
    module.name2label = {one.name: one for one in module.labels}
    module.id2label = {one.id: one for one in module.labels}
    for prefix in ("cityscapesscripts", "deeplearning.projects.cityscapesApi.cityscapesscripts"):
        parts = f"{prefix}.helpers.labels".split(".")
        for k in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:k]), types.ModuleType(parts[k - 1]))
        monkeypatch.setitem(sys.modules, ".".join(parts), module)
    from detectron2.data.datasets.cityscapes import load_cityscapes_instances

    return load_cityscapes_instances(str(spec.images), str(spec.annotations))


def test_built_in_names_have_the_layout_of_detectron2(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_cityscapes(tmp_path / "cityscapes", "val")
    spec = get_dataset.__wrapped__("cityscapes_fine_instance_seg_val")
    assert len(spec.summary.image_ids) == 4
    absent = get_dataset.__wrapped__("cityscapes_fine_instance_seg_train")
    with pytest.raises(UserError, match=r"gtFine/\{train,val\}/CITY/\*_gtFine"):
        absent.require()


def test_shares_are_nested_and_digests_follow_every_file(tmp_path):
    name = write_cityscapes(tmp_path, images=6)
    half, third = get_dataset(f"{name}@50%"), get_dataset(f"{name}@34%")
    assert len(half.summary.image_ids) == 3
    assert set(third.summary.image_ids) < set(half.summary.image_ids)
    assert len({get_dataset(name).sha256(), half.sha256(), third.sha256()}) == 3
    again = write_cityscapes(tmp_path / "again", images=6)
    assert get_dataset(again).sha256() == get_dataset(name).sha256()
    changed = get_dataset(write_cityscapes(tmp_path / "changed", images=6))
    next(changed.annotations.glob("*/*_gtFine_instanceIds.png")).write_bytes(b"other")
    assert changed.sha256() != get_dataset(name).sha256()


@pytest.mark.parametrize(
    ("objects", "content", "problem"),
    [
        ([("zebra", square(0, 0, 9, 9), {})], {}, "missing or unknown 'zebra'"),
        ([("car", [[1, 1]], {})], {}, "no Cityscapes annotation"),
        ([("car", [[1, 1], [2, float("nan")], [3, 3]], {})], {}, "not finite"),
        ([("car", [[1, 1], [2, 1e9], [3, 3]], {})], {}, "beyond"),
        ([("car", "here", {})], {}, "no Cityscapes annotation"),
        ([], {"imgHeight": "120"}, "an image side of '120'"),
        ([], {"objects": {"label": "car"}}, "no Cityscapes annotation"),
        ([], {"objects": [["car"]]}, "no Cityscapes annotation"),
    ],
)
def test_broken_annotations_are_one_line_with_the_file(tmp_path, objects, content, problem):
    spec = one_image(tmp_path, *objects, **content)
    with pytest.raises(UserError, match=problem) as caught:
        spec.records()
    assert "_gtFine_polygons.json" in str(caught.value)


def test_missing_files_and_strangers(tmp_path):
    name = write_cityscapes(tmp_path)
    spec = get_dataset(name)
    (spec.images / "ulm" / "notes.txt").write_text("")
    (spec.images / "ulm" / ".DS_Store").write_text("")
    assert [f.kind for f in spec.summary.findings if "Cityscapes" in f.kind] == ["file that is no image of Cityscapes"]
    map_ = next(spec.annotations.glob("*/*_instanceIds.png"))
    map_.unlink()
    with pytest.raises(UserError, match="1 annotation files are missing: .*_gtFine_instanceIds.png; unpack"):
        spec._read()
    shutil.rmtree(spec.images / "ulm")
    shutil.rmtree(spec.images / "aachen")
    with pytest.raises(UserError, match=r"no CITY/\*leftImg8bit.png in"):
        spec._read()


def test_without_shapely(tmp_path, monkeypatch):
    spec = get_dataset(write_cityscapes(tmp_path))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "shapely" else find(name, *a))
    with pytest.raises(UserError, match="need shapely; pip install shapely"):
        spec.records()
