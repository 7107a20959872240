"""Reader of Cityscapes' fine annotations: gtFine/SPLIT/CITY/*_gtFine_polygons.json and leftImg8bit/SPLIT/CITY/*.png.

Objects become Detectron2's (``load_cityscapes_instances``): later polygons lie above earlier ones, so each keeps the
part that none above it covers, as one polygon or several; holes are filled. Geometry is shapely's, an optional
dependency, so that vertices and their order are the same.
"""

from __future__ import annotations

import importlib.util
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.findings import Finding
from runtime.listing import listed
from transfer.data.box_modes import XYXY
from transfer.data.coco_annotations import FARTHEST
from transfer.data.findings import record_findings
from transfer.data.labels import EXAMPLES, Labels, Record

# ids of the labels, in the order of cityscapesscripts (helpers/labels.py)
_LABELS = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground"),
    *("road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel"),
    *("pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider"),
    *("car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
)
LABEL_IDS = {name: number for number, name in enumerate(_LABELS)} | {"license plate": -1}
# the classes that are evaluated; caravans and trailers have instances, too, but are not
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
# regions that a detection may cover without being wrong
VOID_IDS = (*range(7), 9, 10, 14, 15, 16, 18, 29, 30)
CROWD = "group"  # the end of the label of several objects that nobody told apart
IMAGE_END, POLYGONS_END, INSTANCES_END = "leftImg8bit.png", "gtFine_polygons.json", "gtFine_instanceIds.png"
HALF_PIXEL = 0.5


@dataclass(frozen=True)
class Files:
    """The files of one image."""

    image: Path
    polygons: Path
    instances: Path  # 16 bit: a label's id, or 1000 x id + number of the object


def read_cityscapes(annotations: Path, images: Path, *, name: str = "", subset: set[Any] | None = None) -> Labels:
    """Read all cities below two folders. ``image_id`` is the file name of an image; category ids are Cityscapes'.

    Groups of objects ("cargroup") are crowds. ``subset``: image ids to keep. Raises UserError for missing or broken
    files and unknown labels.
    """
    name = name or str(annotations)
    if not importlib.util.find_spec("shapely"):
        raise UserError(f"data set {name}: the polygons of Cityscapes need shapely; pip install shapely")
    import shapely.geometry  # noqa: F401  before the threads, which would import parts of it in a circle

    found, strangers = city_files(annotations, images, name)
    chosen = [files for files in found if subset is None or files.image.name in subset]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # shapely computes outside Python's lock
        records = list(pool.map(_record, chosen))
    labels = Labels(records, list(CLASSES), [LABEL_IDS[label] for label in CLASSES])
    if strangers:
        message = f"only names that end in {IMAGE_END} are read"
        labels.findings.append(Finding("file that is no image of Cityscapes", len(strangers), strangers[0], message))
    labels.findings += record_findings(labels, "cityscapes")
    return labels


def city_files(annotations: Path, images: Path, name: str) -> tuple[list[Files], list[str]]:
    """The files of all images in the order of cities and names, and other files that lie among the images.

    Raises UserError for images without annotations, naming the first.
    """
    found, strangers, missing = [], [], []
    for city in sorted(path for path in images.iterdir() if path.is_dir()):
        for image in sorted(city.iterdir()):
            if not image.name.endswith(IMAGE_END):
                strangers += [str(image)] if not image.name.startswith(".") else []
                continue
            folder, base = annotations / city.name, image.name.removesuffix(IMAGE_END)
            files = Files(image, folder / f"{base}{POLYGONS_END}", folder / f"{base}{INSTANCES_END}")
            missing += [str(path) for path in (files.polygons, files.instances) if not path.is_file()]
            found.append(files)
    if missing:
        raise UserError(
            f"data set {name}: {len(missing)} annotation files are missing: {listed(missing, EXAMPLES)}; "
            "unpack gtFine_trainvaltest.zip beside leftImg8bit_trainvaltest.zip"
        )
    if not found:
        raise UserError(f"data set {name}: no CITY/*{IMAGE_END} in {images}")
    return found, strangers


def instance_file(annotations: Path, image: str) -> Path:
    """The map of the objects of the image file ``image``."""
    return annotations / Path(image).parent.name / f"{Path(image).name.removesuffix(IMAGE_END)}{INSTANCES_END}"


def _record(files: Files) -> Record:
    from shapely.errors import ShapelyError

    try:
        content = json.loads(files.polygons.read_text(encoding="utf-8"))
        record: Record = {"file_name": str(files.image), "image_id": files.image.name}
        record |= {side: _pixels(content[key]) for side, key in (("height", "imgHeight"), ("width", "imgWidth"))}
        return {**record, "annotations": _annotations(content["objects"])}
    except KeyError as error:
        raise UserError(f"{files.polygons}: no Cityscapes annotation (missing or unknown {error})") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, ShapelyError) as error:
        raise UserError(f"{files.polygons}: no Cityscapes annotation ({error})") from error


def _pixels(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"an image side of {value!r}")
    return value


def _annotations(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Objects from the topmost down, which is the reverse of the file's order."""
    from shapely.geometry import Polygon

    annotations = []
    covered = Polygon()
    for entry in reversed(objects):
        label = entry["label"]
        known = label if label in LABEL_IDS else label.removesuffix(CROWD)
        if "deleted" in entry or LABEL_IDS[known] < 0:
            continue
        whole = _drawn_region(entry["polygon"])
        if known in CLASSES:
            visible = whole.difference(covered)
            if visible.is_empty:
                continue
            annotations.append(
                {
                    "iscrowd": int(label.endswith(CROWD)),
                    "category_id": CLASSES.index(known),
                    "segmentation": [
                        [value for corner in part.exterior.coords for value in corner] for part in _parts(visible)
                    ],
                    "bbox": list(visible.bounds),
                    "bbox_mode": XYXY,
                }
            )
        covered = covered.union(whole)
    return annotations


def _drawn_region(corners: list[list[float]]) -> Any:
    """The region that cityscapesscripts draws for a polygon of whole pixels.

    Pixel (0, 0) has its centre at 0.5, and its drawing covers every pixel that the outline touches, which is half a
    pixel more on each side.
    """
    import numpy as np
    from shapely.geometry import Polygon

    places = np.asarray(corners, dtype=np.float32) + np.float32(HALF_PIXEL)
    if not (np.abs(places) < FARTHEST).all():
        raise ValueError(f"a polygon has coordinates that are not finite or beyond {FARTHEST:g} pixels")
    return Polygon(places).buffer(HALF_PIXEL, quad_segs=4)


def _parts(region: Any) -> list[Any]:
    """The polygons of a region; lines and points, which have no area, are left out."""
    pieces = getattr(region, "geoms", [region])
    return [piece for piece in pieces if piece.geom_type == "Polygon"]
