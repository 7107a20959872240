"""Findings: what the annotations of an export do to the numbers is named, counted and told with an example."""

import copy
import json
import re

import pytest

from runtime.errors import UserError
from tests.transfer.toy_data import coco_content, write_coco, write_voc
from transfer.data.catalog import get_dataset
from transfer.data.set_findings import finding_records, named_findings
from transfer.data.voc import VOC_CLASSES

CLASSES = "category ids that are not 1..3"  # a finding of the toy data itself


@pytest.fixture
def toy(tmp_path):
    return tmp_path, coco_content(tmp_path / "images")


def findings(name):
    """Kind -> (count, example)."""
    return {f.kind: (f.count, f.example) for f in get_dataset(name).summary.findings if f.kind != CLASSES}


def message(name, kind):
    (found,) = [f for f in get_dataset(name).summary.findings if f.kind == kind]
    return found.message


def test_clean_data_have_no_finding(toy):
    assert findings(write_coco(*toy)) == {}


def test_a_file_under_two_ids_is_found(toy):
    folder, content = toy
    content["images"].append({**content["images"][2], "id": 99})
    content["annotations"][8]["image_id"] = 99  # half of its annotations
    (count, example) = findings(write_coco(folder, content))["image file listed under several ids"]
    assert (count, example) == (1, str((folder / "images" / "img2.png").resolve()))


def test_a_file_under_two_spellings_of_its_path_is_found(toy):
    folder, content = toy
    (folder / "images" / "link").symlink_to(folder / "images")
    content["images"].append({**content["images"][2], "id": 98, "file_name": "./img2.png"})
    content["images"].append({**content["images"][3], "id": 99, "file_name": "link/img3.png"})
    assert findings(write_coco(folder, content))["image file listed under several ids"][0] == 2


def test_annotations_listed_twice_are_found(toy):
    folder, content = toy
    copies = [{**a, "id": a["id"] + 100} for a in content["annotations"][3:]]
    content["annotations"] += copies
    assert findings(write_coco(folder, content)) == {"annotation listed more than once": (len(copies), "image 12")}


def test_equal_boxes_of_other_classes_or_images_are_no_copies(toy):
    folder, content = toy
    first = content["annotations"][0]
    other = next(c["id"] for c in content["categories"] if c["id"] != first["category_id"])
    content["annotations"].append({**first, "id": 101, "category_id": other})
    content["annotations"].append({**first, "id": 102, "image_id": 13})
    assert "annotation listed more than once" not in findings(write_coco(folder, content))


def test_voc_objects_listed_twice_are_found(tmp_path):
    name = write_voc(tmp_path, {"a": [(c, 0, [1, 1, 9, 9]) for c in VOC_CLASSES] + [("dog", 0, [1, 1, 9, 9])]})
    assert findings(name) == {"annotation listed more than once": (1, "image a")}


