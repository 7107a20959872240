"""A trained detector for new images, from Python."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import UserError
from transfer.prediction.detected_image import DetectedImage

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from transfer.engines.protocol import DetectStream, Engine
    from transfer.records.classes import Classes

Unreadable = Callable[[str, str], None]  # (path, reason)
Item = dict[str, Any]


class Detector:
    """A trained detector: ``Detector.load("runs/x")("photo.jpg").boxes``."""

    def __init__(self, cfg: CfgNode, engine: Engine, detect: DetectStream, classes: Classes) -> None:
        """``detect`` is what ``engine`` opened for ``cfg``; see ``load``."""
        from transfer.engines.training.batches import build_mapper

        self.cfg, self.engine, self.classes = cfg, engine, classes
        self._detect, self._mapper = detect, build_mapper(cfg, train=False)

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        *,
        config: str | os.PathLike[str] | None = None,
        engine: str = "auto",
        device: str | None = None,
        classes: str | os.PathLike[str] | None = None,
    ) -> Detector:
        """The detector of ``run``: a run folder of this project or of Detectron2, or a file of a detector's weights.

        ``config``: instead of the config.yaml beside the weights. ``engine``: auto (the one that trained the run),
        torchvision or detectron2. ``device``: cuda or cpu (the config's; cuda becomes cpu where there is no GPU).
        ``classes``: a file with the names of the classes, see ``transfer.records.classes.read_classes``. Raises
        UserError for missing files, weights that do not fit the config, and settings that the engine does not honour.
        """
        from transfer.config import load_config
        from transfer.engines.training.choices import finds_proposals
        from transfer.prediction.run_files import choose_engine, find_classes, find_files

        files = find_files(run, config)
        cfg = load_config(files.config)
        if device is not None:
            cfg.MODEL.DEVICE = device
        cfg.OUTPUT_DIR = str(files.folder)
        if cfg.MODEL.LOAD_PROPOSALS:
            raise UserError("MODEL.LOAD_PROPOSALS: a detector without its own proposals cannot be shown new images")
        if finds_proposals(cfg):
            raise UserError(
                "MODEL.META_ARCHITECTURE ProposalNetwork finds proposals, not objects with a class; use a detector, or "
                "train_net.py --eval-only for the proposals of a data set"
            )
        chosen = choose_engine(engine, files.folder)
        check_detector(cfg, chosen)
        cfg.freeze()
        names = find_classes(cfg, files.folder, classes)
        return cls(cfg, chosen, chosen.open_detector(cfg, files.weights), names)

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, in the order of ``DetectedImage.classes``."""
        return self.classes.names

    def __call__(self, image: Any, *, score: float = 0.0) -> DetectedImage:
        """Detections of at least ``score`` in one image: a path, a PIL image or a uint8 array in RGB order.

        An array is height x width x 3, or height x width for grey values. The detector itself leaves out scores below
        MODEL.ROI_HEADS.SCORE_THRESH_TEST. Raises UserError for a file that cannot be read and for any other input.
        """
        return next(self.stream([image], score=score))

    def stream(
        self,
        images: Iterable[Any],
        *,
        score: float = 0.0,
        batch: int = 1,
        workers: int = 0,
        unreadable: Unreadable | None = None,
    ) -> Iterator[DetectedImage]:
        """Detections of one image after the other, in order; memory does not grow with their number.

        ``images``: as for a call, or records with file_name and image_id; others are numbered from 1. ``batch``: how
        many consecutive images of one size in the network share a batch; with 1, the detections are those of an
        evaluation, bit for bit. ``workers``: processes that read images ahead, 0 reads none ahead. ``unreadable`` is
        called with path and reason of each image that cannot be read; without it, that is a UserError.
        """
        pending: deque[Item] = deque()
        items = self._items(images, workers, unreadable)
        for image_id, boxes, scores, classes, runs, *points in self._detect(_batches(items, batch, pending)):
            item = pending.popleft()
            found = DetectedImage(
                item.get("file_name"),
                image_id,
                item["height"],
                item["width"],
                boxes,
                scores,
                classes,
                self.class_names,
                runs,
                points[0] if points else None,
            )
            yield found.above(score)

    def _items(self, images: Iterable[Any], workers: int, unreadable: Unreadable | None) -> Iterator[Item]:
        from transfer.data.loader import stream_items

        records = ({"image_id": k, **_record(image)} for k, image in enumerate(images, 1))
        for record, item in stream_items(records, self._mapper, num_workers=workers):
            if not isinstance(item, str):
                yield item
            elif unreadable is None:
                raise UserError(item)
            else:
                unreadable(str(record.get("file_name", f"image {record['image_id']}")), item)


def check_detector(cfg: CfgNode, engine: Engine) -> None:
    """Raise UserError for settings that ``engine`` does not honour or that no detector can have."""
    from transfer.engines.training.checks import check_values

    engine.check(cfg)
    check_values(cfg, 1, train=False)


def _record(image: Any) -> dict[str, Any]:
    """The record of an image in any of the forms that ``Detector.stream`` takes."""
    if isinstance(image, dict):
        return {key: image[key] for key in ("file_name", "image_id", "height", "width") if key in image}
    if isinstance(image, str | Path) or hasattr(image, "__fspath__"):
        return {"file_name": os.fspath(image)}
    return {"pixels": image}


def _batches(items: Iterable[Item], size: int, pending: deque[Item]) -> Iterator[list[Item]]:
    """Batches of consecutive items of one shape, so that none is padded for another; each item goes to ``pending``.

    A full batch does not wait for the next item: an image that arrives alone is answered at once.
    """
    batch: list[Item] = []
    for item in items:
        if batch and item["image"].shape != batch[0]["image"].shape:
            yield batch
            batch = []
        batch.append(item)
        pending.append({key: item[key] for key in ("file_name", "height", "width") if key in item})
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
