"""Names of data sets, what they read, and how broken ones are refused."""

import json
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from runtime.errors import UserError
from tests.transfer.toy_data import CATEGORIES, coco_content, write_coco, write_voc
from transfer.data import catalog, labels
from transfer.data.built_in import COCO_SETS, LVIS_SETS, VOC_SETS
from transfer.data.catalog import get_dataset
from transfer.data.voc import VOC_CLASSES

RLE = {"size": [48, 64], "counts": [1, 2]}
SMALL = {"size": [40, 60], "counts": [0, 2400]}
PACKED = mask.encode(np.asfortranarray(np.arange(48 * 64).reshape(48, 64) % 7 < 3, dtype=np.uint8))["counts"].decode()


@pytest.fixture
def toy(tmp_path):
    return tmp_path, coco_content(tmp_path / "images")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_list_that_is_there_twice_is_named(toy, key):
    """Files joined by hand: a JSON reader would take the second list and drop the first."""
    folder, content = toy
    text = json.dumps(content)
    (folder / "x.json").write_text(f'{text[:-1]}, "{key}": []}}')
    with pytest.raises(UserError, match=f'x.json has "{key}" twice, of which a JSON reader sees one'):
        get_dataset(f"coco:{folder / 'x.json'}:{folder / 'images'}").records()
    content["info"] = {"description": f"about {key}", key: 3}  # the same word elsewhere is no list
    (folder / "y.json").write_text(json.dumps(content))
    assert get_dataset(f"coco:{folder / 'y.json'}:{folder / 'images'}").records()


