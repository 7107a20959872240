"""Show a trained detector new images.

    python transfer/predict.py RUN IMAGES... --score 0.5

RUN is a run folder of this project or of Detectron2, or a file with a detector's weights beside its config.yaml. IMAGES
are images, folders, patterns, lists (.txt, a path a line), - for such lines on standard input, or a data set
(coco:ANNOTATIONS.json:IMAGES, coco_2017_test-dev ...). Writes COCO results, and pictures with what was found.

In Python: ``from transfer.predict import Detector; Detector.load("runs/x")("photo.jpg").boxes``.
"""

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.arguments import positive, whole
from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry
from runtime.listing import counted
from transfer.prediction.detector import Detector

if TYPE_CHECKING:
    from runtime.stop import StopSignal
    from transfer.prediction.detected_image import DetectedImage
    from transfer.prediction.output import PictureQueue, ResultsFolder
    from transfer.prediction.sources import Images

__all__ = ["Detector", "console", "main"]
SCORE = 0.5  # of detections that are written and drawn, unless all are wanted for an evaluation


def parse() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file with a detector's weights")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="images, folders, patterns, lists, - or a data set")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default RUN/predict)")
    parser.add_argument(
        "--score",
        type=float,
        metavar="S",
        help=f"leave out detections below this score (default {SCORE}; of a data set, all are written)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a line of JSON per image; write files only with --output"
    )
    parser.add_argument(
        "--pictures", type=whole, metavar="N", help="draw the first N images (default: all; of a data set, none)"
    )
    parser.add_argument("--strict", action="store_true", help="stop at an image that cannot be read, and write nothing")
    parser.add_argument("--classes", metavar="FILE", help="names of the classes: a COCO file, or .txt with one a line")
    parser.add_argument("--config-file", metavar="FILE", help="instead of config.yaml beside the weights")
    parser.add_argument("--engine", default="auto", choices=("auto", "detectron2", "torchvision"))
    parser.add_argument("--device", choices=("cuda", "cpu"), help="instead of the config's")
    parser.add_argument(
        "--batch", type=positive, default=1, metavar="N", help="images of one size that share a batch (1)"
    )
    parser.add_argument("--workers", type=whole, metavar="N", help="processes that read images (default: the config's)")
    args = parser.parse_intermixed_args()
    if args.score is not None and not 0 <= args.score <= 1:
        parser.error("--score must be between 0 and 1")
    if args.json and args.pictures and not args.output:
        parser.error("--json writes no pictures without --output")
    return args


def main() -> int:
    """Detect, write, and say what was written; exit code 2 if an image could not be read."""
    args = parse()
    from runtime.stop import StopSignal
    from transfer.prediction.sources import find_images

    images = find_images(args.images)
    detector = Detector.load(
        args.run, config=args.config_file, engine=args.engine, device=args.device, classes=args.classes
    )
    whole_set = images.dataset is not None
    prediction = Prediction(
        detector,
        ids=category_ids(detector, images),
        folder=None if args.json and not args.output else args.output or default_folder(Path(args.run).expanduser()),
        lines=args.json,
        score=args.score if args.score is not None else 0.0 if whole_set else SCORE,
        pictures=args.pictures if args.pictures is not None else 0 if whole_set else sys.maxsize,
        strict=args.strict,
    )
    workers = args.workers if args.workers is not None else 0 if images.live else detector.cfg.DATALOADER.NUM_WORKERS
    with StopSignal() as stop:
        prediction.run(images, batch=args.batch, workers=workers, stop=stop)
    print("\n".join(prediction.summary(stop)), file=sys.stderr if args.json else sys.stdout)
    if stop.requested:
        return stop.exit_code
    if prediction.unreadable:
        raise UserError(prediction.unreadable_line())
    return 0


def default_folder(run: Path) -> Path:
    """RUN/predict; for a file of weights, predict/ beside it."""
    return (run if run.is_dir() else run.parent) / "predict"


def category_ids(detector: Detector, images: "Images") -> list[Any]:
    """Contiguous class -> category id of results: a data set's own; raises UserError if its classes are others."""
    if images.dataset is None or not images.dataset.class_names:
        return list(detector.classes.ids)
    names, count = images.dataset.class_names, len(detector.class_names)
    if len(names) != count:
        raise UserError(
            f"data set {images.dataset.name} has {counted(len(names), 'class', 'classes')}, the detector has {count}"
        )
    wrong = [(a, b) for a, b in zip(detector.class_names, names) if a != b and a != f"class {names.index(b)}"]
    if wrong:
        raise UserError(
            f"data set {images.dataset.name} has other classes than the detector: {wrong[0][1]!r} in the place of "
            f"{wrong[0][0]!r}"
        )
    return list(images.dataset.category_ids)


