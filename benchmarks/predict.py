"""Images per second of transfer/predict.py against the evaluation of the same detector, in turns.

    python benchmarks/predict.py RUN [--data NAME] [--images 100] [--repeat 5]

RUN is a run folder of the embedded engine, NAME a data set (the first of DATASETS.TEST). "predict" writes COCO results
and no pictures, as for a data set; "pictures" draws every image too. Both sides read the same image files in as many
processes, with the model loaded before; above 1 predict is faster. Ratios are medians over neighbouring turns, with the
lowest and the highest.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.apart import measure
from runtime.errors import run_entry


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or ``words``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--data", metavar="NAME", help="a data set (default: the first of DATASETS.TEST)")
    parser.add_argument("--images", type=int, default=100, metavar="N")
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    return parser.parse_args(words)


def build_turns(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Callable[[], Any]], int, str]:
    """The three passes over the images, the number of these, and a line on what they are."""
    from runtime.stop import StopSignal
    from transfer.data.catalog import get_dataset
    from transfer.data.loader import build_test_loader
    from transfer.engines.torchvision.detection import detect_dataset
    from transfer.engines.torchvision.engine import trained_model
    from transfer.engines.torchvision.run import detector_of
    from transfer.engines.training.batches import build_mapper
    from transfer.predict import Prediction, category_ids
    from transfer.prediction.detector import Detector
    from transfer.prediction.sources import find_images

    detector = Detector.load(args.run, engine="torchvision")
    cfg = detector.cfg
    name = args.data or cfg.DATASETS.TEST[0]
    records = get_dataset(name).records()[: args.images]
    count, workers = len(records), cfg.DATALOADER.NUM_WORKERS
    model, detect = detector_of(cfg, trained_model(cfg, args.run / "model_final.pth"))

    def evaluation() -> Any:
        feed = build_test_loader(
            records=records, mapper=build_mapper(cfg, train=False), rank=0, world=1, num_workers=workers
        )
        return detect_dataset(model, feed, name, cfg.MODEL.MASK_ON, detect)

    def predict(pictures: int) -> None:
        found = find_images([name])
        images = replace(found, records=itertools.islice(found.records, count), count=count)
        prediction = Prediction(
            detector,
            ids=category_ids(detector, images),
            folder=folder,
            lines=False,
            score=0.0,
            pictures=pictures,
            strict=True,
        )
        with StopSignal() as stop:
            prediction.run(images, batch=1, workers=workers, stop=stop)

    turns = {"evaluation": evaluation, "predict": lambda: predict(0), "pictures": lambda: predict(count)}
    what = f"{count} images of {name}, short side {cfg.INPUT.MIN_SIZE_TEST}, {workers} workers"
    return turns, count, what


def main() -> int:
    """Print the table."""
    args = parse()
    import torch

    from runtime.provenance import hardware

    with tempfile.TemporaryDirectory() as folder:
        turns, images, what = build_turns(args, Path(folder))
        print(f"{hardware()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
        print(f"{what}, median of {args.repeat} turns")
        seconds: dict[str, list[float]] = {name: [] for name in turns}
        for turn in range(args.repeat + 1):
            for name, run in turns.items():
                wall = measure(run).wall
                if turn:  # the first turn warms up
                    seconds[name].append(wall)
    for name, walls in seconds.items():
        ratios = sorted(base / wall for base, wall in zip(seconds["evaluation"], walls))
        spread = f"x{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name:12} {images / statistics.median(walls):8.2f} images/s   {spread}")
    return 0


if __name__ == "__main__":
    run_entry(main)
