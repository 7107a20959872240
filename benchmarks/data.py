"""Images per second and core of the MoCo v2 input pipeline: python benchmarks/data.py [--images DIR] [--rounds 9]

Every candidate makes both views of the same JPEG files in this process, on one thread. All are timed in each round, in
random order, by process CPU time, so that other work on the machine does not favour one, and by the clock; the ratios
are medians of per-round ratios to the official pipeline, with quartiles.

* official: PIL, torchvision's transforms, float views, default collation (main_moco.py with --aug-plus).
* lightly: MoCoV2Transform with default collation, where lightly is installed.
* all on the CPU: everything but the normalisation in the workers (--aug-on cpu).
* crops: decode, crop and flip in the workers, colour and blur left to the device (--aug-on device).
* from the cache: the same with the images of pretrain/cache_images.py.
* decoding alone, at full size; and at an eighth, where next to nothing is left but reading the compressed bytes
  (entropy decoding), which whoever wants any pixel of a JPEG has to do. The latter bounds every pipeline.

Without --images the photos are drawn: noise with the spectrum of photos, saved to about as many bytes per pixel as
ImageNet's (110 KB for 468x401), or with --large as 2400x1600 photos of about 1 MB; --quality makes them smaller or
larger.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.atomic import write_json
from runtime.errors import UserError, run_entry

if TYPE_CHECKING:
    import numpy as np

    from pretrain.images.source import ImageSource

    Candidate = Callable[[int], object]  # makes the batch of a turn

BATCH = 16
CROPS, BOUND = "ours, crops", "decoding alone, at an eighth"
SMALL, LARGE = (400, 500), (1600, 2400)  # height, width of drawn photos
DETAIL = {SMALL: 9.0, LARGE: 3.0}  # grey levels of noise from pixel to pixel: the more pixels, the smoother
QUALITY = {SMALL: 93, LARGE: 86}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder of JPEG files to use instead of drawn ones")
    parser.add_argument("--large", action="store_true", help="draw photos of 2400x1600 pixels")
    parser.add_argument("--count", type=int, help="images to use (default 96, large 16)")
    parser.add_argument(
        "--quality", type=int, help=f"JPEG quality of drawn photos (default {QUALITY[SMALL]}, large {QUALITY[LARGE]})"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="candidates whose name holds a WORD")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args(argv)


def draw_photo(height: int, width: int, detail: float, seed: int) -> np.ndarray:
    """Coloured noise with the spectrum of a photo: uint8 height x width x 3."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 118.0, np.float32)
    for octave in range(9):
        small = (max(2, height >> octave), max(2, width >> octave))
        noise = rng.normal(size=(*small, 1)) * 1.0 + rng.normal(size=(*small, 3)) * 0.35
        image += cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC) * (
            detail + 5 * octave
        )
    return image.clip(0, 255).astype(np.uint8)


def draw_folder(folder: Path, count: int, size: tuple[int, int], quality: int) -> None:
    """`count` JPEG files in the layout of ImageFolder."""
    from PIL import Image

    (folder / "photos").mkdir()
    for seed in range(count):
        Image.fromarray(draw_photo(*size, DETAIL[size], seed)).save(
            folder / "photos" / f"{seed:04d}.jpg", quality=quality
        )