class Prediction:
    """One pass of a detector over images: what it writes and counts on the way."""

    def __init__(
        self,
        detector: Detector,
        *,
        ids: list[Any],
        folder: Path | None,
        lines: bool,
        score: float,
        pictures: int,
        strict: bool,
    ) -> None:
        """``ids``: category id of each class. ``folder`` None writes no files. ``pictures``: how many are drawn."""
        self.detector, self.ids, self.folder, self.lines = detector, ids, folder, lines
        self.score, self.pictures, self.strict = score, pictures if folder is not None else 0, strict
        self.images = self.detections = self.drawn = 0
        self.seconds = 0.0
        self.unreadable: list[str] = []

    def run(self, images: "Images", *, batch: int, workers: int, stop: "StopSignal") -> None:
        """Detect to the end, or to a stop signal: then the files hold what was done."""
        from tqdm import tqdm

        from transfer.prediction.output import PictureQueue

        names: dict[Any, str] = {}

        def named() -> Any:
            for record in images.records:
                if stop.requested:
                    return
                if self.pictures > 0:
                    names[record["image_id"]] = record["name"]
                yield record

        found = self.detector.stream(
            named(), score=self.score, batch=batch, workers=workers, unreadable=None if self.strict else self._note
        )
        began = time.perf_counter()
        with self._results() as results:
            with PictureQueue() as pictures:
                for one in tqdm(found, "detect", images.count, disable=None):
                    self.images += 1
                    self.detections += len(one)
                    if results is not None:
                        results.add(one)
                    if self.lines:
                        self._print(one)
                    name = names.pop(one.image_id, None)
                    if name is not None and self.drawn < self.pictures:
                        self._draw(one, name, pictures)
            self.seconds = time.perf_counter() - began
            if not self.images and not stop.requested:
                raise UserError(self.unreadable_line() if self.unreadable else "no image was named on standard input")

    def _results(self) -> "contextlib.AbstractContextManager[ResultsFolder | None]":
        if self.folder is None:
            return contextlib.nullcontext()
        from transfer.prediction.output import ResultsFolder
        from transfer.records.classes import Classes

        categories = Classes(tuple(self.detector.class_names), tuple(self.ids)).categories()
        return ResultsFolder(self.folder, self.ids, categories)

    def _print(self, found: "DetectedImage") -> None:
        from transfer.prediction.output import json_line

        print(json_line(found, self.ids), flush=True)

    def _draw(self, found: "DetectedImage", name: str, pictures: "PictureQueue") -> None:
        from transfer.prediction.output import PICTURES

        assert self.folder is not None
        pictures.add(found, self.folder / PICTURES / f"{name}.jpg")
        self.drawn += 1

    def _note(self, path: str, reason: str) -> None:
        self.unreadable.append(path)
        print(f"skipped: {reason}", file=sys.stderr)

    def unreadable_line(self) -> str:
        """The images that could not be read, for the error at the end."""
        from runtime.listing import listed

        total = self.images + len(self.unreadable)
        return f"{len(self.unreadable)} of {total} images could not be read: {listed(self.unreadable, 3)}"

    def summary(self, stop: "StopSignal") -> list[str]:
        """What was done, and where it is."""
        done, found = counted(self.images, "image", "images"), counted(self.detections, "detection", "detections")
        rate = self.images / max(self.seconds, 1e-9)
        at_least = f" with a score of at least {self.score:g}" if self.score else ""
        lines = [f"{done}, {found}{at_least}, {rate:.3g} images/s ({self.detector.engine.name})"]
        if self.folder is not None:
            from transfer.prediction.output import IMAGES, PICTURES, RESULTS

            pictures = (
                f" and {counted(self.drawn, 'picture', 'pictures')} in {self.folder / PICTURES}" if self.drawn else ""
            )
            lines.append(f"wrote {self.folder / RESULTS}, {IMAGES}{pictures}")
        if stop.requested:
            lines.append("stopped before the end: the files hold the images up to there")
        return lines


def console() -> None:
    """The command ``gap-predict``."""
    run_entry(main)


if __name__ == "__main__":
    console()
