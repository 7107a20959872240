"""Split a config's training sets into a part to train on and a held-out part, for data fractions and learning rates.

    python transfer/splits.py --config-file coco_R50_FPN.yaml --fit 0.8 --held-out 0.2 --output runs/x/splits

Images are ordered by a shuffle of their ids, fixed by --seed: the first share is for training, the last is held out,
and smaller shares are part of larger ones. With --within both parts lie inside that share. The test set is not used.
Writes names.json with the data set names of both parts.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.command_line import CommandParser
from runtime.errors import run_entry

if TYPE_CHECKING:
    from transfer.data.catalog import DatasetSpec
    from transfer.data.splitting import Parts


def parse() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the config whose training sets are split")
    parser.add_argument("--fit", type=float, required=True, metavar="SHARE", help="of the images, to train on")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the images, held out (0)",
    )
    parser.add_argument(
        "--within", type=float, default=1.0, metavar="SHARE", help="both parts inside this share of the images (1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order in which images are taken (0)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args()
    if args.fit <= 0:
        parser.error("--fit must be above 0")
    if args.held_out < 0:
        parser.error("--held-out must be 0 or more")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be 0 or more and below 2^32")
    if not 0 < args.within <= 1:
        parser.error("--within must be above 0 and at most 1")
    if args.fit + args.held_out > args.within + 1e-9:
        parser.error(f"--fit and --held-out must be at most {args.within:g} together")
    return args


def split_json(spec: "DatasetSpec", parts: "Parts", folder: Path) -> dict[str, str]:
    """COCO and LVIS: one annotation file per part; the images stay where they are."""
    from runtime.atomic import write_json

    content = spec.content()
    names = {}
    for part, ids in parts.items():
        if ids:
            selected = set(ids)
            images = [image for image in content["images"] if image["id"] in selected]
            annotations = [a for a in content["annotations"] if a["image_id"] in selected]
            path = folder / f"{part}.json"
            write_json(path, {**content, "images": images, "annotations": annotations})
            names[part] = f"{spec.kind}:{path}:{spec.images}"
    return names


def split_voc(spec: "DatasetSpec", parts: "Parts", folder: Path) -> dict[str, str]:
    """VOC: image lists in a new folder that links to the annotations and images."""
    from runtime.atomic import write_text
    from transfer.data.folders import voc_folders

    year = folder / f"VOC{spec.year}"
    year.mkdir(parents=True, exist_ok=True)
    for part, source in (("Annotations", voc_folders(spec.annotations).annotations), ("JPEGImages", spec.images)):
        if not (year / part).exists():
            (year / part).symlink_to(source.resolve(), target_is_directory=True)
    names = {}
    for part, ids in parts.items():
        if ids:
            write_text(year / "ImageSets" / "Main" / f"{part}.txt", "\n".join(map(str, ids)) + "\n")
            names[part] = f"voc:{folder}:{spec.year}:{part}"
    return names


def split_cityscapes(spec: "DatasetSpec", parts: "Parts", folder: Path) -> dict[str, str]:
    """Cityscapes: folders of the cities that link to the images and annotations of each part."""
    from transfer.data.cityscapes import city_files

    by_id = {files.image.name: files for files in city_files(spec.annotations, spec.images, spec.name)[0]}
    names = {}
    for part, ids in parts.items():
        for files in map(by_id.__getitem__, ids):
            city = files.image.parent.name
            for root, source in (
                ("leftImg8bit", files.image),
                ("gtFine", files.polygons),
                ("gtFine", files.instances),
            ):
                link = folder / root / part / city / source.name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(source.resolve())
        if ids:
            names[part] = f"cityscapes:{folder / 'gtFine' / part}:{folder / 'leftImg8bit' / part}"
    return names


SPLITTERS = {"coco": split_json, "lvis": split_json, "voc": split_voc, "cityscapes": split_cityscapes}


def main() -> int:
    """Split every training set of the config."""
    args = parse()
    from runtime.atomic import write_json
    from transfer.config import load_config
    from transfer.data.catalog import get_dataset
    from transfer.data.splitting import parts_of

    names: dict[str, list[str]] = {"fit": [], "held_out": []}
    for i, name in enumerate(load_config(args.config_file, args.opts).DATASETS.TRAIN):
        spec = get_dataset(name)
        ids = sorted(spec.summary.image_ids)
        parts = parts_of(ids, args.fit, args.held_out, args.within, args.seed, where=f"data set {name}")
        for part, part_name in SPLITTERS[spec.kind](spec, parts, args.output / f"train{i}").items():
            names[part].append(part_name)
        print(f"{name}: {len(parts['fit'])} images to fit, {len(parts['held_out'])} held out")
    write_json(args.output / "names.json", names)
    return 0


def console() -> None:
    """The command ``gap-split``."""
    run_entry(main)


if __name__ == "__main__":
    console()
