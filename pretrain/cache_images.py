"""Decode every image once into a memory-mapped cache: python pretrain/cache_images.py IMAGES CACHE [--shorter-side 256]

Training then reads pixels instead of decoding files: pass ``--cache CACHE`` to pretrain/main.py, or CACHE itself as the
images. Run the same command again to continue after an interruption.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.arguments import whole
from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry
from runtime.provenance import usable_cores

if TYPE_CHECKING:
    import numpy as np

    from pretrain.images.source import ImageSource

PLAN = "plan.json"  # in an unfinished cache: what it is being made of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("images", help="folder of images, .txt list or .tar shards, as for pretrain/main.py")
    parser.add_argument("cache", type=Path, help="folder to write")
    parser.add_argument(
        "--shorter-side",
        type=whole,
        default=0,
        metavar="N",
        help="shrink images whose shorter side is longer than N pixels to N (default: keep every pixel)",
    )
    parser.add_argument("--split", default="train", help="sub-folder to read where there is one (default: train)")
    parser.add_argument("-j", "--workers", type=whole, default=max(1, usable_cores() - 1))
    parser.add_argument(
        "--max-bad", type=float, default=0.01, help="share (below 1) or number of unreadable images tolerated"
    )
    args = parser.parse_args(argv)
    if not 0 <= args.max_bad < math.inf:
        parser.error(f"--max-bad must be 0 or more and a finite number, not {args.max_bad}")
    return args


class Decoded:
    """index -> (pixels, "") or (None, reason): the data set that the workers read from."""

    def __init__(self, source: ImageSource, shorter_side: int) -> None:
        self.source, self.shorter_side = source, shorter_side

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        from pretrain.images.decode import BadImage

        try:
            return shrink(self.source.load(index), self.shorter_side), ""
        except BadImage as error:
            return None, error.reason


def shrink(pixels: np.ndarray, shorter_side: int) -> np.ndarray:
    """uint8 H x W x 3, its shorter side resized with antialiasing to at most ``shorter_side`` (0: unchanged)."""
    from pretrain.views.crops import resize

    height, width = pixels.shape[:2]
    scale = shorter_side / min(height, width) if shorter_side else 1.0
    if scale >= 1.0:
        return pixels
    small = resize(pixels, round(height * scale), round(width * scale))
    return small[0].permute(1, 2, 0).contiguous().numpy()


def main(argv: list[str] | None = None) -> int:
    """Entry point; see the module docstring."""
    args = parse_args(argv)
    from pretrain.images import cache as image_cache
    from pretrain.images import open_images
    from runtime.atomic import write_json
    from runtime.run_folder import RunLock

    source = open_images(args.images, labels=False, split=args.split)
    labelled = _labelled(args.images, args.split) or source
    for finding in labelled.findings:
        print(finding.line(), file=sys.stderr)
    whole = source.whole_fingerprints()
    plan = {
        "files_fingerprint": whole.files,
        "shorter_side": args.shorter_side,
        "times_fingerprint": whole.times,
    }
    with RunLock(args.cache):
        if image_cache.is_cache(args.cache):
            _check_same(args.cache, image_cache.read_summary(args.cache), plan)
            (args.cache / PLAN).unlink(missing_ok=True)  # of a run that was killed between its last two steps
            print(f"{args.cache} already holds these {len(source)} images")
            return 0
        _check_same(args.cache, _read_plan(args.cache), plan)
        write_json(args.cache / PLAN, plan)
        bad = write_pixels(source, args.cache, args.shorter_side, args.workers, args.max_bad)
        _check_unchanged(source, args)
        write_json(
            args.cache / image_cache.SUMMARY, image_cache.summarise(labelled, args.images, args.shorter_side, bad)
        )
        (args.cache / PLAN).unlink()
    size = (args.cache / image_cache.PIXELS).stat().st_size
    print(f"{len(source) - len(bad)} images, {size / 2**30:.2f} GiB in {args.cache}; {len(bad)} unreadable")
    return 0


def _check_unchanged(source: ImageSource, args: argparse.Namespace) -> None:
    """Raise UserError where the images are no longer those that were listed: the cache would pass for theirs."""
    from pretrain.images import open_images

    now = open_images(args.images, labels=False, split=args.split)
    if (now.files_fingerprint, now.times_fingerprint) != (source.files_fingerprint, source.times_fingerprint):
        raise UserError(
            f"the images of {args.images} were changed while {args.cache} was made of them; remove {args.cache} and "
            "make it again"
        )


def write_pixels(source: ImageSource, cache: Path, shorter_side: int, workers: int, max_bad: float) -> dict[int, str]:
    """Append the pixels of the images that the cache lacks; returns {index: reason} of the unreadable ones."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    from pretrain.images import cache as image_cache
    from runtime.stop import leave_signals_to_the_parent

    sizes = image_cache.usable_sizes(cache)
    unreadable = np.flatnonzero(sizes[:, 0] == 0)  # of an interrupted run, which did not record the reasons
    decoded = Decoded(source, shorter_side)
    bad = {int(index): decoded[int(index)][1] for index in unreadable}
    limit = int(max_bad * len(source)) if max_bad < 1 else int(max_bad)
    loader: DataLoader = DataLoader(
        decoded,  # type: ignore[arg-type]  # has __len__ and __getitem__, as a map-style data set
        batch_size=None,
        sampler=range(len(sizes), len(source)),  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=32 if workers else None,
        generator=torch.Generator(),
        worker_init_fn=leave_signals_to_the_parent,
        collate_fn=_as_is,  # type: ignore[arg-type]  # called with a single item, since there are no batches
    )
    with open(cache / image_cache.PIXELS, "ab") as pixels_file, open(cache / image_cache.SIZES, "ab") as sizes_file:
        progress = tqdm(loader, desc="cache", unit="img", disable=None, initial=len(sizes), total=len(source))
        for index, (pixels, reason) in enumerate(progress, start=len(sizes)):
            if pixels is None:
                bad[index] = reason
                tqdm.write(f"unreadable: {source.name(index)}: {reason}", file=sys.stderr)
                if len(bad) > limit:
                    raise UserError(f"{len(bad)} of {len(source)} images cannot be read, more than --max-bad allows")
            else:
                pixels_file.write(np.ascontiguousarray(pixels).data)
            shape = (0, 0) if pixels is None else pixels.shape[:2]
            pixels_file.flush()
            sizes_file.write(np.array(shape, np.int32).tobytes())
            sizes_file.flush()  # 8 bytes: the buffer would hold back a thousand images, which a kill would then lose
        for file in (pixels_file, sizes_file):
            file.flush()
            os.fsync(file.fileno())
    return bad


def _as_is(item: tuple[Any, str]) -> tuple[Any, str]:
    return item


def _labelled(images: str, split: str) -> ImageSource | None:
    """The same images with their labels, or None where they have none."""
    from pretrain.images import open_images

    try:
        return open_images(images, labels=True, split=split)
    except UserError as error:
        print(f"the cache will have no labels: {error}", file=sys.stderr)
        return None


def _read_plan(cache: Path) -> dict | None:
    import json

    path = cache / PLAN
    return json.loads(path.read_text()) if path.exists() else None


def _check_same(cache: Path, existing: dict | None, plan: dict) -> None:
    for key, value in plan.items():
        if existing is not None and existing.get(key, value) != value:  # earlier versions recorded no times
            origin = {
                "files_fingerprint": "of other images",
                "times_fingerprint": "of these images before they were changed or copied",
            }.get(key, f"with --shorter-side {existing[key]}")
            raise UserError(f"{cache} holds a cache {origin}; choose another folder or remove that one")


def console() -> None:
    """The command ``gap-cache-images``."""
    run_entry(main)


if __name__ == "__main__":
    console()
