"""Draw the demo data set: ``python demo/draw.py [FOLDER] [--seed N]``.

Ten classes (a silhouette and a texture each) on clutter, in four standard layouts below FOLDER:
images/{train,val}/CLASS/*.jpg (ImageFolder), unlabelled/*.jpg (the same training images without labels),
coco/{train,val} with annotations/instances_{train,val}.json, VOCdevkit/VOC2007. The same seed draws the same files.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import shutil
from pathlib import Path
from typing import Any

from runtime.atomic import read_json, write_json, write_text
from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry

DRAWING = 1  # increase it when the drawing changes, so that old folders are drawn again
RECORD = "demo.json"  # written last: what the folder was drawn with
UNFINISHED = ".drawing"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/demo/data"), help="where to write")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another data set")
    parser.add_argument("--per-class", type=int, default=200, help="training images per class")
    parser.add_argument("--train-scenes", type=int, default=300, help="detection images to train on")
    parser.add_argument("--val-scenes", type=int, default=100, help="detection images to evaluate on")
    args = parser.parse_args()
    for name in ("per_class", "train_scenes", "val_scenes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return args


def draw_classification(folder: Path, seed: int, per_class: dict[str, int]) -> None:
    """images/SPLIT/CLASS/NNNNN.jpg, 96 x 96 pixels, one large object each, and unlabelled/ beside it."""
    from tqdm import tqdm

    from demo.layouts import link_or_copy, write_jpeg
    from demo.scenes import CLASS_NAMES, draw_scene

    jobs = [(s, c, i) for s, count in per_class.items() for c in range(len(CLASS_NAMES)) for i in range(count)]
    for serial, (split, category, index) in enumerate(tqdm(jobs, desc="drawing images", disable=None)):
        rng = generator(seed, "image", split, category, index)
        path = folder / "images" / split / CLASS_NAMES[category] / f"{index:05d}.jpg"
        write_jpeg(path, draw_scene(96, 96, [category], (32, 50), rng).image)
        if split == "train":
            link_or_copy(path, folder / "unlabelled" / f"{serial:05d}.jpg")


def draw_detection(folder: Path, seed: int, counts: dict[str, int]) -> None:
    """Scenes of 2 to 6 objects on 128-192 x 128-192 pixels, in COCO and VOC layout."""
    from tqdm import tqdm

    from demo.layouts import write_detection
    from demo.scenes import CLASS_NAMES, draw_scene

    splits: dict[str, list[Any]] = {split: [] for split in counts}
    jobs = [(split, i) for split, count in counts.items() for i in range(count)]
    for split, index in tqdm(jobs, desc="drawing scenes", disable=None):
        rng = generator(seed, "scene", split, index)
        height, width = (int(n) for n in rng.integers(128, 193, 2))
        categories = [int(c) for c in rng.integers(0, len(CLASS_NAMES), int(rng.integers(2, 7)))]
        splits[split].append(draw_scene(height, width, categories, (11, 48), rng))
    write_detection(folder, splits)


def generator(seed: int, *parts: Any) -> Any:
    """numpy's generator for one image; it depends on the image's name only, not on earlier drawings."""
    import numpy as np

    from runtime.seeds import derive_seed

    return np.random.Generator(np.random.PCG64(derive_seed(seed, *parts)))


def already_drawn(folder: Path, made_with: dict[str, int]) -> bool:
    """Whether the folder holds the finished drawing of these settings."""
    return read_json(folder / RECORD) == made_with


def clear(folder: Path) -> None:
    """Empty a folder of demo data; the mark of an unfinished drawing stays, so that it can be killed at any time.

    Raises UserError for a file, and for a folder with anything else in it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the demo data")
    is_demo = any((folder / name).exists() for name in (RECORD, UNFINISHED))
    if folder.exists() and any(folder.iterdir()) and not is_demo:
        raise UserError(f"{folder} holds other files; name an empty or new folder for the demo data")
    write_text(folder / UNFINISHED, "an unfinished drawing; run demo/draw.py again\n")
    for child in folder.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name != UNFINISHED:
            child.unlink()


def main() -> None:
    """Draw the data set, unless the folder already holds it with these settings."""
    args = parse()
    made_with = {
        "drawing": DRAWING,
        "seed": args.seed,
        "per_class": args.per_class,
        "train_scenes": args.train_scenes,
        "val_scenes": args.val_scenes,
    }
    if already_drawn(args.folder, made_with):
        print(f"{args.folder} is already drawn with seed {args.seed}")
        return
    clear(args.folder)
    draw_classification(args.folder, args.seed, {"train": args.per_class, "val": max(1, args.per_class // 5)})
    draw_detection(args.folder, args.seed, {"train": args.train_scenes, "val": args.val_scenes})
    write_json(args.folder / RECORD, made_with)
    (args.folder / UNFINISHED).unlink()
    print(f"drew {args.folder}: images/, unlabelled/, coco/, VOCdevkit/ (seed {args.seed})")


if __name__ == "__main__":
    run_entry(main)
