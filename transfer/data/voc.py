"""Reader of the Pascal VOC layout: VOC<year>/{Annotations,ImageSets/Main,JPEGImages}."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from transfer.data.box_modes import XYXY
from transfer.data.labels import Labels, Record, box_findings, check_images_exist, examples, read_text

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


def read_voc(folder: Path, split: str, class_names: list[str] | None = None, *, name: str = "") -> Labels:
    """Read ``folder`` (a VOC<year> folder). Boxes become 0-based x0 y0 x1 y1; difficult objects are kept and marked.

    ``class_names`` None: the 20 VOC classes if the folder has no others, else the names in the folder, sorted.
    Raises UserError for a missing or broken XML file, an unknown class, and missing images.
    """
    name = name or str(folder)
    ids = read_text(folder / "ImageSets" / "Main" / f"{split}.txt", "the image list").split()
    if not ids:
        raise UserError(f"data set {name}: the image list of split {split} is empty")
    if len(set(ids)) != len(ids):
        repeated = sorted({i for i in ids if ids.count(i) > 1}) if len(ids) < 20000 else ["(many)"]
        raise UserError(f"data set {name}: duplicate image ids in split {split}: {examples(repeated)}")
    missing = [i for i in ids if not (folder / "Annotations" / f"{i}.xml").is_file()]
    if missing:
        raise UserError(
            f"data set {name}: {len(missing)} of {len(ids)} annotation files are missing in {folder / 'Annotations'}: "
            f"{examples(f'{i}.xml' for i in missing)}"
        )
    objects = {i: _read_xml(folder / "Annotations" / f"{i}.xml") for i in ids}
    names = class_names or _class_names(folder)
    index = {label: i for i, label in enumerate(names)}
    files = _image_files(folder / "JPEGImages")
    records = []
    for image_id in ids:
        height, width, listed = objects[image_id]
        file = folder / "JPEGImages" / files.get(image_id, f"{image_id}.jpg")
        head: Record = {"file_name": str(file), "image_id": image_id, "height": height, "width": width}
        records.append({**head, "annotations": _annotations(listed, index, f"{folder}/Annotations/{image_id}.xml")})
    check_images_exist(records, name)
    return Labels(records, list(names), list(range(1, len(names) + 1)), box_findings(records))


def _read_xml(path: Path) -> tuple[int, int, list[dict[str, Any]]]:
    """(height, width, objects) of one annotation file."""
    try:
        tree = ElementTree.parse(path)
        objects = [_object(node) for node in tree.findall("object")]
        return int(_text(tree, "size/height")), int(_text(tree, "size/width")), objects
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise UserError(f"{path}: not a VOC annotation ({error})") from error


def _object(node: ElementTree.Element) -> dict[str, Any]:
    corners = [float(_text(node, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax")]
    if not all(map(math.isfinite, corners)):
        raise ValueError(f"bndbox {corners}")
    difficult = node.find("difficult")
    return {
        "name": _text(node, "name"),
        # 1-based indices of the first and last pixel -> continuous coordinates from 0
        "bbox": [corners[0] - 1.0, corners[1] - 1.0, corners[2], corners[3]],
        "difficult": int(difficult.text or 0) if difficult is not None else 0,
    }


def _text(node: Any, path: str) -> str:
    child = node.find(path)
    if child is None or not child.text:
        raise ValueError(f"no <{path}>")
    return child.text.strip()


def _class_names(folder: Path) -> list[str]:
    names: set[str] = set()
    for path in (folder / "Annotations").glob("*.xml"):
        names |= {o["name"] for o in _read_xml(path)[2]}
    return VOC_CLASSES if names <= set(VOC_CLASSES) else sorted(names)


def _image_files(folder: Path) -> dict[str, str]:
    """Image id -> file name. VOC has .jpg, custom data may have .png; .jpg is preferred."""
    names = sorted(os.listdir(folder), key=lambda n: n.lower().endswith(".jpg")) if folder.is_dir() else []
    return {os.path.splitext(name)[0]: name for name in names}


def _annotations(objects: list[dict[str, Any]], index: dict[str, int], source: str) -> list[dict[str, Any]]:
    unknown = sorted({o["name"] for o in objects} - set(index))
    if unknown:
        raise UserError(f"{source}: unknown class {unknown[0]}; known: {', '.join(index)}")
    return [
        {"bbox": o["bbox"], "bbox_mode": XYXY, "category_id": index[o["name"]], "difficult": o["difficult"]}
        for o in objects
    ]
