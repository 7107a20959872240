"""Reader of COCO-format json files (instances: boxes, polygons, run-length masks)."""

from __future__ import annotations

import contextlib
import gc
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.findings import Finding
from runtime.listing import listed
from transfer.data.coco_annotations import FARTHEST, NUMBERS, Seen, check_run_lengths, convert
from transfer.data.coco_ids import category_names, check_ids, normalise_ids
from transfer.data.findings import record_findings
from transfer.data.json_text import parse_json, text_of
from transfer.data.labels import EXAMPLES, Labels, Record, check_images_exist

ID_0 = (
    "evaluated like any other here, but pycocotools and Detectron2 take a match with it for no match, so that their AP "
    "is lower"
)
ImageFields = Callable[[dict[str, Any], dict[Any, int]], dict[str, Any]]
LISTS = ("images", "annotations", "categories")


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
    """Parse a COCO-style file, with ids as whole numbers or text.

    Raises UserError unless it holds images, annotations and categories.
    """
    try:
        with collector_paused():
            data = path.read_bytes()
            content = parse_json(data)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data set {name}: {path} is not readable JSON ({error})") from error
    if repeated := next(
        (key for key in LISTS if data.count(f'"{key}"'.encode()) > 1 and _is_repeated(data, key)), None
    ):
        raise UserError(
            f'data set {name}: {path} has "{repeated}" twice, of which a JSON reader sees one; join the two lists'
        )
    for key in ("images", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f'data set {name}: {path} has no list "{key}"; a COCO instances file is expected')
    if not content["images"]:
        raise UserError(f"data set {name}: {path} lists no image")
    content.setdefault("annotations", [])
    normalise_ids(content, f"data set {name}: {path}")
    return content


def _is_repeated(data: bytes, key: str) -> bool:
    """Whether one object of a JSON text has ``key`` twice. Slow: a file hardly ever has the word twice at all."""
    found = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or sum(name == key for name, _ in pairs) > 1

    json.loads(text_of(data), object_pairs_hook=look)
    return found


def read_coco(path: Path, images: Path, *, name: str = "", subset: set[Any] | None = None) -> Labels:
    """Read an instances file with images in the folder ``images``.

    Images are in the order of their ids, category ids are sorted and mapped to 0..K-1, and all coordinates are floats
    (Detectron2 truncates integer ones when it resizes). Polygons with fewer than 3 points are dropped; an annotation
    without any other polygon is marked with ``UNUSABLE_MASK``. ``subset``: keep only these image ids.
    Raises UserError naming the problem: missing images, duplicate ids, unknown categories, malformed boxes and masks.
    """
    name = name or str(path)
    content = load_json(path, name)
    try:
        return labels_of(content, name, file_name=lambda image: str(images / image["file_name"]), subset=subset)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"data set {name}: {path} is not a COCO instances file (missing or malformed {error})"
        ) from error


def labels_of(
    content: dict[str, Any],
    name: str,
    *,
    file_name: Callable[[dict[str, Any]], str],
    image_fields: ImageFields | None = None,
    subset: set[Any] | None = None,
) -> Labels:
    """Labels of a parsed file; its annotations are consumed.

    ``image_fields(image, contiguous ids)`` adds entries to each record; a file with them is an LVIS file.
    """
    with collector_paused():
        check_ids(content, name)
        categories = sorted(content["categories"], key=lambda c: c["id"])
        names, numbers = category_names(categories, name), [c["id"] for c in categories]
        parents = frozenset(str(c.get("supercategory")) for c in categories if c.get("supercategory") != c["name"])
        contiguous = {id_: i for i, id_ in enumerate(numbers)}
        areas, seen = _areas(content["annotations"]), Seen()
        id_0 = _finding("annotation with id 0", [a["id"] for a in content["annotations"] if a["id"] in (0, "0")], ID_0)
        records = _records(content, contiguous, name, seen, file_name, image_fields, subset)
        check_images_exist(records, name)
        check_run_lengths(seen.masks, name)
        labels = Labels(records, names, numbers, [], _keypoint_names(categories, name), parents)
        labels.findings += _mask_findings(seen) + id_0 + areas.findings() + _category_findings(categories)
        labels.findings += record_findings(labels, "lvis" if image_fields else "coco")
    return labels


