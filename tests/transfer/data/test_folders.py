"""Folders as labelling tools export them: found, read like VOC and COCO sets, or refused with what to do."""

import json
import shutil

import pytest

from runtime.errors import UserError
from tests.transfer.toy_data import coco_content, write_coco, write_voc
from transfer.data.catalog import get_dataset
from transfer.data.folders import voc_folders
from transfer.evaluate import evaluator_id

OBJECTS = {"a": [("ant", 0, [11, 12, 20, 30])], "b": [("zebra", 1, [1, 1, 100, 80]), ("ant", 0, [5, 5, 9, 9])]}


@pytest.fixture
def voc(tmp_path):
    """VOC2007 of two images, and its name."""
    return tmp_path / "VOC2007", write_voc(tmp_path, OBJECTS)


def without_paths(spec):
    return [{k: v for k, v in record.items() if k != "file_name"} for record in spec.records()]


LAYOUTS = {
    "VOC's names": ("Annotations", "JPEGImages"),
    "lower case": ("annotations", "images"),
    "images beside": ("Annotations", "images"),
    "one folder": ("", ""),
    "other names": ("annots", "pictures"),
    "one other name": ("xml", "images"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plain_folder_reads_as_the_voc_layout_does(voc, tmp_path, layout):
    year, name = voc
    target = tmp_path / "plain"
    for source, part in zip(("Annotations", "JPEGImages"), LAYOUTS[layout]):
        shutil.copytree(year / source, target / part, dirs_exist_ok=True)
    plain = get_dataset(f"voc:{target}")
    assert without_paths(plain) == without_paths(get_dataset(name))
    assert plain.class_names == ["ant", "zebra"]
    assert all((target / part).is_dir() for part in LAYOUTS[layout])
    assert evaluator_id(plain, "auto") == "voc/area"
    assert len(plain.sha256()) == 64


def test_two_folders_of_xml_files_are_not_guessed_between(voc, tmp_path):
    year, _ = voc
    (tmp_path / "plain").mkdir()
    for part in ("annots", "annots_old"):
        shutil.copytree(year / "Annotations", tmp_path / "plain" / part)
    shutil.copytree(year / "JPEGImages", tmp_path / "plain" / "images")
    with pytest.raises(UserError, match=r"plain/Annotations not found"):
        get_dataset(f"voc:{tmp_path / 'plain'}").records()


def test_a_split_of_a_plain_folder_is_its_image_list(voc):
    year, _ = voc
    (year / "ImageSets" / "Main" / "small.txt").write_text("b\n")
    assert [r["image_id"] for r in get_dataset(f"voc:{year}:small").records()] == ["b"]
    shutil.move(year / "ImageSets" / "Main" / "small.txt", year / "ImageSets" / "flat.txt")
    shutil.rmtree(year / "ImageSets" / "Main")
    assert voc_folders(year).lists == year / "ImageSets"
    assert [r["image_id"] for r in get_dataset(f"voc:{year}:flat").records()] == ["b"]
    with pytest.raises(UserError, match=r"none\.txt not found"):
        get_dataset(f"voc:{year}:none").records()


def test_digests_of_plain_folders_follow_annotations_and_split(voc):
    year, _ = voc
    whole, split = get_dataset(f"voc:{year}").sha256(), get_dataset(f"voc:{year}:test").sha256()
    assert whole != split
    path = year / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<xmax>20<", "<xmax>21<"))
    get_dataset.cache_clear()
    from transfer.data.catalog import _sha256_of_voc

    _sha256_of_voc.cache_clear()
    assert get_dataset(f"voc:{year}").sha256() != whole


def test_an_image_without_xml_is_counted(voc):
    year, _ = voc
    (year / "Annotations" / "b.xml").unlink()
    findings = get_dataset(f"voc:{year}").summary.findings
    assert [(f.count, f.example) for f in findings if f.kind == "image without an annotation file, left out"] == [
        (1, "b")
    ]


def test_an_empty_voc_folder_is_refused(tmp_path):
    for part in ("Annotations", "JPEGImages"):
        (tmp_path / part).mkdir()
    with pytest.raises(UserError, match="has no XML file"):
        get_dataset(f"voc:{tmp_path}").records()
    with pytest.raises(UserError, match=r"nowhere/Annotations and .*nowhere/JPEGImages not found"):
        get_dataset(f"voc:{tmp_path / 'nowhere'}").records()


def test_a_folder_with_its_coco_file_reads_as_the_pair_does(tmp_path):
    content = coco_content(tmp_path / "train")
    for file in ("_annotations.coco.json", "other.json"):
        (tmp_path / "train" / file).write_text(json.dumps(content))
    pair = write_coco(tmp_path, content).replace(f"{tmp_path}/images", f"{tmp_path}/train")
    roboflow = get_dataset(f"coco:{tmp_path / 'train'}")
    assert roboflow.records() == get_dataset(pair).records()
    (tmp_path / "train" / "_annotations.coco.json").unlink()
    only = get_dataset(f"coco:{tmp_path}/./train")  # another name: a name is looked up once
    assert only.records()[0]["image_id"] == 11


def test_a_folder_with_no_or_several_json_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="it has no json file"):
        get_dataset(f"coco:{tmp_path}")
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(UserError, match=r"it has a\.json, b\.json: write coco:ANNOTATIONS"):
        get_dataset(f"coco:{tmp_path}/.")
    with pytest.raises(UserError, match="no folder"):
        get_dataset(f"coco:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("name", ["yolo:{}", "voc:{}", "coco:{}"])
def test_yolo_labels_are_refused_with_what_to_do(tmp_path, name):
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text("nc: 1\n")
    with pytest.raises(UserError, match="YOLO labels are not read; export the set as COCO json or Pascal VOC"):
        get_dataset(name.format(tmp_path))
