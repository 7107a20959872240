"""Reader of COCO-format json files (instances: boxes, polygons, run-length masks)."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import UserError
from transfer.data.box_modes import XYWH
from transfer.data.labels import Labels, Record, box_findings, check_images_exist, examples
from transfer.data.run_lengths import counts_of, covered_pixels

MIN_POLYGON_NUMBERS = 6  # three points
# pixels; rasterising a polygon takes memory in proportion to the length of its sides, whatever the size of the image
FARTHEST = 1e7


class _Seen(NamedTuple):
    """Ids of annotations that were dropped and of those that lost some of their polygons, and compressed masks."""

    annotations: list[Any]
    polygons: list[Any]
    masks: list[tuple[Any, dict[str, Any]]]


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Switch Python's garbage collector off: it would scan millions of new objects again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def load_json(path: Path, name: str) -> dict[str, Any]:
    """Parse a COCO-style file; raises UserError unless it holds images, annotations and categories."""
    try:
        with collector_paused():
            content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data set {name}: {path} is not readable JSON ({error})") from error
    for key in ("images", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f'data set {name}: {path} has no list "{key}"; a COCO instances file is expected')
    if not content["images"]:
        raise UserError(f"data set {name}: {path} lists no image")
    content.setdefault("annotations", [])
    return content


def check_ids(content: dict[str, Any], name: str, *, unique_annotations: bool = True) -> None:
    """Refuse duplicate image / annotation / category ids and annotations of unknown images or categories."""
    for kind in ("images", "categories") + (("annotations",) if unique_annotations else ()):
        counts = Counter(item["id"] for item in content[kind])
        repeated = [i for i, n in counts.items() if n > 1]
        if repeated:
            raise UserError(f"data set {name}: {len(repeated)} duplicate ids in {kind}: {examples(repeated)}")
    known = {"image_id": {i["id"] for i in content["images"]}, "category_id": {c["id"] for c in content["categories"]}}
    for field, ids in known.items():
        unknown = [a["id"] for a in content["annotations"] if a[field] not in ids]
        if unknown:
            raise UserError(
                f"data set {name}: {len(unknown)} annotations name an unknown {field} "
                f"(annotation ids {examples(unknown)})"
            )


def read_coco(path: Path, images: Path, *, name: str = "", subset: set[Any] | None = None) -> Labels:
    """Read an instances file with images in the folder ``images``.

    Images are in the order of their ids, category ids are sorted and mapped to 0..K-1, and all coordinates are floats
    (Detectron2 truncates integer ones when it resizes). Polygons with fewer than 3 points are dropped, as are
    annotations without any other polygon; ``findings`` counts both. ``subset``: keep only these image ids.
    Raises UserError naming the problem: missing images, duplicate ids, unknown categories, malformed boxes and masks.
    """
    name = name or str(path)
    content = load_json(path, name)
    try:
        labels = labels_of(content, name, file_name=lambda image: str(images / image["file_name"]), subset=subset)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"data set {name}: {path} is not a COCO instances file (missing or malformed {error})"
        ) from error
    if labels.category_ids != list(range(1, len(labels.category_ids) + 1)):
        last = len(labels.category_ids)
        labels.findings.append(f"category ids are not 1..{last}: mapped in sorted order to 0..{last - 1}")
    return labels


def labels_of(
    content: dict[str, Any],
    name: str,
    *,
    file_name: Callable[[dict[str, Any]], str],
    image_fields: Callable[[dict[str, Any], dict[Any, int]], dict[str, Any]] | None = None,
    subset: set[Any] | None = None,
) -> Labels:
    """Labels of a parsed file; its annotations are consumed.

    ``image_fields(image, contiguous ids)`` adds entries to each record.
    """
    with collector_paused():
        return _labels(content, name, file_name, image_fields, subset)


def _labels(
    content: dict[str, Any],
    name: str,
    file_name: Callable[[dict[str, Any]], str],
    image_fields: Callable[[dict[str, Any], dict[Any, int]], dict[str, Any]] | None,
    subset: set[Any] | None,
) -> Labels:
    check_ids(content, name)
    categories = sorted(content["categories"], key=lambda c: c["id"])
    contiguous = {c["id"]: i for i, c in enumerate(categories)}
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    without_area = sum(annotation.get("area") is None for annotation in content["annotations"])
    content["annotations"] = []  # each image's annotations are freed as soon as they are converted
    records: list[Record] = []
    seen = _Seen([], [], [])
    for image in sorted(content["images"], key=lambda i: i["id"]):
        if subset is not None and image["id"] not in subset:
            continue
        annotations = [_annotation(a, contiguous, image, seen, name) for a in of_image.pop(image["id"], [])]
        record: Record = {"file_name": file_name(image), "height": image["height"], "width": image["width"]}
        record["image_id"] = image["id"]
        if image_fields is not None:
            record.update(image_fields(image, contiguous))
        record["annotations"] = [a for a in annotations if a is not None]
        records.append(record)
    check_images_exist(records, name)
    _check_run_lengths(seen.masks, name)
    findings = box_findings(records)
    if without_area:
        findings.insert(0, f"{without_area} annotations have no area: evaluation uses the area of their box")
    for ids, what in (
        (seen.annotations, "dropped: no polygon"),
        (seen.polygons, "keep only their polygons"),
    ):
        if ids:
            findings.insert(0, f"{len(ids)} annotations {what} of 3 points or more (annotation ids {examples(ids)})")
    names, numbers = [c["name"] for c in categories], [c["id"] for c in categories]
    return Labels(records, names, numbers, findings, _keypoint_names(categories, name))


def _keypoint_names(categories: list[dict[str, Any]], name: str) -> list[str]:
    """Names of the keypoints; all categories with keypoints must have the same."""
    lists = [c["keypoints"] for c in categories if c.get("keypoints")]
    if any(names != lists[0] for names in lists):
        raise UserError(f"data set {name}: its categories have different keypoints; a detector needs one list")
    return list(map(str, lists[0])) if lists else []


def _annotation(
    source: dict[str, Any], contiguous: dict[Any, int], image: dict[str, Any], seen: _Seen, name: str
) -> dict[str, Any] | None:
    """Detectron2's form of one annotation, or None if no polygon of it is usable."""
    where = f"data set {name}: annotation {source['id']}"
    if source.get("ignore", 0):
        raise UserError(f'{where} has "ignore" set, which COCO files do not define')
    if source.get("iscrowd", 0) not in (0, 1):
        raise UserError(f"{where} has iscrowd {source['iscrowd']!r}; 0 or 1 is expected")
    area = source.get("area")
    if area is not None and not (isinstance(area, int | float) and area >= 0):
        raise UserError(f"{where} has area {area!r}; a number of pixels is expected")
    box = source["bbox"]
    if len(box) != 4 or not all(-FARTHEST < v < FARTHEST for v in box):
        raise UserError(f"{where} has bbox {box}; 4 numbers x y w h are expected")
    annotation: dict[str, Any] = {"iscrowd": source.get("iscrowd", 0), "bbox": [float(v) for v in box]}
    if "keypoints" in source:
        # published keypoints are pixel indices; the centre of a pixel is half a pixel further right and down
        annotation["keypoints"] = [v + 0.5 if i % 3 != 2 else v for i, v in enumerate(source["keypoints"])]
    segmentation = source.get("segmentation")
    if segmentation:
        if isinstance(segmentation, dict):
            mask = _compressed(segmentation, image, where)
            if mask is segmentation:  # compressed in the file; runs given as lists have been checked already
                seen.masks.append((source["id"], mask))
            annotation["segmentation"] = mask
        else:
            polygons = _polygons(segmentation, where)
            if len(polygons) < len(segmentation):
                (seen.polygons if polygons else seen.annotations).append(source["id"])
            if not polygons:
                return None
            annotation["segmentation"] = polygons
    annotation["bbox_mode"] = XYWH
    annotation["category_id"] = contiguous[source["category_id"]]
    return annotation


