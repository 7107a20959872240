"""The result of a reader, and the checks that every reader shares."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import ExifTags

from runtime.errors import UserError
from runtime.findings import Finding
from runtime.image_formats import UNREADABLE, open_image, sample_bits
from runtime.listing import listed

Record = dict[str, Any]  # one image in Detectron2's data set form
UNUSABLE_MASK = "unusable_mask"  # marks an annotation with a segmentation of which nothing can be drawn
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
EXAMPLES = 3  # names in an error message, before "and N more"
SAMPLED_IMAGES = 500  # whose size is compared with the annotations before a run; takes a fraction of a second
WATCHED_IMAGES = 10_000  # of a set, whose files a run looks at again at its end; takes a second on a local disk
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass
class Labels:
    """The images and annotations of one data set.

    ``records``: dicts with file_name, height, width, image_id, annotations (each with bbox of 4 floats, bbox_mode,
    category_id 0-based contiguous, iscrowd, segmentation). ``class_names`` in that order, ``category_ids`` the ids of
    the file in that order. ``findings``: what its numbers must not be read without. ``keypoint_names``: those that the
    categories name, [] without keypoints. ``parents``: names that categories give as their supercategory.
    """

    records: list[Record]
    class_names: list[str]
    category_ids: list[int]
    findings: list[Finding] = field(default_factory=list)
    keypoint_names: list[str] = field(default_factory=list)
    parents: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Summary:
    """What is kept of a data set for the life of the process; fields as in ``Labels``.

    ``image_ids`` are those of the records, in their order; ``paths``: hashes of their files' absolute paths, int64, to
    be compared within this process; ``annotations``: their number; ``without_mask``: of those with an unusable mask.
    ``maskless``: a sentence on annotations without a segmentation, "" where all have one; ``run_lengths``: one on
    masks that are not polygons (crowds, which no training uses, left out). ``watched``: the files of all images, or of
    ``WATCHED_IMAGES`` spread evenly over a larger set, which are asked for changes after a run.
    """

    class_names: list[str]
    category_ids: list[int]
    findings: list[Finding]
    keypoint_names: list[str]
    image_ids: list[Any]
    paths: np.ndarray
    annotations: int
    without_mask: int
    maskless: str
    run_lengths: str
    watched: list[str]

    @classmethod
    def of(cls, labels: Labels) -> Summary:
        """The summary of what a reader returned."""
        ids = [record["image_id"] for record in labels.records]
        bare, packed = [], []
        annotations = unusable = 0
        for record in labels.records:
            annotations += len(record["annotations"])
            for annotation in record["annotations"]:
                if UNUSABLE_MASK in annotation:
                    unusable += 1
                elif "segmentation" not in annotation:
                    bare.append(record["image_id"])
                elif isinstance(annotation["segmentation"], dict) and not annotation["iscrowd"]:
                    packed.append(record["image_id"])
        head = (labels.class_names, labels.category_ids, labels.findings, labels.keypoint_names)
        counts = (annotations, unusable)
        paths = np.array([hash(key) for key in file_keys(labels.records)], dtype=np.int64)
        maskless, run_lengths = _counted(bare, "have no segmentation"), _counted(packed, "have a run-length mask")
        return cls(*head, ids, paths, *counts, maskless, run_lengths, watched_files(labels.records))

    def annotated(self, masks: bool) -> bool:
        """Whether any annotation is left; with ``masks``, those with an unusable mask are dropped."""
        return self.annotations > (self.without_mask if masks else 0)


def _counted(images: list[Any], what: str) -> str:
    return f"{len(images)} annotations {what} (images {listed(images, EXAMPLES)})" if images else ""


def watched_files(records: list[Record]) -> list[str]:
    """The files of all images, or of ``WATCHED_IMAGES`` spread evenly over more, where any replaced part has some."""
    count, most = len(records), WATCHED_IMAGES
    chosen = records if count <= most else [records[k * count // most] for k in range(most)]
    return [record["file_name"] for record in chosen]


def file_keys(records: list[Record]) -> list[tuple[str, str]]:
    """(real folder, file name) of each image: equal for one file, whatever links and ``./`` its folder is named by."""
    folders: dict[str, str] = {}
    keys = []
    for record in records:
        folder, _, file = record["file_name"].rpartition("/")
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        keys.append((folders[folder], file))
    return keys


def check_images_exist(records: list[Record], name: str) -> None:
    """Raise UserError naming the first missing images and their number. Lists each folder once, opens nothing."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for record in records:
        folder, file = os.path.split(record["file_name"])
        by_folder[folder].append(file)
    missing = []
    for folder, files in by_folder.items():
        try:
            present = set(os.listdir(folder or "."))
        except OSError:
            present = set()
        missing += [os.path.join(folder, f) for f in files if f not in present]
    if missing:
        raise UserError(
            f"data set {name}: {len(missing)} of {len(records)} images are missing: {listed(missing, EXAMPLES)}; "
            f"{_missing_hint(missing[0])}"
        )


