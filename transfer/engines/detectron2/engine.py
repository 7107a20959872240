"""The engine around the real Detectron2, which only the modules of this package import."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Collection, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from runtime.distributed import rank, rank_count
from runtime.errors import UserError
from runtime.seeds import seed_everything
from runtime.stop import StopSignal
from transfer.engines.protocol import AfterEval, DetectStream, TrainSummary
from transfer.engines.training.checks import check_schedule
from transfer.engines.training.device import choose_device, set_arithmetic
from transfer.engines.training.world_size import scale_to_processes

if TYPE_CHECKING:
    from transfer.evaluate.detections import Detections


class Detectron2Engine:
    """Detectron2's models, trainer and checkpointer on the shared data sets."""

    name = "detectron2"

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that results depend on."""
        return {package: metadata.version(package) for package in ("detectron2", "torch", "torchvision", "fvcore")}

    def check(self, cfg: Any) -> None:
        """Raise UserError for this project's own keys and for settings with which Detectron2 cannot run."""
        from transfer.engines.detectron2.support import check_support

        check_support(cfg)
        if rank_count() > 1 and choose_device(cfg.MODEL.DEVICE).type == "cpu":
            raise UserError(
                "engine detectron2 needs GPUs to train in several processes; use --engine torchvision on CPUs"
            )

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
        import transfer.engines.detectron2.heads  # noqa: F401 (registers this project's heads)
        from transfer.engines.detectron2.trainer import StoppedEarly, Trainer

        began = time.perf_counter()
        _join_local_group()
        # Detectron2's trainer scales the schedule itself, but only after the data loader has been built
        own = detectron2_config(scale_to_processes(cfg, rank_count()), folder)
        check_schedule(own, rank_count())
        process_seed = cfg.SEED + rank() if cfg.SEED >= 0 else random.SystemRandom().randrange(2**31)
        set_arithmetic(cfg)
        seed_everything(process_seed)
        trainer = Trainer(
            own,
            process_seed,
            lambda: stop is not None and stop.requested,
            lambda model, done: _evaluate(own, model, done, after_eval),
        )
        trainer.settings, trainer.evaluated = settings, evaluated
        trainer.begin(Path(folder), resume)
        start = trainer.start_iter
        stopped = False
        try:
            trainer.train()
        except StoppedEarly:
            stopped = True
        trainer.frozen.check()
        done = trainer.iter + 1 if stopped else own.SOLVER.MAX_ITER
        seconds = time.perf_counter() - began
        memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
        sha256 = trainer.frozen.sha256
        return TrainSummary(done, seconds, seconds / max(done - start, 1), stopped, memory, sha256)

    def detect(self, cfg: Any, weights: Path, dataset: str) -> Detections:
        """See ``transfer.engines.protocol.Engine.detect``."""
        from transfer.engines.detectron2.detection import detect_dataset

        own, model = _trained_model(cfg, weights)
        return detect_dataset(own, model, dataset)

    def open_detector(self, cfg: Any, weights: Path) -> DetectStream:
        """See ``transfer.engines.protocol.Engine.open_detector``."""
        from transfer.engines.detectron2.detection import detect_images

        return partial(detect_images, *_trained_model(cfg, weights))


def _trained_model(cfg: Any, weights: Path) -> tuple[Any, torch.nn.Module]:
    """Detectron2's own config, and the model with the weights of a trained detector."""
    from detectron2.modeling import build_model

    import transfer.engines.detectron2.heads  # noqa: F401 (registers this project's heads)
    from transfer.engines.weights.loading import load_weights

    own = detectron2_config(cfg, Path(cfg.OUTPUT_DIR))
    set_arithmetic(cfg)
    model = build_model(own)
    load_weights(model, weights, trained=True)
    return own, model


def detectron2_config(cfg: Any, folder: Path) -> Any:
    """``cfg`` as Detectron2's own config, without this project's keys."""
    from detectron2.config import get_cfg

    from transfer.engines.detectron2.backbones import add_keys

    shared = cfg.clone()
    shared.defrost()
    shared.pop("ENGINE", None)
    own = add_keys(get_cfg())
    own.merge_from_other_cfg(shared)
    own.OUTPUT_DIR = str(folder)
    own.TEST.EXPECTED_RESULTS = []  # checked outside the engines; Detectron2's trainer would check its own evaluation
    own.MODEL.DEVICE = choose_device(cfg.MODEL.DEVICE).type
    return own


def _join_local_group() -> None:
    """Create the group of this machine's processes, as Detectron2's launcher does in every process."""
    from detectron2.utils import comm

    if rank_count() > 1 and comm._LOCAL_PROCESS_GROUP is None:
        comm.create_local_process_group(int(os.environ.get("LOCAL_WORLD_SIZE", rank_count())))


def _evaluate(cfg: Any, model: Any, done: int, after_eval: AfterEval | None) -> Any:
    if after_eval is None:
        return None
    from transfer.engines.detectron2.detection import detect_dataset

    detections = {name: detect_dataset(cfg, model, name) for name in cfg.DATASETS.TEST}
    return after_eval(done, detections) if rank() == 0 else None
