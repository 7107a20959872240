"""Draw ground truth and detections of a finished run side by side.

    python transfer/show.py RUN --images 16

writes RUN/show/index.html and one PNG per image. RUN is a folder with result.json and detections.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry

if TYPE_CHECKING:
    from transfer.data.catalog import DatasetSpec
    from transfer.evaluate.detections import Detections
    from transfer.evaluate.drawing import Marked

# the entries of result.json that a page needs
NEEDS = ("status", "config.name", "init.name", "datasets.test", "detections")
STYLE = "body{font-family:sans-serif;margin:1rem}img{max-width:100%}figure{margin:0 0 1.5rem}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder with result.json")
    parser.add_argument("--images", type=int, default=16, metavar="N", help="how many images (default 16)")
    parser.add_argument("--score", type=float, default=0.5, help="draw detections above this score (default 0.5)")
    parser.add_argument("--set", type=int, default=0, metavar="K", help="which of DATASETS.TEST (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="which images: another seed draws others")
    parser.add_argument("--output", type=Path, help="where to write (default RUN/show)")
    args = parser.parse_args()
    if args.images < 1:
        parser.error("--images must be at least 1")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be between 0 and 2**32 - 1")
    if not 0 <= args.score <= 1:
        parser.error("--score must be between 0 and 1")
    return args


def main() -> int:
    """Draw the pictures and the page."""
    args = parse()
    import numpy as np
    from tqdm import tqdm

    from runtime.atomic import write_text
    from transfer.data.catalog import get_dataset
    from transfer.records.result_file import read_result

    result = read_result(args.run)
    if result is None or result.get("status") == "failed":
        raise UserError(f"{args.run}: no finished run (result.json); train it first")
    result = read_result(args.run, NEEDS) or result
    sets = result["datasets"]["test"]
    if not 0 <= args.set < min(len(sets), len(result["detections"])):
        raise UserError(f"--set {args.set}: the run has detections of {len(result['detections'])} test sets, from 0")
    spec = get_dataset(sets[args.set]["name"])
    detections = stored_detections(args.run / result["detections"][args.set], spec)
    chosen = np.random.RandomState(args.seed).permutation(len(detections.image_ids))[: args.images]
    folder = args.output or args.run / "show"
    make_folder(folder)
    by_id = {record["image_id"]: record for record in spec.records()}
    names = [
        picture(by_id[detections.image_ids[i]], spec.class_names, detections, int(i), args.score, folder)
        for i in tqdm(sorted(chosen), desc="drawing", disable=None)
    ]
    write_text(folder / "index.html", page(f"{result['config']['name']}, {result['init']['name']}", names))
    print(f"wrote {folder / 'index.html'} and {len(names)} pictures")
    return 0


def stored_detections(path: Path, spec: "DatasetSpec") -> "Detections":
    """The detections in ``path``; raises UserError unless they are of this data set's images and classes."""
    from transfer.evaluate.detections import Detections

    detections = Detections.load(path)
    if detections.are_proposals:
        raise UserError(f"{path}: proposals of a network alone, up to a thousand an image, are not drawn")
    unknown = set(detections.image_ids) - set(spec.summary.image_ids)
    if unknown or any(not 0 <= c < len(spec.class_names) for c in set(detections.category.tolist())):
        raise UserError(f"{path}: not detections of data set {spec.name} as it is now; evaluate the run again")
    return detections


def make_folder(folder: Path) -> None:
    """Create the output folder; raises UserError if it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {folder} ({error.strerror}); choose another --output") from error


def picture(
    record: dict[str, Any], class_names: list[str], detections: "Detections", index: int, score: float, folder: Path
) -> str:
    """Draw one image, number ``index`` of the detections; returns the name of its PNG in ``folder``."""
    from PIL import Image

    from transfer.data.mapper import read_image
    from transfer.evaluate.drawing import draw, marked_detections, side_by_side

    image = Image.fromarray(read_image(record["file_name"], "RGB"))
    left = draw(image, truth_of(record, class_names), f"ground truth, image {record['image_id']}")
    detected = marked_detections(detections, index, score, class_names)
    joined = side_by_side(left, draw(image, detected, f"{len(detected.labels)} detections above {score:g}"))
    name = f"{index:05d}.png"
    joined.save(folder / name)
    return name


def truth_of(record: dict[str, Any], class_names: list[str]) -> "Marked":
    """The annotations of a record; labels mark crowds and difficult objects."""
    import numpy as np

    from transfer.data.box_modes import corners
    from transfer.evaluate.drawing import Marked, polygons_to_mask

    labels, classes, masks = [], [], []
    for annotation in record["annotations"]:
        note = " (crowd)" if annotation.get("iscrowd") else " (difficult)" if annotation.get("difficult") else ""
        labels.append(class_names[annotation["category_id"]] + note)
        classes.append(annotation["category_id"])
        shape = annotation.get("segmentation")
        empty = np.zeros((record["height"], record["width"]), dtype=bool)
        masks.append(polygons_to_mask(shape, *empty.shape) if shape else empty)
    return Marked(corners(record["annotations"]), labels, classes, masks)


def page(title: str, names: list[str]) -> str:
    """An HTML page of the pictures."""
    figures = "\n".join(
        f'<figure><img src="{name}" alt="{Path(name).stem}: ground truth and detections"></figure>' for name in names
    )
    view = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    head = f'<meta charset="utf-8">{view}<title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = f"<main><h1>{html.escape(title)}</h1>\n{figures}</main>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def console() -> None:
    """The command ``gap-show``."""
    run_entry(main)


if __name__ == "__main__":
    console()
