"""Reader of Pascal VOC's files: VOC<year>/{Annotations,ImageSets/Main,JPEGImages}, and folders as tools export them."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.findings import Finding
from runtime.listing import listed
from transfer.data.box_modes import XYXY
from transfer.data.findings import record_findings
from transfer.data.folders import VocFolders, voc_folders
from transfer.data.labels import EXAMPLES, IMAGE_SUFFIXES, Labels, Record, check_images_exist, read_text

# The order fixes the class indices of every published VOC model.
VOC_CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
FLAGS = ("-1", "0", "1")  # of an image in the list of one class
# what exporters write into <difficult>; VOC itself has 0 and 1
DIFFICULT = {"": 0, "0": 0, "false": 0, "no": 0, "unspecified": 0, "1": 1, "true": 1, "yes": 1}


def read_voc(folder: Path, split: str, class_names: list[str] | None = None, *, name: str = "") -> Labels:
    """Read ``folder`` (VOC<year>, or one of ``voc_folders``). Boxes become 0-based x0 y0 x1 y1; difficult objects are
    kept and marked.

    ``split`` "": every image that has an annotation file. ``class_names`` None: the 20 VOC classes if the folder has no
    others, else the names in the folder, sorted.
    Raises UserError for a missing or broken XML file, an unknown class, and missing images.
    """
    name = name or str(folder)
    places = voc_folders(folder)
    ids, absent = listed_images(folder, split)
    if not ids:
        what = f"the image list of split {split} is empty" if split else f"{places.annotations} has no XML file"
        raise UserError(f"data set {name}: {what}")
    if len(set(ids)) != len(ids):
        repeated = sorted(image_id for image_id, count in Counter(ids).items() if count > 1)
        raise UserError(f"data set {name}: duplicate image ids in split {split}: {listed(repeated, EXAMPLES)}")
    # os.path: a damaged list may hold names that no system can look up, which pathlib answers with an OSError
    missing = [i for i in ids if not os.path.isfile(places.annotations / f"{i}.xml")]
    if missing:
        raise UserError(
            f"data set {name}: {len(missing)} of {len(ids)} annotation files are missing in {places.annotations}: "
            f"{listed([f'{i}.xml' for i in missing], EXAMPLES)}"
        )
    objects = {i: _read_xml(places.annotations / f"{i}.xml") for i in ids}
    names = class_names or _class_names(places.annotations)
    index = {label: i for i, label in enumerate(names)}
    files = _image_files(places.images)
    records = []
    for image_id in ids:
        height, width, contained = objects[image_id]
        file = places.images / files.get(image_id, f"{image_id}.jpg")
        head: Record = {"file_name": str(file), "image_id": image_id, "height": height, "width": width}
        source = f"{places.annotations}/{image_id}.xml"
        records.append({**head, "annotations": _annotations(contained, index, source)})
    check_images_exist(records, name)
    labels = Labels(records, list(names), list(range(1, len(names) + 1)))
    lists = _list_findings(absent, split) if split else _unlisted_findings(sorted(set(files) - set(ids)), places)
    labels.findings += [*lists, *_class_findings(names), *record_findings(labels, "voc")]
    return labels


def listed_images(folder: Path, split: str) -> tuple[list[str], list[str]]:
    """Ids of the images of ``split`` ("": all annotated ones, sorted), and those that are left out.

    The list of a class (``aeroplane_train.txt``) has a flag after each id: 1 the class is there, 0 it is there and
    difficult, -1 it is not. Images with -1 are left out.
    """
    places = voc_folders(folder)
    if not split:
        return sorted(path.stem for path in places.annotations.glob("*.xml")), []
    text = read_text(places.lists / f"{split}.txt", "the image list")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not all(len(row) == 2 and row[1] in FLAGS for row in rows):
        return [image_id for row in rows for image_id in row], []
    present = [image_id for image_id, flag in rows if flag != "-1"]
    return present, [image_id for image_id, flag in rows if flag == "-1"]


def _list_findings(absent: list[str], split: str) -> list[Finding]:
    message = f"{split}.txt is the list of one class: only images that have it are read"
    return [Finding("listed image with flag -1, left out", len(absent), absent[0], message)] if absent else []


def _unlisted_findings(images: list[str], places: VocFolders) -> list[Finding]:
    message = f"images of {places.images} without an XML file are not read; an image without objects needs one too"
    return [Finding("image without an annotation file, left out", len(images), images[0], message)] if images else []


def _class_findings(names: list[str]) -> list[Finding]:
    """Classes that VOC does not have, in a folder that otherwise has VOC's."""
    strangers = [name for name in names if name not in VOC_CLASSES]
    if not strangers or len(strangers) == len(names):
        return []
    message = (
        f"the {len(names)} names in the folder, sorted, replace VOC's 20 classes, so that class numbers and the mean "
        "over classes differ from VOC's; correct the names if they are mistakes"
    )
    return [Finding("class unknown to VOC", len(strangers), listed(strangers, EXAMPLES), message)]


def _read_xml(path: Path) -> tuple[int, int, list[dict[str, Any]]]:
    """(height, width, objects) of one annotation file."""
    try:
        tree = ElementTree.parse(path)
        objects = [_object(node) for node in tree.findall("object")]
        height, width = (_number(tree, f"size/{side}") for side in ("height", "width"))
        if not (height >= 1 and width >= 1 and height.is_integer() and width.is_integer()):
            raise ValueError(f"<size> {width:g} x {height:g}")
        return int(height), int(width), objects
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise UserError(f"{path}: not a VOC annotation ({error})") from error


def _object(node: ElementTree.Element) -> dict[str, Any]:
    corners = [_number(node, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
    if not all(map(math.isfinite, corners)):
        raise ValueError(f"bndbox {corners}")
    difficult = (node.findtext("difficult") or "").strip().lower()
    if difficult not in DIFFICULT:
        raise ValueError(f"<difficult> {difficult!r}; 0 or 1 is expected")
    return {
        "name": _text(node, "name"),
        # 1-based indices of the first and last pixel -> continuous coordinates from 0
        "bbox": [corners[0] - 1.0, corners[1] - 1.0, corners[2], corners[3]],
        "difficult": DIFFICULT[difficult],
    }


def _number(node: Any, path: str) -> float:
    text = _text(node, path)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{path}> {text!r}; a number is expected") from None


def _text(node: Any, path: str) -> str:
    child = node.find(path)
    if child is None or not child.text:
        raise ValueError(f"no <{path}>")
    return child.text.strip()


def _class_names(annotations: Path) -> list[str]:
    names: set[str] = set()
    for path in annotations.glob("*.xml"):
        names |= {o["name"] for o in _read_xml(path)[2]}
    return VOC_CLASSES if names <= set(VOC_CLASSES) else sorted(names)


def _image_files(folder: Path) -> dict[str, str]:
    """Image id -> file name. VOC has .jpg, custom data may have .png; .jpg is preferred."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)] if folder.is_dir() else []
    names.sort(key=lambda name: name.lower().endswith(".jpg"))
    return {os.path.splitext(name)[0]: name for name in names}


def _annotations(objects: list[dict[str, Any]], index: dict[str, int], source: str) -> list[dict[str, Any]]:
    unknown = sorted({o["name"] for o in objects} - set(index))
    if unknown:
        raise UserError(f"{source}: unknown class {unknown[0]}; available: {', '.join(index)}")
    return [
        {"bbox": o["bbox"], "bbox_mode": XYXY, "category_id": index[o["name"]], "difficult": o["difficult"]}
        for o in objects
    ]