def _is_polygon(numbers: list[Any]) -> bool:
    return len(numbers) % 2 == 0 and len(numbers) >= MIN_POLYGON_NUMBERS


def _polygons(segmentation: list[Any], where: str) -> list[list[float]]:
    """The polygons of 3 points or more. Raises UserError for coordinates that are not finite or far too large."""
    polygons = [list(map(float, p)) for p in segmentation if _is_polygon(p)]
    if not all(math.hypot(*p) < FARTHEST for p in polygons):
        raise UserError(f"{where} has a polygon with coordinates that are not finite or beyond {FARTHEST:g} pixels")
    return polygons


def _check_run_lengths(masks: list[tuple[Any, dict[str, Any]]], name: str) -> None:
    """Refuse compressed masks whose runs do not cover their image: pycocotools evaluates them without an error."""
    covered = covered_pixels(counts_of(mask for _, mask in masks))
    broken = [id_ for (id_, m), pixels in zip(masks, covered) if pixels != m["size"][0] * m["size"][1]]
    if broken:
        raise UserError(
            f"data set {name}: the run lengths of {len(broken)} masks are damaged: they do not cover their image "
            f"(annotation ids {examples(broken)})"
        )


def keep_drawable(annotation: dict[str, Any]) -> bool:
    """Whether the reader keeps this annotation; polygons of fewer than 3 points are removed from it in place.

    pycocotools mistakes a list that begins with a polygon of two points for boxes, and fails.
    """
    shapes = annotation.get("segmentation")
    if not shapes or isinstance(shapes, dict):
        return True
    annotation["segmentation"] = [p for p in shapes if len(p) >= MIN_POLYGON_NUMBERS]
    return any(map(_is_polygon, shapes))


def _compressed(mask: dict[str, Any], image: dict[str, Any], where: str) -> dict[str, Any]:
    """A run-length mask with compressed counts (bytes or text); a list of numbers is compressed."""
    height, width = mask["size"]
    if (height, width) != (image["height"], image["width"]):
        raise UserError(
            f"{where} has a mask of {height} x {width} (height x width) in an image of {image['height']} x "
            f"{image['width']}"
        )
    if not isinstance(mask["counts"], list):
        return mask
    if sum(mask["counts"]) != height * width:
        raise UserError(f"{where} has run lengths of {sum(mask['counts'])} pixels in a mask of {height} x {width}")
    from pycocotools import mask as coco_mask

    return dict(coco_mask.frPyObjects(mask, *mask["size"]))
