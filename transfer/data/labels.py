"""The result of a reader, and the checks that every reader shares."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ExifTags

from runtime.errors import UserError
from runtime.image_formats import UNREADABLE, open_image, sample_bits
from transfer.data.box_modes import box_corners

Record = dict[str, Any]  # one image in Detectron2's data set form
OUTSIDE_TOLERANCE = 1.0  # pixels; a box that exceeds its image by more is counted
SAMPLED_IMAGES = 500  # whose size is compared with the annotations before a run; takes a fraction of a second
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass
class Labels:
    """The images and annotations of one data set.

    ``records``: dicts with file_name, height, width, image_id, annotations (each with bbox of 4 floats, bbox_mode,
    category_id 0-based contiguous, iscrowd, segmentation). ``class_names`` in that order, ``category_ids`` the ids of
    the file in that order. ``findings``: one sentence with a count for each kind of dropped or suspicious annotation.
    ``keypoint_names``: those that the categories name, [] without keypoints.
    """

    records: list[Record]
    class_names: list[str]
    category_ids: list[int]
    findings: list[str] = field(default_factory=list)
    keypoint_names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """What is kept of a data set for the life of the process; fields as in ``Labels``.

    ``image_ids`` are those of the records, in their order; ``annotated``: whether any image has an annotation;
    ``maskless``: a sentence on annotations without a segmentation, "" where all have one.
    """

    class_names: list[str]
    category_ids: list[int]
    findings: list[str]
    keypoint_names: list[str]
    image_ids: list[Any]
    annotated: bool
    maskless: str

    @classmethod
    def of(cls, labels: Labels) -> Summary:
        """The summary of what a reader returned."""
        ids = [record["image_id"] for record in labels.records]
        annotated = any(record["annotations"] for record in labels.records)
        without_mask = [r["image_id"] for r in labels.records for a in r["annotations"] if "segmentation" not in a]
        maskless = ""
        if without_mask:
            maskless = f"{len(without_mask)} annotations have no segmentation (images {examples(without_mask)})"
        head = (labels.class_names, labels.category_ids, labels.findings, labels.keypoint_names)
        return cls(*head, ids, annotated, maskless)


def examples(items: Iterable[Any], limit: int = 3) -> str:
    """The first few items for a message: "a, b, c, ..."."""
    listed = list(items)
    return ", ".join(str(i) for i in listed[:limit]) + (", ..." if len(listed) > limit else "")


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
            f"data set {name}: {len(missing)} of {len(records)} images are missing: {examples(missing)}; "
            "restore them or remove them from the annotations"
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
            f"annotations: {examples(wrong)}; correct the annotations"
        )


def read_text(path: Path, what: str) -> str:
    """The text of a file of a data set; raises UserError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read {what} ({error})") from error


def box_findings(records: list[Record]) -> list[str]:
    """Count boxes that training drops (a side of zero, entirely outside) or clips (extending beyond the image)."""
    empty: list[Any] = []
    outside: list[Any] = []
    clipped: list[Any] = []
    for record in records:
        width, height = record["width"], record["height"]
        for x0, y0, x1, y1 in map(box_corners, record["annotations"]):
            if x1 - x0 <= 0 or y1 - y0 <= 0:
                empty.append(record["image_id"])
            elif x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                outside.append(record["image_id"])
            elif min(x0, y0) < -OUTSIDE_TOLERANCE or max(x1 - width, y1 - height) > OUTSIDE_TOLERANCE:
                clipped.append(record["image_id"])
    kinds = {
        "boxes of zero area, dropped in training": empty,
        "boxes entirely outside their image, dropped in training": outside,
        "boxes that extend beyond their image, clipped in training": clipped,
    }
    return [f"{len(ids)} {kind} (images {examples(ids)})" for kind, ids in kinds.items() if ids]