def test_coco_records_are_sorted_contiguous_and_float(toy):
    folder, content = toy
    content["images"].reverse()
    content["annotations"][0].update(bbox=[1, 2, 10, 12], segmentation=[[1, 2, 11, 2, 11, 14]])
    spec = get_dataset(write_coco(folder, content))
    records = spec.records()
    assert [r["image_id"] for r in records] == list(range(11, 19))
    assert spec.class_names == ["dog", "cup", "kite"]
    assert spec.category_ids == [3, 7, 90]
    first = records[0]["annotations"][0]
    assert all(isinstance(v, float) for v in first["bbox"])
    assert all(isinstance(v, float) for v in first["segmentation"][0])
    assert [finding.line() for finding in spec.summary.findings] == [
        "category ids that are not 1..3: 3, e.g. 3: mapped in sorted order to 0..2"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append(dict(c["images"][0])), "1 duplicate ids in images: 11"),
        (lambda c: c["annotations"].append(dict(c["annotations"][2])), "1 duplicate ids in annotations: 3"),
        (lambda c: c["annotations"][0].update(category_id=5), "1 annotations name an unknown category_id"),
        (lambda c: c["annotations"][4].update(image_id=99), r"unknown image_id \(annotation ids 5\)"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), r"annotation 2 has bbox \[1, 2, 3\]"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, float("nan"), 4]), "annotation 2 has bbox"),
        (lambda c: c["images"][3].update(file_name="gone.png"), r"1 of 8 images are missing: .*gone\.png"),
        (lambda c: c.pop("categories"), 'no list "categories"'),
        (lambda c: c.update(images=[]), "lists no image"),
        (lambda c: c["images"][0].pop("width"), "image 11 has width None; a whole number of pixels"),
        (lambda c: c["images"][0].update(width="480"), "image 11 has width '480'; a whole number of pixels"),
        (lambda c: c["images"][1].update(height=48.5), "image 12 has height 48.5; a whole number of pixels"),
        (lambda c: c["images"][1].update(height=float("inf")), "image 12 has height inf; a whole number of pixels"),
        (lambda c: c["images"][1].update(height=10**400), "image 12 has height 10+; a whole number of pixels"),
        (lambda c: c["annotations"][0].update(area=10**400), "has area 10+; a number of pixels"),
        (lambda c: c["annotations"][1].update(bbox="1 2 3 4"), "annotation 2 has bbox '1 2 3 4'; 4 numbers"),
        (lambda c: c["annotations"][1].update(bbox=["1", 2, 3, 4]), r"annotation 2 has bbox \['1', 2, 3, 4\]"),
        (lambda c: c["annotations"][1].update(bbox=None), "annotation 2 has bbox None"),
        (lambda c: c["annotations"][1].pop("bbox"), "annotation 2 has bbox None"),
        (
            lambda c: c["annotations"][2].update(segmentation=[1, 2, 3, 4, 5, 6]),
            r"annotation 3 has segmentation \[1, 2, 3, 4, 5, 6\]; a list of polygons",
        ),
        (lambda c: c["annotations"][2].update(segmentation=[None]), r"annotation 3 has segmentation \[None\]"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [48, 64]}),
            "annotation 1 has segmentation .*; a run-length mask has size",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [48, 64], "counts": [0, "3072"]}),
            "annotation 1 has run lengths .*; whole numbers",
        ),
        (lambda c: c["images"][0].update(id=0.5), "entry 0 of images has id 0.5; a whole number or text"),
        (lambda c: c["images"][0].update(id=None), "entry 0 of images has id None; a whole number or text"),
        (lambda c: c["images"][0].update(id="11"), "ids of images are partly numbers and partly text"),
        (lambda c: c["annotations"][4].update(image_id="12"), r"unknown image_id .*; it is a number in one list and"),
        (lambda c: c["annotations"][1].pop("id"), "entry 1 of annotations has id None"),
        (
            lambda c: c.update(categories=[{**CATEGORIES[0], "name": None}, *CATEGORIES[1:]]),
            "category 7 has name None; a text is expected",
        ),
        (lambda c: c.update(categories=[{**CATEGORIES[0], "name": " "}, *CATEGORIES[1:]]), "category 7 has name ' '"),
        (lambda c: c.update(categories=[{**CATEGORIES[0], "name": "\ud800"}, *CATEGORIES[1:]]), "category 7 has name"),
        (lambda c: c["annotations"][0].update(iscrowd="no"), "annotation 1 has iscrowd 'no'"),
        (
            lambda c: c["annotations"][0].update(segmentation=[["a"] * 6]),
            "annotation 1 has a polygon .*; numbers are expected",
        ),
        (lambda c: c["annotations"][0].update(segmentation=RLE), "run lengths of 3 pixels in a mask of 48 x 64"),
        (
            lambda c: [a.update(segmentation={"size": [48, 64], "counts": PACKED[:-4]}) for a in c["annotations"][:2]],
            r"the run lengths of 2 masks are damaged: .* \(annotation ids 1, 2\)",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [48, 64], "counts": 7}),
            "annotation 1 has segmentation .*; a run-length mask has size",
        ),
        (lambda c: c["annotations"][0].update(segmentation=SMALL), "a mask of 40 x 60 .* in an image of 48 x 64"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, float("nan"), 4, 5, 6]]), "not finite or beyond 1e"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, float("inf"), 4, 5, 6]]), "not finite or beyond 1e"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, -3e8, 4, 5, 6]]), "not finite or beyond 1e"),
        (lambda c: c["annotations"][0].update(area="big"), "annotation 1 has area 'big'"),
        (lambda c: c["annotations"][0].update(area=-4.0), "annotation 1 has area -4.0"),
        (lambda c: c.update(annotations={"a": 1}), "is not a COCO instances file"),
        (lambda c: c.update(categories=["a"]), "is not a COCO instances file"),
        (lambda c: c["annotations"][0].update(ignore=1), 'annotation 1 has "ignore"'),
    ],
)
def test_broken_coco_files_are_refused_by_name(toy, change, message):
    folder, content = toy
    change(content)
    name = write_coco(folder, content)
    with pytest.raises(UserError, match=message) as caught:
        get_dataset(name).records()
    assert name in str(caught.value)


def test_a_whole_compressed_mask_is_kept(toy):
    folder, content = toy
    content["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": PACKED}
    record = get_dataset(write_coco(folder, content)).records()[0]
    assert record["annotations"][0]["segmentation"] == {"size": [48, 64], "counts": PACKED}


def test_wrong_sizes_are_named_before_a_run_without_opening_every_image(toy, monkeypatch):
    folder, content = toy
    for image in content["images"][4:6]:
        image.update(width=65)
    spec = get_dataset(write_coco(folder, content))
    message = r"2 of 8 checked images differ .*img4\.png is 90 x 61, not 65 x 61, .*; correct the annotations"
    with pytest.raises(UserError, match=message):
        spec.check_image_sizes()
    monkeypatch.setattr(labels, "SAMPLED_IMAGES", 4)  # every second image
    with pytest.raises(UserError, match="1 of 4 checked images"):
        spec.check_image_sizes()
    monkeypatch.setattr(labels, "SAMPLED_IMAGES", 1)
    spec.check_image_sizes()