def _missing_hint(path: str) -> str:
    """What to do about a missing file: how its name is probably written wrong, where a file of nearly that name exists.

    The usual causes are back-slashes of Windows, addresses (%20), another Unicode form (macOS), and other case.
    """
    folder, file = os.path.split(path)
    if "\\" in path:
        return "file names contain back-slashes; write them with forward slashes"
    if unquote(path) != path and os.path.exists(unquote(path)):
        return "file names are written as addresses (%20 for a space); write them as they are on disk"
    try:
        present = [name for name in os.listdir(folder or ".") if name.lower().endswith(IMAGE_SUFFIXES)]
    except OSError:
        return (
            _found_elsewhere(path) or f"the folder {folder} cannot be read; correct the file names or the image folder"
        )
    for form, what in (
        (lambda text: unicodedata.normalize("NFC", text), "in another Unicode form (NFC, NFD) than on disk"),
        (str.casefold, "in another case than on disk"),
        (lambda text: os.path.splitext(text)[0], "with another suffix than on disk"),
    ):
        if near := next((name for name in present if form(name) == form(file)), None):
            return f"file names are written {what} ({near!r}); correct them in the annotations"
    return _found_elsewhere(path) or "restore them or remove them from the annotations"


def _found_elsewhere(path: str) -> str:
    """A hint where a missing file is in a folder below, above or beside the one that it was looked for in; else "".

    Exports often have the json file in train/ and the images in train/images/, or file names that begin with train/
    beside an image folder that ends in it.
    """
    folder, file = os.path.split(path)
    above = os.path.dirname(folder)
    places = [above]
    for parent in (folder, above):
        with contextlib.suppress(OSError):
            places += sorted(entry.path for entry in os.scandir(parent or ".") if entry.is_dir())
    found = next((place for place in places if os.path.isfile(os.path.join(place, file))), None)
    if found is None:
        return ""
    return (
        f"an image of that name is in {found or '.'}: name the image folder that the file names of the annotations "
        "start from, or correct the file names"
    )


def check_image_sizes(records: list[Record], name: str) -> None:
    """Raise UserError when images differ in size from their records; opens ``SAMPLED_IMAGES``, evenly spread.

    Otherwise a wrong size in a test set would be found only after training.
    """
    chosen = records[:: max(1, -(-len(records) // SAMPLED_IMAGES))]
    wrong = []
    for record in chosen:
        expected = (record["width"], record["height"])
        try:
            with open_image(record["file_name"]) as file:  # reads the header only
                sample_bits(file)
                width, height = file.size
                # Pillow decodes a whole PNG to find an orientation, which hardly any PNG has
                oriented = file.format != "PNG" or file.size != expected
                if oriented and file.getexif().get(ExifTags.Base.Orientation, 1) in TRANSPOSED:
                    width, height = height, width
        except UNREADABLE as error:
            raise UserError(
                f"data set {name}: image {record['file_name']} cannot be read ({error}); replace it or remove it"
            ) from error
        if (width, height) != expected:
            wrong.append(f"{record['file_name']} is {width} x {height}, not {expected[0]} x {expected[1]}")
    if wrong:
        raise UserError(
            f"data set {name}: {len(wrong)} of {len(chosen)} checked images differ in width x height from their "
            f"annotations: {listed(wrong, EXAMPLES)}; correct the annotations"
        )


def read_text(path: Path, what: str) -> str:
    """The text of a file of a data set; raises UserError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read {what} ({error})") from error
