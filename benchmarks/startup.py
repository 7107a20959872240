"""From nothing to the first batch on annotations of full COCO size: CPU time and memory, against Detectron2.

    python benchmarks/startup.py [--images 118000] [--repeat 3]

Draws one photo, links it under 118,000 names, writes an instances file with 7.3 polygons per image (about 860,000
annotations, as train2017), and starts each loader in a process of its own: its CPU seconds, imports included, and its
largest resident memory. Without Detectron2 only this project's line is printed.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import importlib.util
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from runtime.errors import run_entry
from runtime.repository import REPOSITORY

OURS = """
from transfer.data.catalog import get_dataset
from transfer.data.loader import build_train_loader
from transfer.data.mapper import DetectionMapper
from transfer.data.random_geometry import RandomGeometry
spec = get_dataset("coco:{folder}/instances.json:{folder}/images")
records = [r for r in spec.records() if any(not a["iscrowd"] for a in r["annotations"])]
geometry = RandomGeometry(min_sizes=(640, 800), max_size=1333, flip="horizontal")
mapper = DetectionMapper(train=True, image_format="BGR", geometry=geometry, masks="polygon")
loader = build_train_loader(records=records, mapper=mapper, batch_size=2, seed=0, draw_seed=0)
batch = next(iter(loader))
"""
THEIRS = """
from detectron2.config import get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
register_coco_instances("full", {{}}, "{folder}/instances.json", "{folder}/images")
cfg = get_cfg()
cfg.DATASETS.TRAIN, cfg.MODEL.MASK_ON, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = ("full",), True, 2, 0
cfg.INPUT.MIN_SIZE_TRAIN = (640, 800)
batch = next(iter(build_detection_train_loader(cfg)))
"""
TIMED = """
import resource, sys, time
sys.path.insert(0, {repository!r})
{code}
assert len(batch) == 2
print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def write_data(folder: Path, images: int) -> int:
    """The synthetic data set; returns the number of annotations."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(folder / "photo.jpg", quality=60)
    entries: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for k in range(1, images + 1):
        name = f"{k:012d}.jpg"
        os.symlink(folder / "photo.jpg", folder / "images" / name)
        entries.append({"id": k, "file_name": name, "width": 640, "height": 480})
        for _ in range(int(rng.poisson(7.3))):
            x, y, w, h = (round(float(v), 2) for v in rng.uniform((0, 0, 10, 10), (400, 300, 240, 180)))
            turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            points = np.stack([x + w / 2 * (1 + np.cos(turn)), y + h / 2 * (1 + np.sin(turn))], 1).round(2).reshape(-1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": k,
                    "category_id": int(rng.integers(1, 81)),
                    "bbox": [x, y, w, h],
                    "area": round(w * h, 2),
                    "iscrowd": 0,
                    "segmentation": [points.tolist()],
                }
            )
    categories = [{"id": c, "name": f"class {c}"} for c in range(1, 81)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return len(annotations)


def measure(code: str, folder: Path) -> tuple[float, float]:
    """(seconds, GiB) of one process that runs ``code``."""
    script = TIMED.format(repository=str(REPOSITORY), code=code.format(folder=folder))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, gib = done.stdout.split()[-2:]
    return float(seconds), float(gib)


def main() -> int:
    """Print the table."""
    args = parse()
    from runtime.provenance import hardware

    print(hardware())
    sides = {"this project": OURS}
    if importlib.util.find_spec("detectron2"):
        sides["Detectron2"] = THEIRS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = write_data(folder, args.images)
        size = (folder / "instances.json").stat().st_size / 2**20
        print(f"{args.images} images, {count} annotations, {size:.0f} MiB of json; {args.repeat} runs each, in turn")
        rows = [{side: measure(code, folder) for side, code in sides.items()} for _ in range(args.repeat)]
    for side in sides:
        seconds, gib = zip(*(row[side] for row in rows))
        spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
        print(f"{side:14s} {statistics.median(seconds):7.1f} s {spread}   {max(gib):.2f} GiB")
    return 0


if __name__ == "__main__":
    run_entry(main)
