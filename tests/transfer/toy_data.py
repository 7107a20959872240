"""Tiny data sets on disk for the tests of this folder."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(64, 48), (48, 64), (80, 40), (56, 56), (90, 61), (45, 77)]  # width, height
CATEGORIES = [{"id": 7, "name": "cup"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "kite"}]


def draw_images(folder: Path, count: int) -> list[dict]:
    """``count`` noise images img<k>.png of cycling sizes; returns COCO image entries with ids from 11."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    entries = []
    for k in range(count):
        width, height = SIZES[k % len(SIZES)]
        pixels = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"img{k}.png")
        entries.append({"id": 11 + k, "file_name": f"img{k}.png", "width": width, "height": height})
    return entries


def box_polygon(x: float, y: float, w: float, h: float) -> list[float]:
    """A five-point polygon inside the box, not a rectangle."""
    return [x, y + h / 3, x + w / 2, y, x + w, y + h / 2, x + w * 0.7, y + h, x + w * 0.1, y + h]


def annotate(images: list[dict], per_image: int = 3, seed: int = 1) -> list[dict]:
    """``per_image`` polygon annotations per image; the last one of every fourth image is a crowd."""
    rng = np.random.default_rng(seed)
    annotations = []
    for k, image in enumerate(images):
        for j in range(per_image):
            w, h = rng.uniform(8, image["width"] / 2), rng.uniform(8, image["height"] / 2)
            x, y = rng.uniform(0, image["width"] - w), rng.uniform(0, image["height"] - h)
            box = [round(float(v), 2) for v in (x, y, w, h)]
            category = CATEGORIES[int(rng.integers(0, 3))]["id"]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [box_polygon(*box)],
            }
            if k % 4 == 3 and j == per_image - 1:
                annotation["iscrowd"] = 1
                counts = [5, 20, image["width"] * image["height"] - 25]
                annotation["segmentation"] = {"size": [image["height"], image["width"]], "counts": counts}
            annotations.append(annotation)
    return annotations


def coco_content(folder: Path, count: int = 8, per_image: int = 3) -> dict:
    """Images in ``folder`` and the parsed annotation file of them."""
    images = draw_images(folder, count)
    return {"images": images, "annotations": annotate(images, per_image), "categories": CATEGORIES}


def write_coco(folder: Path, content: dict | None = None, **kwargs) -> str:
    """Write a data set and return its ``coco:...`` name."""
    content = content if content is not None else coco_content(folder / "images", **kwargs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps(content))
    return f"coco:{folder / 'annotations.json'}:{folder / 'images'}"


VOC_OBJECT = """<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def write_voc(devkit: Path, objects: dict[str, list], year: int = 2007, split: str = "test") -> str:
    """``objects``: image id -> [(name, difficult, [xmin, ymin, xmax, ymax])]; 100 x 80 images; returns the name."""
    folder = devkit / f"VOC{year}"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for image_id, listed in objects.items():
        Image.new("RGB", (100, 80)).save(folder / "JPEGImages" / f"{image_id}.jpg")
        body = "".join(VOC_OBJECT.format(name=n, difficult=d, box=b) for n, d, b in listed)
        size = "<size><width>100</width><height>80</height><depth>3</depth></size>"
        (folder / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{size}{body}</annotation>")
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(objects) + "\n")
    return f"voc:{devkit}:{year}:{split}"