def _records(
    content: dict[str, Any],
    contiguous: dict[Any, int],
    name: str,
    seen: Seen,
    file_name: Callable[[dict[str, Any]], str],
    image_fields: ImageFields | None,
    subset: set[Any] | None,
) -> list[Record]:
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    content["annotations"] = []  # each image's annotations are freed as soon as they are converted
    records: list[Record] = []
    for image in sorted(content["images"], key=lambda i: i["id"]):
        if subset is not None and image["id"] not in subset:
            continue
        for side in ("width", "height"):
            image[side] = _pixels(image.get(side), f"data set {name}: image {image['id']} has {side}")
        record: Record = {"file_name": file_name(image), "height": image["height"], "width": image["width"]}
        record["image_id"] = image["id"]
        if image_fields is not None:
            record.update(image_fields(image, contiguous))
        record["annotations"] = [convert(a, contiguous, image, seen, name) for a in of_image.pop(image["id"], [])]
        records.append(record)
    return records


def _pixels(value: Any, what: str) -> int:
    if type(value) not in NUMBERS or not 1 <= value <= FARTHEST or value != int(value):
        raise UserError(f"{what} {value!r}; a whole number of pixels is expected")
    return int(value)


@dataclass
class _Areas:
    """Ids of annotations without an area, and of those whose area is 0."""

    missing: list[Any]
    zero: list[Any]

    def findings(self) -> list[Finding]:
        missing = "evaluation uses the area of the box, which is larger than that of a mask"
        zero = "the objects count as small, and LVIS leaves them out; remove the areas to have those of the boxes"
        return [
            *_finding("annotation without an area", self.missing, missing),
            *_finding("annotation with an area of 0", self.zero, zero),
        ]


def _areas(annotations: list[dict[str, Any]]) -> _Areas:
    areas = [(annotation.get("area"), annotation["id"]) for annotation in annotations]
    return _Areas([id_ for area, id_ in areas if area is None], [id_ for area, id_ in areas if area == 0])


def _finding(kind: str, ids: list[Any], message: str) -> list[Finding]:
    example = f"annotation {listed(ids, EXAMPLES)}"
    return [Finding(kind, len(ids), example, message)] if ids else []


def _mask_findings(seen: Seen) -> list[Finding]:
    without = "a detector with masks drops them in training and in evaluation; boxes are used"
    some = "polygons of fewer than 3 points, or of half a point, are dropped; the others are kept"
    return [
        *_finding("annotation without a usable polygon", seen.without_polygon, without),
        *_finding("annotation with an unusable polygon", seen.some_polygons, some),
    ]


def _category_findings(categories: list[dict[str, Any]]) -> list[Finding]:
    numbers, findings = [category["id"] for category in categories], []
    if numbers != list(range(1, len(numbers) + 1)):
        message = f"mapped in sorted order to 0..{len(numbers) - 1}"
        findings.append(Finding(f"category ids that are not 1..{len(numbers)}", len(numbers), str(numbers[0]), message))
    names = [category["name"] for category in categories]
    if repeated := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
        message = "each is a class of its own, named with its id; rename or merge them"
        findings.append(Finding("name of several categories", len(repeated), str(repeated[0]), message))
    return findings


def _keypoint_names(categories: list[dict[str, Any]], name: str) -> list[str]:
    """Names of the keypoints; all categories with keypoints must have the same."""
    lists = [c["keypoints"] for c in categories if c.get("keypoints")]
    if any(names != lists[0] for names in lists):
        raise UserError(f"data set {name}: its categories have different keypoints; a detector needs one list")
    return list(map(str, lists[0])) if lists else []