def test_a_turned_photo_has_the_size_that_is_shown(toy):
    folder, content = toy
    path = folder / "images" / content["images"][0]["file_name"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(path, exif=exif)
    get_dataset(write_coco(folder, content)).check_image_sizes()
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot be read"):
        get_dataset(write_coco(folder, content)).check_image_sizes()


def test_a_photo_annotated_as_it_is_stored_but_shown_turned_is_named(toy):
    folder, content = toy
    content["images"][0]["file_name"] = "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(folder / "images" / "turned.jpg", exif=exif)
    with pytest.raises(UserError, match=r"turned\.jpg is 48 x 64, not 64 x 48"):
        get_dataset(write_coco(folder, content)).check_image_sizes()


def test_odd_annotations_are_counted(toy):
    folder, content = toy
    first, second, third, fourth, fifth, sixth = content["annotations"][:6]
    first["bbox"] = [5, 5, 0, 4]
    second["bbox"] = [900, 5, 4, 4]
    third["bbox"] = [30, 5, 500, 4]
    fourth["segmentation"] = [[1, 2, 3, 4]]
    fifth["segmentation"].insert(0, [1, 2, 3, 4])
    sixth["segmentation"].append([1, 2, 3, 4, 5, 6, 7])
    content["annotations"][6]["bbox"] = [20, 20, -6, 7]
    spec = get_dataset(write_coco(folder, content))
    counted = {finding.kind: (finding.count, finding.example) for finding in spec.summary.findings}
    assert counted == {
        "annotation without a usable polygon": (1, "annotation 4"),
        "annotation with an unusable polygon": (2, "annotation 5, 6"),
        "category ids that are not 1..3": (3, "3"),
        "box of negative width or height": (1, "image 13"),
        "box without area": (1, "image 11"),
        "box outside its image": (1, "image 11"),
        "box that extends beyond its image": (1, "image 11"),
    }
    assert [len(spec.records(masks=masks)[1]["annotations"]) for masks in (True, False)] == [2, 3]
    kept = {annotation["id"]: annotation for annotation in spec.content(masks=True)["annotations"]}
    assert sorted(kept) == [a["id"] for a in content["annotations"] if a["id"] != 4]  # evaluation drops it too
    assert kept[5]["segmentation"] == fifth["segmentation"][1:]
    assert len(spec.content()["annotations"]) == len(content["annotations"])  # boxes need no polygon


def test_annotations_without_masks_are_counted(toy, tmp_path):
    folder, content = toy
    assert get_dataset(write_coco(folder, content)).summary.maskless == ""
    del content["annotations"][0]["segmentation"]
    content["annotations"][3]["segmentation"] = []
    bare = get_dataset(f"coco:{folder / 'bare.json'}:{folder / 'images'}")
    (folder / "bare.json").write_text(json.dumps(content))
    assert bare.summary.maskless == "2 annotations have no segmentation (images 11, 12)"
    voc = get_dataset(write_voc(tmp_path / "voc", {"a": [("dog", 0, [1, 1, 9, 9])]}))
    assert voc.summary.maskless == "1 annotations have no segmentation (images a)"


def test_annotations_without_area_have_that_of_their_box(toy):
    folder, content = toy
    for annotation in content["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    whole = get_dataset(write_coco(folder, content))
    for annotation in content["annotations"][:5]:
        del annotation["area"], annotation["iscrowd"]
    content["annotations"][0]["area"] = None
    bare = get_dataset(f"coco:{folder / 'bare.json'}:{folder / 'images'}")
    (folder / "bare.json").write_text(json.dumps(content))
    finding = bare.summary.findings[0]
    assert (finding.kind, finding.count) == ("annotation without an area", 5)
    assert finding.message.startswith("evaluation uses the area of the box")
    by_id = {annotation["id"]: annotation for annotation in whole.content()["annotations"]}
    for annotation in bare.content()["annotations"]:
        expected = by_id[annotation["id"]]
        assert (annotation["area"], annotation["iscrowd"]) == (expected["area"], expected["iscrowd"])


def test_only_small_data_sets_stay_in_memory(toy, monkeypatch):
    folder, content = toy
    name = write_coco(folder, content)
    small = get_dataset(name)
    assert small.records() is small.records()
    monkeypatch.setattr(catalog, "KEPT_IMAGES", 7)
    large = get_dataset(f"{name}@99%")
    assert large.summary.image_ids == [r["image_id"] for r in small.records()]
    assert large.class_names == ["dog", "cup", "kite"]
    held = weakref.ref(large._cache[0])
    first = large.records()  # no second reading: what the summary was made from
    assert held() is None
    assert first == large.records() == small.records()
    assert large._cache == []


def test_not_json_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations.json").write_text("<html>")
    with pytest.raises(UserError, match="not readable JSON"):
        get_dataset(f"coco:{tmp_path / 'annotations.json'}:{tmp_path / 'images'}").records()


def test_shares_are_nested_and_repeatable(toy):
    folder, content = toy
    name = write_coco(folder, content)
    ids = {p: {r["image_id"] for r in get_dataset(f"{name}@{p}%").records()} for p in (25, 50)}
    assert [len(v) for v in ids.values()] == [2, 4]
    assert ids[25] < ids[50]
    half = get_dataset(f"{name}@50%")
    assert {i["id"] for i in half.content()["images"]} == ids[50]
    assert half.sha256() not in (get_dataset(name).sha256(), get_dataset(f"{name}@50%s1").sha256())
    with pytest.raises(UserError, match="above 0"):
        get_dataset(f"{name}@0%")
    with pytest.raises(UserError, match="@1%: a share of 0.01 of its 8 images is less than one image"):
        get_dataset(f"{name}@1%").records()


def test_voc_boxes_start_at_zero_and_own_classes_are_sorted(tmp_path):
    objects = {"b": [("zebra", 1, [1, 1, 100, 80])], "a": [("ant", 0, [11, 12, 20, 30]), ("zebra", 0, [1, 2, 3, 4])]}
    spec = get_dataset(write_voc(tmp_path, objects))
    assert spec.class_names == ["ant", "zebra"]
    assert [r["image_id"] for r in spec.records()] == ["b", "a"]
    assert spec.records()[0]["annotations"] == [
        {"bbox": [0.0, 0.0, 100.0, 80.0], "bbox_mode": 0, "category_id": 1, "difficult": 1}
    ]


def test_voc_names_keep_the_official_order(tmp_path):
    assert get_dataset(write_voc(tmp_path, {"a": [("dog", 0, [1, 1, 9, 9])]})).class_names == list(VOC_CLASSES)


def test_broken_voc_folders_are_refused_by_name(tmp_path):
    name = write_voc(tmp_path, {"a": [("dog", 0, [1, 1, 9, 9])], "b": []})
    annotations = tmp_path / "VOC2007" / "Annotations"
    (annotations / "b.xml").unlink()
    with pytest.raises(UserError, match=r"1 of 2 annotation files are missing .*b\.xml"):
        get_dataset(name).records()
    (annotations / "b.xml").write_text("<annotation><size>")
    with pytest.raises(UserError, match=r"b\.xml: not a VOC annotation"):
        get_dataset(name).records()
    (annotations / "b.xml").write_text((annotations / "a.xml").read_text().replace("<xmax>9<", "<xmax>nan<"))
    with pytest.raises(UserError, match=r"b\.xml: not a VOC annotation \(bndbox .*nan"):
        get_dataset(name).records()
    (annotations / "b.xml").write_text((annotations / "a.xml").read_text())
    (tmp_path / "VOC2007" / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images are missing: .*b\.jpg"):
        get_dataset(name).records()


def test_a_missing_data_set_says_where_it_looked(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    get_dataset.cache_clear()
    for name in ("coco_2017_train", "voc_2012_trainval", "lvis_v0.5_val"):
        with pytest.raises(UserError, match="make demo") as caught:
            get_dataset(name).records()
        assert str(tmp_path) in str(caught.value)
    get_dataset.cache_clear()


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("coco:gone.json:gone", "gone.json and gone not found.*coco:ANNOTATIONS.json:IMAGE_DIR"),
        ("voc:gone", "gone/Annotations.*voc:DIR or"),
    ],
)
def test_a_missing_own_data_set_says_how_it_is_named(monkeypatch, tmp_path, name, form):
    """Not how COCO itself is laid out, nor where built-in sets are looked for."""
    monkeypatch.chdir(tmp_path)
    get_dataset.cache_clear()
    with pytest.raises(UserError, match=form) as caught:
        get_dataset(name).records()
    assert f"relative ones start from {tmp_path}" in str(caught.value)
    assert "DETECTRON2_DATASETS" not in str(caught.value)
    get_dataset.cache_clear()


@pytest.mark.parametrize("name", ["coco:x.json", "voc:a:b:c", "tiff:a:b", "coco_2017", "coco::x"])
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match="data set"):
        get_dataset(name)


def same_annotation(ours: dict, theirs: dict) -> None:
    assert ours["category_id"] == theirs["category_id"]
    assert int(ours["bbox_mode"]) == int(theirs["bbox_mode"])
    assert list(ours["bbox"]) == list(theirs["bbox"])
    assert ours.get("iscrowd", 0) == theirs.get("iscrowd", 0)
    mine, yours = ours.get("segmentation"), theirs.get("segmentation")
    if isinstance(yours, list):
        assert mine == yours
    else:
        assert mine == yours


class JsonIndex:
    """The part of the lvis package that Detectron2's reader uses: an index over the file (lvis may be absent)."""

    def __init__(self, path):
        content = json.loads(Path(path).read_text())
        self.imgs = {i["id"]: i for i in content["images"]}
        self.anns = {a["id"]: a for a in content["annotations"]}
        self.img_ann_map = {i: [] for i in self.imgs}
        for annotation in content["annotations"]:
            self.img_ann_map[annotation["image_id"]].append(annotation)

    def load_imgs(self, ids):
        return [self.imgs[i] for i in ids]


@pytest.mark.detectron2
def test_records_equal_detectron2s(tmp_path, shared_data, monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", SimpleNamespace(LVIS=JsonIndex))
    from detectron2.data.datasets import load_coco_json, load_voc_instances
    from detectron2.data.datasets.lvis import load_lvis_json

    write_coco(tmp_path)
    root = shared_data("coco_mini_s320") / "coco_mini_s320"
    lvis = shared_data("lvis_v05_mini") / "lvis_v05_mini"
    voc = shared_data("voc2007_s256") / "voc2007_s256" / "VOCdevkit"
    mini = str(root / "annotations/instances_val2017.json")
    real = str(lvis / "annotations/lvis_v0.5_val_mini.json")
    toy = str(tmp_path / "annotations.json")
    cases = [
        (f"coco:{toy}:{tmp_path}/images", load_coco_json(toy, str(tmp_path / "images"), "toy_case")),
        (f"coco:{mini}:{root}/val2017", load_coco_json(mini, str(root / "val2017"), "mini_case")),
        (f"voc:{voc}:2007:test", load_voc_instances(str(voc / "VOC2007"), "test", VOC_CLASSES)),
        (f"lvis:{real}:{lvis}", load_lvis_json(real, str(lvis) + "/")),
    ]
    for name, theirs in cases:
        ours = get_dataset(name).records()
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs):
            for key in ("file_name", "height", "width", "image_id"):
                assert mine[key] == other[key]
            assert len(mine["annotations"]) == len(other["annotations"])
            for one, two in zip(mine["annotations"], other["annotations"]):
                same_annotation(one, two)


@pytest.mark.detectron2
def test_built_in_names_point_where_detectron2_looks():
    import os

    from detectron2.data import MetadataCatalog

    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    for name, (annotations, images) in {**COCO_SETS, **LVIS_SETS}.items():
        theirs = MetadataCatalog.get(name)
        assert Path(theirs.json_file) == Path(root) / annotations
        assert Path(theirs.image_root) == Path(root) / images
    for name, (year, split) in VOC_SETS.items():
        theirs = MetadataCatalog.get(name) if (year, split) != (2012, "test") else None
        assert theirs is None or (theirs.dirname, theirs.year, theirs.split) == (f"{root}/VOC{year}", year, split)