def test_more_objects_than_are_evaluated_are_found(toy):
    folder, content = toy
    boxes = [[float(k % 40), float(k // 40), 3.0, 3.0] for k in range(101)]
    extra = {"image_id": 14, "category_id": 3, "area": 9.0, "iscrowd": 0, "segmentation": [[1, 1, 2, 2, 3, 1]]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 14]
    content["annotations"] += [{**extra, "id": 1000 + k, "bbox": box} for k, box in enumerate(boxes)]
    name = write_coco(folder, content)
    kind = "image with more than 100 objects"
    assert findings(name) == {kind: (1, "image 14 with 101 dog")}
    assert "--evaluator auto-101" in message(name, kind)


def test_crowds_and_several_classes_do_not_reach_the_limit(toy):
    folder, content = toy
    extra = {"image_id": 14, "area": 9.0, "iscrowd": 0, "segmentation": [[1, 1, 2, 2, 3, 1]]}
    for k in range(120):
        box = [float(k % 40), float(k // 40), 3.0, 3.0]
        content["annotations"].append({**extra, "id": 1000 + k, "bbox": box, "category_id": 3 if k % 2 else 7})
    assert findings(write_coco(folder, content)) == {}


def test_lvis_counts_objects_of_all_classes(toy):
    folder, content = toy
    extra = {"image_id": 14, "area": 9.0, "segmentation": [[1, 1, 2, 2, 3, 1]]}
    for k in range(300):
        box = [float(k % 40), float(k // 40), 3.0, 3.0]
        content["annotations"].append({**extra, "id": 1000 + k, "bbox": box, "category_id": (3, 7, 90)[k % 3]})
    assert "image with more than 300 objects" in findings(write_coco(folder, content).replace("coco:", "lvis:"))


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda x, y, w, h, W, H: [x, y, x + w, y + h], {"box that looks like x0 y0 x1 y1"}),
        (lambda x, y, w, h, W, H: [x / W, y / H, w / W, h / H], {"box that looks normalised to 0..1"}),
        (
            lambda x, y, w, h, W, H: [(x + w / 2) / W, (y + h / 2) / H, w / W, h / H],
            {"box that looks normalised to 0..1"},
        ),
        (lambda x, y, w, h, W, H: [x + w, y + h, -w, -h], {"box of negative width or height"}),
        (lambda x, y, w, h, W, H: [x, y + h, w, -h], {"box of negative width or height"}),
        (lambda x, y, w, h, W, H: [x, y, w, h], set()),
    ],
)
def test_boxes_in_another_convention_are_named(toy, change, kinds):
    folder, content = toy
    sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    for annotation in content["annotations"]:
        annotation["bbox"] = change(*annotation["bbox"], *sizes[annotation["image_id"]])
    assert set(findings(write_coco(folder, content))) - {"box that extends beyond its image"} == kinds


def test_classes_that_differ_in_case_or_spaces_are_found(toy):
    folder, content = toy
    content["categories"] = [{"id": 3, "name": "Dog"}, {"id": 7, "name": "dog "}, {"id": 90, "name": "kite"}]
    assert findings(write_coco(folder, content)) == {"class name in several spellings": (1, "Dog / dog ")}


def test_a_class_unknown_to_voc_is_found_as_it_changes_the_class_list(tmp_path):
    name = write_voc(
        tmp_path, {"a": [("dog", 0, [1, 1, 9, 9]), ("person", 0, [1, 1, 9, 9])], "b": [("Dog", 0, [1, 1, 9, 9])]}
    )
    assert get_dataset(name).class_names == ["Dog", "dog", "person"]
    assert findings(name) == {
        "class unknown to VOC": (1, "Dog"),
        "class name in several spellings": (1, "Dog / dog"),
    }
    own = write_voc(tmp_path / "own", {"a": [("ant", 0, [1, 1, 9, 9]), ("zebra", 0, [1, 1, 9, 9])]})
    assert findings(own) == {}


def test_voc_classes_without_an_object_are_counted_with_their_effect(tmp_path):
    objects = {"a": [(c, 0, [1, 1, 9, 9]) for c in VOC_CLASSES[:11]] + [("dog", 1, [11, 1, 19, 9])]}
    name = write_voc(tmp_path, objects)
    kind = "class without objects, of 20"
    assert findings(name) == {kind: (9, "dog, horse, motorbike, person, pottedplant and 4 more")}  # dog: difficult only
    assert "limits AP to 55" in message(name, kind)


def test_a_dead_parent_category_is_found(toy):
    folder, content = toy
    categories = [{**c, "supercategory": "things"} for c in content["categories"]]
    content["categories"] = [{"id": 0, "name": "things", "supercategory": "none"}, *categories]
    found = findings(write_coco(folder, content))
    assert found["class without objects, of 4"] == (1, "things")
    assert found["parent category without objects"] == (1, "things")


def test_categories_of_one_name_keep_their_numbers_apart(toy):
    folder, content = toy
    content["categories"] = [{"id": 3, "name": "dog"}, {"id": 7, "name": "dog"}, {"id": 90, "name": "kite"}]
    spec = get_dataset(write_coco(folder, content))
    assert spec.class_names == ["dog (id 3)", "dog (id 7)", "kite"]
    assert findings(spec.name)["name of several categories"] == (1, "dog")


def test_names_that_are_numbers_become_text(toy):
    folder, content = toy
    content["categories"] = [{"id": 3, "name": 3}, {"id": 7, "name": 7.5}, {"id": 90, "name": "kite"}]
    assert get_dataset(write_coco(folder, content)).class_names == ["3", "7.5", "kite"]


def test_whole_floats_among_ids_become_integers(toy):
    folder, content = toy
    expected = get_dataset(write_coco(folder, content)).records()
    floats = copy.deepcopy(content)
    for kind in ("images", "annotations", "categories"):
        for entry in floats[kind]:
            for field in ("id", "image_id", "category_id"):
                if field in entry:
                    entry[field] = float(entry[field])
    (folder / "floats.json").write_text(json.dumps(floats))
    spec = get_dataset(f"coco:{folder / 'floats.json'}:{folder / 'images'}")
    assert spec.records() == expected
    assert all(type(id_) is int for id_ in [*spec.summary.image_ids, *spec.category_ids])
    assert all(type(a["image_id"]) is int for a in spec.content()["annotations"])


def test_text_ids_are_read(toy):
    folder, content = toy
    for image in content["images"]:
        image["id"] = f"i{image['id']}"
    for annotation in content["annotations"]:
        annotation.update(id=f"a{annotation['id']}", image_id=f"i{annotation['image_id']}")
    assert get_dataset(write_coco(folder, content)).summary.image_ids == [f"i{k}" for k in range(11, 19)]


def test_an_annotation_with_id_0_is_found(toy):
    folder, content = toy
    for k, annotation in enumerate(content["annotations"]):
        annotation["id"] = k
    name = write_coco(folder, content)
    assert findings(name) == {"annotation with id 0": (1, "annotation 0")}


def test_areas_of_0_are_found(toy):
    folder, content = toy
    for annotation in content["annotations"]:
        annotation["area"] = 0
    (count, example) = findings(write_coco(folder, content))["annotation with an area of 0"]
    assert (count, example) == (len(content["annotations"]), "annotation 1, 2, 3 and 21 more")


def test_fields_that_an_lvis_file_lacks_are_found(toy):
    folder, content = toy
    for image in content["images"][:5]:
        image["neg_category_ids"] = []
    content["categories"] = [{**c, "synonyms": [c["name"]]} for c in content["categories"]]
    found = findings(write_coco(folder, content).replace("coco:", "lvis:"))
    assert found == {
        "images without neg_category_ids": (3, "image 16"),
        "images without not_exhaustive_category_ids": (8, "image 11"),
        "categories without frequency": (3, "category 7"),
    }


def test_a_test_image_that_is_trained_on_is_found(toy):
    folder, content = toy
    name = write_coco(folder, content)
    quarter, half = get_dataset(f"{name}@25%"), get_dataset(f"{name}@50%")
    (record,) = [r for r in finding_records([quarter], [half]) if r["kind"] == "test image that is also trained on"]
    assert (record["dataset"], record["count"]) == (half.name, 2)
    assert int(record["example"].split()[1]) in quarter.summary.image_ids
    assert named_findings([half], [half])[-1][1].count == 4
    rest = sorted(set(range(11, 19)) - set(half.summary.image_ids))
    content["images"] = [i for i in content["images"] if i["id"] in rest]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in rest]
    (folder / "rest.json").write_text(json.dumps(content))
    apart = get_dataset(f"coco:{folder / 'rest.json'}:{folder / 'images'}")
    assert not [f for _, f in named_findings([half], [apart]) if "trained on" in f.kind]


@pytest.mark.parametrize(
    ("written", "on_disk", "hint"),
    [
        ("sub\\img.png", "sub/img.png", "back-slashes"),
        ("my%20img.png", "my img.png", "written as addresses"),
        ("cafe\u0301.png", "caf\u00e9.png", "another Unicode form"),
        ("IMG.PNG", "img.png", "another case"),
        ("img.jpg", "img.png", "another suffix"),
        ("img.jpg", "img.txt", "restore them or remove them"),
    ],
)
def test_a_missing_image_comes_with_its_likely_cause(toy, written, on_disk, hint):
    folder, content = toy
    target = folder / "images" / on_disk
    target.parent.mkdir(exist_ok=True)
    (folder / "images" / "img0.png").rename(target)
    content["images"][0]["file_name"] = written
    with pytest.raises(UserError, match=f"1 of 8 images are missing: .*{hint}"):
        get_dataset(write_coco(folder, content)).records()


@pytest.mark.parametrize(
    ("written", "moved"),
    [("{}", "images/images"), ("{}", "elsewhere"), ("images/{}", "images")],
)
def test_images_in_a_folder_nearby_are_found(toy, written, moved):
    """Below, beside and above the folder that they are looked for in: exports with another image folder."""
    folder, content = toy
    (folder / moved).mkdir(exist_ok=True)
    for image in content["images"]:
        (folder / "images" / image["file_name"]).rename(folder / moved / image["file_name"])
        image["file_name"] = written.format(image["file_name"])
    place = re.escape(str(folder / moved))
    with pytest.raises(UserError, match=f"8 of 8 images are missing: .* is in {place}: name the image folder"):
        get_dataset(write_coco(folder, content)).records()


def test_a_cut_list_says_how_many_more(toy):
    folder, content = toy
    for image in content["images"]:
        image["file_name"] = f"gone{image['id']}.png"
    with pytest.raises(UserError, match=r"gone13\.png and 5 more; restore"):
        get_dataset(write_coco(folder, content)).records()


def test_files_that_begin_with_a_byte_order_mark_are_read(toy, tmp_path):
    folder, content = toy
    spec = get_dataset(write_coco(folder, content))
    spec.annotations.write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    assert len(spec.records()) == 8
    voc = get_dataset(write_voc(tmp_path / "voc", {"a": [("dog", 0, [1, 1, 9, 9])], "b": []}))
    listing = voc.annotations / "ImageSets" / "Main" / "test.txt"
    listing.write_text("\ufeff" + listing.read_text(), encoding="utf-8")
    xml = voc.annotations / "Annotations" / "a.xml"
    xml.write_text("\ufeff" + xml.read_text(), encoding="utf-8")
    assert [r["image_id"] for r in voc.records()] == ["a", "b"]
    assert len(voc.sha256()) == 64


def test_files_beside_a_voc_image_are_not_taken_for_it(tmp_path):
    spec = get_dataset(write_voc(tmp_path, {"a": [("dog", 0, [1, 1, 9, 9])]}))
    for suffix in ("txt", "xml", "json", "csv"):
        (spec.images / f"a.{suffix}").write_text("x")
    assert spec.records()[0]["file_name"].endswith("a.jpg")
    (spec.images / "a.jpg").rename(spec.images / "a.png")
    assert get_dataset(f"voc:{tmp_path}/.:2007:test").records()[0]["file_name"].endswith("a.png")


def test_the_flags_of_a_class_list_are_understood(tmp_path):
    objects = {"a": [("dog", 0, [1, 1, 9, 9])], "b": [], "c": [("dog", 1, [1, 1, 9, 9])]}
    write_voc(tmp_path, objects)
    (tmp_path / "VOC2007/ImageSets/Main/dog_test.txt").write_text("a  1\nb -1\n\nc  0\n")
    spec = get_dataset(f"voc:{tmp_path}:2007:dog_test")
    assert [r["image_id"] for r in spec.records()] == ["a", "c"]
    assert findings(spec.name)["listed image with flag -1, left out"] == (1, "b")
    assert len(spec.sha256()) == 64


def test_ids_that_look_like_flags_stay_ids(tmp_path):
    write_voc(tmp_path, {"1": [("dog", 0, [1, 1, 9, 9])], "0": [], "7": []})
    assert [r["image_id"] for r in get_dataset(f"voc:{tmp_path}:2007:test").records()] == ["1", "0", "7"]


@pytest.mark.parametrize(
    ("text", "flag"), [("0", 0), ("1", 1), ("false", 0), ("True", 1), ("Unspecified", 0), ("", 0), (" 1 ", 1)]
)
def test_difficult_is_understood_as_exporters_write_it(tmp_path, text, flag):
    assert (
        get_dataset(write_voc(tmp_path, {"a": [("dog", text, [1, 1, 9, 9])]})).records()[0]["annotations"][0][
            "difficult"
        ]
        == flag
    )


@pytest.mark.parametrize(
    ("change", "tag"),
    [
        (("<difficult>0", "<difficult>maybe"), "<difficult> 'maybe'; 0 or 1 is expected"),
        (("<xmax>9", "<xmax>nine"), "<bndbox/xmax> 'nine'; a number is expected"),
        (("<width>100", "<width>wide"), "<size/width> 'wide'; a number is expected"),
        (("<width>100", "<width>0"), "<size> 0 x 80"),
        (("<name>dog", "<name>"), "no <name>"),
    ],
)
def test_a_malformed_tag_of_a_voc_file_is_named(tmp_path, change, tag):
    spec = get_dataset(write_voc(tmp_path, {"a": [("dog", 0, [1, 1, 9, 9])]}))
    path = spec.annotations / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(UserError) as caught:
        spec.records()
    assert f"a.xml: not a VOC annotation ({tag}" in str(caught.value)
