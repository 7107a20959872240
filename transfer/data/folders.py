"""Where labelling tools put annotations and images: VOC's folders without VOC<year>, or one folder for both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError
from runtime.listing import listed
from transfer.data.labels import IMAGE_SUFFIXES

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

    Of other names is read what can only be meant: the one folder in it that has XML files, and the one that has images.
    What is nowhere, or in several places, gets VOC's name, for the error message of the caller.
    """
    annotations = _known(folder, ANNOTATION_FOLDERS)
    if annotations is None:
        annotations = folder if any(folder.glob("*.xml")) else _only_folder(folder, (".xml",))
    images = _known(folder, IMAGE_FOLDERS)
    if images is None:
        images = folder if annotations == folder else _only_folder(folder, IMAGE_SUFFIXES)
    main = folder / "ImageSets" / "Main"
    return VocFolders(
        annotations or folder / ANNOTATION_FOLDERS[0],
        images or folder / IMAGE_FOLDERS[0],
        main if main.is_dir() or not main.parent.is_dir() else main.parent,
    )


def _known(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _only_folder(folder: Path, suffixes: Sequence[str]) -> Path | None:
    """The one folder in ``folder`` with files of these names, or None where there are more or none."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = [path for path in inside if any(name.lower().endswith(tuple(suffixes)) for name in os.listdir(path))]
    return found[0] if len(found) == 1 else None


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
