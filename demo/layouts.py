"""Writes drawn images in the layouts of real data sets: ImageFolder, flat folder, VOC devkit, COCO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from demo.scenes import CLASS_NAMES, Scene, box_xyxy, polygons
from runtime.atomic import write_json, write_text

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an H x W x 3 RGB uint8 image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1], JPEG):
        raise OSError(28, "No space left on device", str(path))  # cv2 gives no reason; a full disk is the usual one


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same content: a hard link where the file system allows it, otherwise a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def coco_document(scenes: list[Scene], names: list[str]) -> dict[str, Any]:
    """An instances_*.json document: polygons and boxes of the visible parts, category ids from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (scene, name) in enumerate(zip(scenes, names), 1):
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for drawn in scene.objects:
            parts = polygons(drawn.mask)
            if not parts:
                continue
            x0, y0, x1, y1 = box_xyxy(drawn.mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": drawn.category + 1,
                    "segmentation": parts,
                    "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                    "area": float(drawn.mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": n, "supercategory": n.split("_")[1]} for i, n in enumerate(CLASS_NAMES, 1)]
    return {"info": {"description": "demo"}, "images": images, "annotations": annotations, "categories": categories}


def voc_annotation(scene: Scene, name: str) -> str:
    """A VOC XML annotation: 1-based inclusive pixels; mostly hidden objects are marked truncated and difficult."""
    height, width = scene.image.shape[:2]
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for drawn in scene.objects:
        x0, y0, x1, y1 = box_xyxy(drawn.mask)
        node = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(node, "name").text = CLASS_NAMES[drawn.category]
        ElementTree.SubElement(node, "pose").text = "Unspecified"
        ElementTree.SubElement(node, "truncated").text = str(int(drawn.visible < 0.9))
        ElementTree.SubElement(node, "difficult").text = str(int(drawn.visible < 0.6))
        box = ElementTree.SubElement(node, "bndbox")
        for key, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            ElementTree.SubElement(box, key).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def write_detection(folder: Path, splits: dict[str, list[Scene]]) -> None:
    """Write scenes as coco/{train,val} with annotations and as VOCdevkit/VOC2007 (splits trainval and test)."""
    voc = folder / "VOCdevkit" / "VOC2007"
    first = 0
    for split, scenes in splits.items():
        ids = [f"{first + i:06d}" for i in range(len(scenes))]
        first += len(scenes)
        for scene, image_id in zip(scenes, ids):
            write_jpeg(folder / "coco" / split / f"{image_id}.jpg", scene.image)
            link_or_copy(folder / "coco" / split / f"{image_id}.jpg", voc / "JPEGImages" / f"{image_id}.jpg")
            write_text(voc / "Annotations" / f"{image_id}.xml", voc_annotation(scene, f"{image_id}.jpg"))
        document = coco_document(scenes, [f"{i}.jpg" for i in ids])
        write_json(folder / "coco" / "annotations" / f"instances_{split}.json", document)
        voc_split = {"train": "trainval", "val": "test"}[split]
        write_text(voc / "ImageSets" / "Main" / f"{voc_split}.txt", "\n".join(ids) + "\n")
    write_text(voc / "labels.txt", "\n".join(CLASS_NAMES) + "\n")
