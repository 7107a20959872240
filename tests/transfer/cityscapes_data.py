"""A tiny data set in Cityscapes' layout: polygons that lie over one another, groups, void and deleted objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from transfer.data.catalog import DatasetSpec, get_dataset
from transfer.data.cityscapes import CLASSES, LABEL_IDS, instance_file
from transfer.evaluate.detections import Detections

SIZE = (160, 120)
LABELS = [*CLASSES[:6], "cargroup", "caravan", "building", "ego vehicle", "static", "polegroup", "license plate"]


def write_cityscapes(folder: Path, split: str = "train", images: int = 4, seed: int = 0) -> str:
    """Two cities below ``folder``/leftImg8bit and /gtFine; returns the name of the data set."""
    rng = np.random.default_rng(seed)
    for k in range(images):
        city, base = ("aachen", "ulm")[k % 2], f"{('aachen', 'ulm')[k % 2]}_{k:06d}_000019"
        objects = [drawn_object(rng) for _ in range(int(rng.integers(4, 12)))]
        values, pixels = drawn(objects, rng)
        truth, pictures = folder / "gtFine" / split / city, folder / "leftImg8bit" / split / city
        for place in (truth, pictures):
            place.mkdir(parents=True, exist_ok=True)
        content = {"imgHeight": SIZE[1], "imgWidth": SIZE[0], "objects": objects}
        (truth / f"{base}_gtFine_polygons.json").write_text(json.dumps(content))
        Image.fromarray(values.astype(np.uint16)).save(truth / f"{base}_gtFine_instanceIds.png")
        Image.fromarray(values.astype(np.uint8)).save(truth / f"{base}_gtFine_labelIds.png")  # Detectron2 asks for it
        Image.fromarray(pixels).save(pictures / f"{base}_leftImg8bit.png")
    return f"cityscapes:{folder / 'gtFine' / split}:{folder / 'leftImg8bit' / split}"


def drawn_object(rng: np.random.Generator) -> dict[str, Any]:
    """A star of 5 to 9 corners on whole pixels; some are tiny, one in ten was deleted."""
    width, height = SIZE
    radius = rng.uniform(3, 8) if rng.uniform() < 0.2 else rng.uniform(12, 40)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 10))))
    reach = radius * rng.uniform(0.5, 1.0, len(angles))
    corners = np.column_stack([x + reach * np.cos(angles), y + reach * np.sin(angles)])
    corners = np.clip(np.rint(corners), 0, [width - 1, height - 1]).astype(int)
    entry: dict[str, Any] = {"label": LABELS[int(rng.integers(len(LABELS)))], "polygon": corners.tolist()}
    return {**entry, "deleted": 1} if rng.uniform() < 0.1 else entry


def drawn(objects: list[dict[str, Any]], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The map of objects as cityscapesscripts draws it (``json2instanceImg``), and a picture in which they are seen."""
    values = Image.new("I", SIZE, 0)
    picture = Image.fromarray(rng.integers(0, 80, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
    numbers: dict[str, int] = {}
    for entry in objects:
        label = entry["label"]
        known = label if label in LABEL_IDS else label.removesuffix("group")
        if "deleted" in entry or LABEL_IDS[known] < 0:
            continue
        value = LABEL_IDS[known]
        if known == label and value >= 24:
            value = 1000 * value + numbers.setdefault(label, 0)
            numbers[label] += 1
        corners = [tuple(corner) for corner in entry["polygon"]]
        ImageDraw.Draw(values).polygon(corners, fill=value)
        ImageDraw.Draw(picture).polygon(corners, fill=tuple(int(v) for v in rng.integers(100, 255, 3)))
    return np.asarray(values), np.asarray(picture)


def random_map(rng: np.random.RandomState) -> np.ndarray:
    """Rectangles of objects, groups, void and background over one another, some of fewer than 100 pixels."""
    values = np.full(SIZE[::-1], int(rng.choice([0, 7, 11])), dtype=np.uint16)
    for number in range(rng.randint(3, 12)):
        label = int(rng.choice([24, 25, 26, 27, 28, 29, 33, 4, 11]))
        value = 1000 * label + number if label >= 24 and rng.uniform() < 0.8 else label
        height, width = rng.randint(3, 12, 2) if rng.uniform() < 0.2 else rng.randint(12, 70, 2)
        top, left = rng.randint(0, SIZE[1] - height), rng.randint(0, SIZE[0] - width)
        values[top : top + height, left : left + width] = value
    return values


def random_detections(maps: dict[str, np.ndarray], rng: np.random.RandomState) -> Detections:
    """Masks near the regions of the maps (image id -> map) and at random: several on one, empty ones, tied scores."""
    images = []
    for image_id, values in maps.items():
        regions = [int(value) for value in np.unique(values)]
        masks, labels, scores = [], [], []
        for _ in range(rng.randint(0, 14)):
            region = regions[rng.randint(len(regions))]
            mask = np.roll(values == region, tuple(rng.randint(-3, 4, 2)), (0, 1))
            mask &= rng.uniform(size=mask.shape) < (0.0, 0.6, 0.8, 1.0, 1.0)[rng.randint(5)]
            own = [k for k, name in enumerate(CLASSES) if LABEL_IDS[name] in (region, region // 1000)]
            masks.append(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
            labels.append(own[0] if own and rng.uniform() < 0.8 else rng.randint(len(CLASSES)))
            scores.append(np.float32(round(rng.uniform(), rng.randint(1, 4))))
        images.append((image_id, np.zeros((len(masks), 4)), np.array(scores), np.array(labels), masks))
    return Detections.from_images(images)


def random_case(folder: Path, seed: int) -> tuple[DatasetSpec, Detections]:
    """A data set of five images with random maps, and detections on it."""
    spec = get_dataset(write_cityscapes(folder, images=5, seed=seed))
    rng = np.random.RandomState(seed)
    maps = {}
    for record in spec.records():
        maps[record["image_id"]] = values = random_map(rng)
        Image.fromarray(values).save(instance_file(spec.annotations, record["file_name"]))
    return spec, random_detections(maps, rng)