def official(folder: Path, count: int, size: int) -> Candidate:
    """The pipeline of main_moco.py with --aug-plus, as its paper and README describe it."""
    from PIL import Image, ImageFilter
    from torch.utils.data import default_collate
    from torchvision import datasets, transforms

    from pretrain.views import MEAN, STD

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

    one = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([transforms.Lambda(blur)], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = datasets.ImageFolder(str(folder), lambda image: [one(image), one(image)])
    return lambda turn: default_collate([images[(turn * BATCH + row) % count] for row in range(BATCH)])


def lightly(folder: Path, count: int, size: int) -> Candidate | None:
    """lightly's own transform for MoCo v2, or None where it is not installed."""
    try:
        from lightly.transforms import MoCoV2Transform
    except ImportError:
        return None
    from torch.utils.data import default_collate
    from torchvision import datasets

    images = datasets.ImageFolder(str(folder), MoCoV2Transform(input_size=size))
    return lambda turn: default_collate([images[(turn * BATCH + row) % count] for row in range(BATCH)])


def ours(source: ImageSource, size: int, aug_on: str) -> Candidate:
    """One batch of this project's loader, as one of its workers makes it."""
    from pretrain.batches.loader import BatchMaker
    from pretrain.batches.order import Order
    from pretrain.batches.shared_memory import Ring
    from pretrain.views import build_views

    order = Order(images=len(source), batch_size=BATCH, seed=0)
    maker = BatchMaker(source, build_views("v2", image_size=size, aug_on=aug_on), order, seed=0)
    maker.ring = Ring(1, math.prod(maker.pixel_shape(BATCH)))  # workers write to memory that is used again
    return lambda turn: maker[turn, 0]


def decode_only(source: ImageSource, count: int, reduction: int) -> Candidate:
    """Reading and decoding alone, at 1 / reduction of the size."""
    from pretrain.images.decode import Scratch

    scratch = Scratch()
    return lambda turn: [
        source.picture((turn * BATCH + row) % count).pixels(reduction, scratch) for row in range(BATCH)
    ]


def candidates(folder: Path, scratch: Path, args: argparse.Namespace) -> dict[str, Candidate]:
    """Everything that is timed, by name."""
    from pretrain import cache_images
    from pretrain.images import open_images

    source = open_images(folder, labels=False, split=None)
    count = len(source)
    cache_images.main([str(folder), str(scratch / "cache"), "--workers", "0", "--split", ""])
    cached = open_images(scratch / "cache", labels=False)
    made: dict[str, Candidate | None] = {
        "official (PIL, torchvision)": official(folder, count, args.image_size),
        "lightly MoCoV2Transform": lightly(folder, count, args.image_size),
        "ours, all on the CPU": ours(source, args.image_size, "cpu"),
        CROPS: ours(source, args.image_size, "device"),
        "ours, all on the CPU, from the cache": ours(cached, args.image_size, "cpu"),
        "ours, crops, from the cache": ours(cached, args.image_size, "device"),
        "decoding alone": decode_only(source, count, 1),
        BOUND: decode_only(source, count, 8),
    }
    words = args.only and ["official", *args.only]
    return {name: run for name, run in made.items() if run and (not words or any(word in name for word in words))}


def measure(runs: dict[str, Candidate], *, batches: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds per image of each candidate in each round: of CPU time, and by the clock."""
    from tqdm import tqdm

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        run(0)  # imports, caches of files and code
    for number in tqdm(range(rounds), desc="rounds", disable=None):
        for name in random.Random(number).sample(list(runs), len(runs)):
            start = time.process_time(), time.perf_counter()
            for turn in range(batches):
                runs[name](number * batches + turn)
            spent = time.process_time() - start[0], time.perf_counter() - start[1]
            times[name].append((spent[0] / (batches * BATCH), spent[1] / (batches * BATCH)))
    return times


def report(times: dict[str, list[tuple[float, float]]]) -> list[dict]:
    """Print the table, and what share of the bound is reached; returns the rows."""
    import numpy as np

    seconds = {name: np.array(pairs) for name, pairs in times.items()}  # rounds x (CPU, clock)
    base = next(iter(seconds.values()))
    rows: list[dict] = []
    print("| pipeline | img/s/core | ratio to official (quartiles) | by the clock |\n| --- | --- | --- | --- |")
    for name, spent in seconds.items():
        low, ratio, high = np.percentile(base / spent, [25, 50, 75], axis=0)
        rate = 1 / np.median(spent[:, 0])
        print(f"| {name} | {rate:.0f} | {ratio[0]:.2f} ({low[0]:.2f} to {high[0]:.2f}) | "
              f"{ratio[1]:.2f} ({low[1]:.2f} to {high[1]:.2f}) |")  # fmt: skip
        row = {"pipeline": name, "images_per_second_core": rate}
        for column, prefix in enumerate(("", "clock_")):
            row[f"{prefix}ratio"], row[f"{prefix}quartiles"] = ratio[column], [low[column], high[column]]
        rows.append(row)
    if CROPS in seconds and BOUND in seconds:
        share = np.median(seconds[BOUND][:, 0] / seconds[CROPS][:, 0])
        print(f"\n'{CROPS}' spends {share:.0%} of its time on reading the compressed bytes; with everything else for "
              f"nothing its ratio would be {np.median(base[:, 0] / seconds[BOUND][:, 0]):.2f}.")  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> int:
    """Entry point; see the module docstring."""
    args = parse_args(argv)
    import torch

    from pretrain.images import decode
    from pretrain.views import cpu_colour as uint8_views
    from runtime.provenance import provenance

    torch.set_num_threads(1)
    made_from = provenance()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.images or scratch) / ("" if args.images else "drawn")
        if not args.images:
            folder.mkdir()
            size = LARGE if args.large else SMALL
            draw_folder(folder, args.count or (16 if args.large else 96), size, args.quality or QUALITY[size])
        files = [path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
        if len(files) < BATCH:
            raise UserError(f"{len(files)} JPEG files below {folder}; at least {BATCH} are needed")
        runs = candidates(folder, Path(scratch), args)
        kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1000
        optional = {"simplejpeg": decode.simplejpeg, "opencv": uint8_views.cv2}
        print(f"{made_from['hardware']}; versions {made_from['versions']}; with "
              f"{', '.join(name for name, module in optional.items() if module) or 'no optional package'}")  # fmt: skip
        print(f"{len(files)} JPEG files of {kilobytes:.0f} KB on average, views of {args.image_size} px, "
              f"{args.rounds} rounds\n")  # fmt: skip
        rows = report(measure(runs, batches=max(1, (len(files) // BATCH)), rounds=args.rounds))
    if args.json:
        write_json(args.json, {"rows": rows, "provenance": made_from, "kilobytes": kilobytes})
    return 0


if __name__ == "__main__":
    run_entry(main)
