"""The embedded engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime.distributed import rank_count
from runtime.stop import StopSignal
from transfer.engines.protocol import AfterEval, DetectStream, TrainSummary
from transfer.engines.torchvision.builder import build_model
from transfer.engines.torchvision.detection import detect_images
from transfer.engines.torchvision.model.rcnn import ImageDetector
from transfer.engines.torchvision.run import Run, detect_named, detector_of, place, prepare_device
from transfer.engines.torchvision.support import check_support
from transfer.engines.training.world_size import scale_to_processes
from transfer.engines.weights.loading import load_weights
from transfer.evaluate.detections import Detections


class TorchvisionEngine:
    """Detectron2's detectors and training, with equal results, on torch and torchvision operators."""

    name = "torchvision"

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that results depend on."""
        return {package: metadata.version(package) for package in ("torch", "torchvision", "fvcore")}

    def check(self, cfg: Any) -> None:
        """Raise UserError for the first setting that this engine would not honour."""
        check_support(cfg)

    def train(
        self,
        cfg: Any,
        folder: Path,
        *,
        resume: bool = False,
        stop: StopSignal | None = None,
        after_eval: AfterEval | None = None,
        settings: Mapping[str, Any] | None = None,
        evaluated: Collection[int] = (),
    ) -> TrainSummary:
        """See ``transfer.engines.protocol.Engine.train``."""
        return Run(scale_to_processes(cfg, rank_count()), Path(folder), settings).train(
            resume, stop, after_eval, evaluated
        )

    def detect(self, cfg: Any, weights: Path, dataset: str) -> Detections:
        """See ``transfer.engines.protocol.Engine.detect``."""
        return detect_named(cfg, trained_model(cfg, weights), dataset)

    def open_detector(self, cfg: Any, weights: Path) -> DetectStream:
        """See ``transfer.engines.protocol.Engine.open_detector``."""
        model, detector = detector_of(cfg, trained_model(cfg, weights))
        return partial(detect_images, model, detector=detector)


def trained_model(cfg: Any, weights: Path) -> ImageDetector:
    """The detector of a config with trained weights, on its device. Raises UserError where they do not fit."""
    device = prepare_device(cfg)
    model = build_model(cfg)
    load_weights(model, weights, trained=True)
    return place(cfg, model, device)
