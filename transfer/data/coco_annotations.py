"""One annotation of a COCO-style file: its fields checked, its box and mask in Detectron2's form."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import UserError
from runtime.listing import listed
from transfer.data.box_modes import XYWH
from transfer.data.labels import EXAMPLES, UNUSABLE_MASK
from transfer.data.run_lengths import counts_of, covered_pixels

MIN_POLYGON_NUMBERS = 6  # three points
# pixels; rasterising a polygon takes memory in proportion to the length of its sides, whatever the size of the image
FARTHEST = 1e7
NUMBERS = (int, float)  # by type(), since True is an int


@dataclass
class Seen:
    """What a reader has met: ids of annotations, and compressed masks, which are checked together."""

    without_polygon: list[Any] = field(default_factory=list)
    some_polygons: list[Any] = field(default_factory=list)
    masks: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)


def convert(
    source: dict[str, Any], contiguous: dict[Any, int], image: dict[str, Any], seen: Seen, name: str
) -> dict[str, Any]:
    """Detectron2's form of one annotation. Raises UserError naming the annotation and the field that is malformed.

    Where no polygon of the annotation is usable, it is marked with ``UNUSABLE_MASK``: it has a box, but no mask.
    """
    where = f"data set {name}: annotation {source['id']}"
    if source.get("ignore", 0):
        raise UserError(f'{where} has "ignore" set, which COCO files do not define')
    if source.get("iscrowd", 0) not in (0, 1):
        raise UserError(f"{where} has iscrowd {source['iscrowd']!r}; 0 or 1 is expected")
    area = source.get("area")
    if area is not None and not (isinstance(area, NUMBERS) and 0 <= area <= FARTHEST**2):
        raise UserError(f"{where} has area {area!r}; a number of pixels is expected")
    box = source.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_coordinate(v) for v in box):
        raise UserError(f"{where} has bbox {reprlib.repr(box)}; 4 numbers x y w h are expected")
    annotation: dict[str, Any] = {"iscrowd": source.get("iscrowd", 0), "bbox": [float(v) for v in box]}
    if "keypoints" in source:
        # published keypoints are pixel indices; the centre of a pixel is half a pixel further right and down
        annotation["keypoints"] = [v + 0.5 if i % 3 != 2 else v for i, v in enumerate(source["keypoints"])]
    segmentation = source.get("segmentation")
    if segmentation:
        mask = _mask(segmentation, source["id"], image, seen, where)
        annotation[UNUSABLE_MASK if mask is None else "segmentation"] = True if mask is None else mask
    annotation["bbox_mode"] = XYWH
    annotation["category_id"] = contiguous[source["category_id"]]
    return annotation


def _is_coordinate(value: Any) -> bool:
    return type(value) in NUMBERS and -FARTHEST < value < FARTHEST


def _mask(segmentation: Any, id_: Any, image: dict[str, Any], seen: Seen, where: str) -> Any:
    """Polygons or a run-length mask; None if no polygon is usable."""
    if isinstance(segmentation, dict):
        mask = _compressed(segmentation, image, where)
        if mask is segmentation:  # compressed in the file; runs given as lists have been checked already
            seen.masks.append((id_, mask))
        return mask
    polygons = _polygons(segmentation, where)
    if len(polygons) < len(segmentation):
        (seen.some_polygons if polygons else seen.without_polygon).append(id_)
    return polygons or None


def _is_polygon(numbers: list[Any]) -> bool:
    return len(numbers) % 2 == 0 and len(numbers) >= MIN_POLYGON_NUMBERS


def _polygons(segmentation: Any, where: str) -> list[list[float]]:
    """The polygons of 3 points or more. Raises UserError for anything but numbers, and for numbers far too large."""
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        raise UserError(
            f"{where} has segmentation {reprlib.repr(segmentation)}; a list of polygons [[x0, y0, x1, y1, ...], ...] "
            "or a run-length mask is expected"
        )
    usable = [p for p in segmentation if _is_polygon(p)]
    try:
        far = not all(math.hypot(*p) < FARTHEST for p in usable)  # refuses text, which float() would accept
    except (TypeError, OverflowError) as error:
        raise UserError(
            f"{where} has a polygon {reprlib.repr(segmentation)} in its segmentation; numbers are expected ({error})"
        ) from error
    if far:
        raise UserError(f"{where} has a polygon with coordinates that are not finite or beyond {FARTHEST:g} pixels")
    return [list(map(float, p)) for p in usable]


def check_run_lengths(masks: list[tuple[Any, dict[str, Any]]], name: str) -> None:
    """Refuse compressed masks whose runs do not cover their image: pycocotools evaluates them without an error."""
    covered = covered_pixels(counts_of(mask for _, mask in masks))
    broken = [id_ for (id_, m), pixels in zip(masks, covered) if pixels != m["size"][0] * m["size"][1]]
    if broken:
        raise UserError(
            f"data set {name}: the run lengths of {len(broken)} masks are damaged: they do not cover their image "
            f"(annotation ids {listed(broken, EXAMPLES)})"
        )


def keep_drawable(annotation: dict[str, Any]) -> bool:
    """Whether an annotation has a usable mask or none at all; polygons of fewer than 3 points are removed in place.

    pycocotools mistakes a list that begins with a polygon of two points for boxes, and fails.
    """
    shapes = annotation.get("segmentation")
    if not shapes or isinstance(shapes, dict):
        return True
    annotation["segmentation"] = [p for p in shapes if len(p) >= MIN_POLYGON_NUMBERS]
    return any(map(_is_polygon, shapes))


def _compressed(mask: dict[str, Any], image: dict[str, Any], where: str) -> dict[str, Any]:
    """A run-length mask with compressed counts (bytes or text); a list of numbers is compressed."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, str | bytes | list):
        raise UserError(
            f"{where} has segmentation {reprlib.repr(mask)}; a run-length mask has size [height, width] and counts"
        )
    height, width = size
    if (height, width) != (image["height"], image["width"]):
        raise UserError(
            f"{where} has a mask of {height} x {width} (height x width) in an image of {image['height']} x "
            f"{image['width']}"
        )
    if not isinstance(counts, list):
        return mask
    if not all(type(run) is int and run >= 0 for run in counts):
        raise UserError(f"{where} has run lengths {reprlib.repr(counts)}; whole numbers of 0 or more are expected")
    if sum(counts) != height * width:
        raise UserError(f"{where} has run lengths of {sum(counts)} pixels in a mask of {height} x {width}")
    from pycocotools import mask as coco_mask

    return dict(coco_mask.frPyObjects(mask, *mask["size"]))
