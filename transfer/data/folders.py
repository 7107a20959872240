"""Where labelling tools put annotations and images: VOC's folders without VOC<year>, or one folder for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError
from runtime.listing import listed

COCO_EXPORT = "_annotations.coco.json"  # Roboflow's name, in the folder of the images
ANNOTATION_FOLDERS = ("Annotations", "annotations")
IMAGE_FOLDERS = ("JPEGImages", "images")
YOLO_SIGNS = ("data.yaml", "data.yml", "labels", "darknet.labels", "_darknet.labels")
NO_YOLO = (
    "YOLO labels are not read; export the set as COCO json or Pascal VOC from the tool that it was labelled with, and "
    "name it coco:ANNOTATIONS.json:IMAGE_DIR or voc:DIR"
)


@dataclass(frozen=True)
class VocFolders:
    """The folders of the XML files and of the images. ``lists``: that of the image lists of splits, SPLIT.txt."""

    annotations: Path
    images: Path
    lists: Path


def voc_folders(folder: Path) -> VocFolders:
    """VOC's folders below ``folder``, else annotations/ and images/, else ``folder`` itself, which holds both.

    What is nowhere gets VOC's name, for the error message of the caller.
    """
    flat = folder if any(folder.glob("*.xml")) else folder / ANNOTATION_FOLDERS[0]
    annotations = next((folder / name for name in ANNOTATION_FOLDERS if (folder / name).is_dir()), flat)
    beside = annotations if annotations == folder else folder / IMAGE_FOLDERS[0]
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), beside)
    main = folder / "ImageSets" / "Main"
    return VocFolders(annotations, images, main if main.is_dir() or not main.parent.is_dir() else main.parent)


def coco_export(folder: Path, name: str) -> Path:
    """The annotation file in the folder of its images: Roboflow's, or the only json file. Raises UserError."""
    refuse_yolo(folder, name)
    if not folder.is_dir():
        raise UserError(f"data set {name}: no folder {folder}; write coco:ANNOTATIONS.json:IMAGE_DIR, or coco:DIR")
    files = sorted(folder.glob("*.json"))
    named = [file for file in files if file.name == COCO_EXPORT] or files
    if len(named) != 1:
        found = f"it has {listed([file.name for file in files], 3)}" if files else "it has no json file"
        raise UserError(
            f"data set {name}: coco:DIR needs {COCO_EXPORT}, or one json file, in the folder of the images; {found}: "
            "write coco:ANNOTATIONS.json:IMAGE_DIR"
        )
    return named[0]


def refuse_yolo(folder: Path, name: str) -> None:
    """Raise UserError for a folder of YOLO labels, which says what to do instead."""
    annotated = any(folder.glob("*.xml")) or any(folder.glob("*.json"))
    known = (*ANNOTATION_FOLDERS, "ImageSets")
    if annotated or any((folder / part).is_dir() for part in known):
        return
    if signs := [sign for sign in YOLO_SIGNS if (folder / sign).exists()]:
        raise UserError(f"data set {name}: {folder} has {signs[0]}: {NO_YOLO}")
