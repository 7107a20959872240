"""One training run: built from the config, resumed, trained, saved."""

from __future__ import annotations

import inspect
import itertools
import random
import resource
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime.allocator import keep_freed_memory
from runtime.distributed import barrier, rank, rank_count
from runtime.logs import get_logger
from runtime.seeds import rng_state, seed_everything, set_rng_state
from runtime.stop import StopSignal
from transfer.config.protocol import CACHED
from transfer.data.loader import draw_base_seed
from transfer.engines.protocol import AfterEval, TrainSummary
from transfer.engines.torchvision import loop
from transfer.engines.torchvision.builder import build_model
from transfer.engines.torchvision.detection import Detector, detect_dataset
from transfer.engines.torchvision.feature_folder import SUBFOLDER, cache_entry, leave_earlier_cache, remove_caches
from transfer.engines.torchvision.frozen_features import frozen_features
from transfer.engines.torchvision.inference_arithmetic import detection_model, in_arithmetic
from transfer.engines.torchvision.inference_augmentation import AugmentedDetector
from transfer.engines.torchvision.model.box_head import FastRCNNOutputLayers
from transfer.engines.torchvision.model.rcnn import GeneralizedRCNN, ImageDetector
from transfer.engines.torchvision.training_metrics import Progress, logged_evaluations
from transfer.engines.training.batches import TrainingFeed, build_test_feed
from transfer.engines.training.device import choose_device, set_arithmetic
from transfer.engines.training.evaluation import is_evaluation_missing
from transfer.engines.training.failures import check_length, different_config
from transfer.engines.training.frozen_backbone import FrozenBackbone
from transfer.engines.training.precise_bn import PreciseBatchNorm
from transfer.engines.training.precision import Precision
from transfer.engines.training.ranks import any_rank, gather_objects
from transfer.engines.training.solver import CLIPPERS, build_solver
from transfer.engines.weights.checkpoints import OWN_KEY, checkpoint_name, load_latest, save_checkpoint
from transfer.engines.weights.loading import load_weights
from transfer.evaluate.detections import Detections


def prepare_device(cfg: Any) -> torch.device:
    """The device of MODEL.DEVICE, with the config's switches of its arithmetic set."""
    set_arithmetic(cfg)
    device = choose_device(cfg.MODEL.DEVICE)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def place(cfg: Any, model: ImageDetector, device: torch.device) -> ImageDetector:
    """``model`` on the device, in the memory format of ENGINE.CHANNELS_LAST."""
    model = model.to(device)
    return model.channels_last() if cfg.ENGINE.CHANNELS_LAST else model


def detect_named(cfg: Any, model: ImageDetector, dataset: str) -> Detections:
    """Detections of a data set by its name, augmented if TEST.AUG.ENABLED, in ENGINE.TEST_ARITHMETIC."""
    loader = build_test_feed(cfg, dataset, rank(), rank_count())
    model, detector = detector_of(cfg, model)
    return detect_dataset(model, loader, dataset, cfg.MODEL.MASK_ON, detector)


def detector_of(cfg: Any, model: ImageDetector) -> tuple[ImageDetector, Detector]:
    """The model to detect with, and what to call for it, by TEST.AUG and ENGINE.TEST_ARITHMETIC."""
    arithmetic, aug = cfg.ENGINE.TEST_ARITHMETIC, cfg.TEST.AUG
    model = detection_model(model, arithmetic)
    detector: Detector = model
    if aug.ENABLED:
        assert isinstance(model, GeneralizedRCNN)  # ``check_support`` refuses the others
        detector = AugmentedDetector(model, min_sizes=aug.MIN_SIZES, max_size=aug.MAX_SIZE, flip=aug.FLIP)
    return model, in_arithmetic(detector, arithmetic, model.pixel_mean.device)


class Run:
    """One training run in a folder. Building draws random numbers in Detectron2's order: seed, model, loader."""

    def __init__(self, cfg: Any, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.cfg, self.folder, self.settings = cfg, folder, settings
        self.device = prepare_device(cfg)
        self.process_seed = cfg.SEED + rank() if cfg.SEED >= 0 else random.SystemRandom().randrange(2**31)
        seed_everything(self.process_seed)
        self.model = place(cfg, build_model(cfg), self.device)
        self.optimizer, self.schedule = build_solver(cfg, self.model)
        self.precision = Precision(cfg.SOLVER.AMP.ENABLED, cfg.ENGINE.AMP_DTYPE, self.device)
        self.precise_bn_position, self.start, self.worker_seed = 0, 0, -1
        self.stored: dict[str, Any] | None = None  # the resumed checkpoint's entry for an exact resume
        self.windows: dict[str, list[float]] = {}

    def train(
        self,
        resume: bool,
        stop: StopSignal | None,
        after_eval: AfterEval | None,
        evaluated: Collection[int] = (),
    ) -> TrainSummary:
        """Train from the start or the newest checkpoint to the end or a stop signal."""
        cfg, began = self.cfg, time.perf_counter()
        exact = self._resume() if resume else None
        if exact is None and self.start == 0 and cfg.MODEL.WEIGHTS:
            load_weights(self.model, cfg.MODEL.WEIGHTS)
        self.frozen = FrozenBackbone(cfg, self.model, self.stored)
        model = self._wrapped()
        feed = self._feed()
        if self.worker_seed < 0:  # a new DataLoader iterator makes this draw
            self.worker_seed = draw_base_seed()
        batches, measuring = feed.streams(self.worker_seed, self.start, self.precise_bn_position)
        self.precise_bn = self._precise_bn(measuring)
        progress = self.progress = self._progress()
        events = loop.Events(
            save=self._save,
            evaluate=lambda iteration: self._evaluate(iteration, progress, after_eval),
            precise_bn=self.precise_bn.update if self.precise_bn else None,
            checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
            eval_period=cfg.TEST.EVAL_PERIOD,
        )
        if exact is not None:
            set_rng_state(exact)  # last: building the parts above drew from the generators
        try:
            if is_evaluation_missing(cfg, self.start, logged_evaluations(self.folder).intersection(evaluated)):
                events.evaluate(self.start - 1)
            done = loop.run(
                self._training(model),
                batches,
                events,
                progress,
                start=self.start,
                max_iter=cfg.SOLVER.MAX_ITER,
                stop_requested=lambda: stop is not None and stop.requested,
                device=self.device,
            )
        finally:
            progress.close()
        self._thaw(done)
        final = self.folder / checkpoint_name(0, final=True)
        if self.start >= cfg.SOLVER.MAX_ITER and any_rank(not final.exists(), self.device):
            self._save(done - 1, True)  # a resumed run with nothing left to train
        return self._summary(done, time.perf_counter() - began)

    def trial_steps(self) -> Iterator[float]:
        """Seconds of each iteration from the start, without end; nothing is saved, evaluated or logged."""
        self.frozen = FrozenBackbone(self.cfg, self.model, None)
        batches, _ = self._feed().streams(draw_base_seed(), 0, 0)
        training = self._training(self._wrapped())
        training.model.train()
        for iteration in itertools.count():
            began = time.perf_counter()
            training.schedule.set(iteration)
            training.step(next(batches), iteration)
            yield time.perf_counter() - began

    def _training(self, model: Any) -> loop.Training:
        """What an iteration needs of the run; ``model`` as it is wrapped for several processes."""
        clip = self.cfg.SOLVER.CLIP_GRADIENTS
        return loop.Training(
            model,
            self.optimizer,
            self.schedule,
            self.precision,
            (lambda parameters: CLIPPERS[clip.CLIP_TYPE](parameters, clip.CLIP_VALUE, clip.NORM_TYPE))
            if clip.ENABLED
            else (lambda parameters: None),
            self.cfg.ENGINE.ACCUMULATE,
        )

    def _progress(self) -> Progress:
        return Progress(self.folder if rank() == 0 else None, self.cfg.SOLVER.MAX_ITER, self.start, self.windows)

    def _thaw(self, done: int) -> None:
        """Check that a frozen backbone is unchanged. With nothing left to train, the run's own feature cache goes."""
        self.frozen.check()
        self.model.frozen_stages = None
        engine = self.cfg.ENGINE
        if done >= self.cfg.SOLVER.MAX_ITER and engine.FEATURES == CACHED and not engine.FEATURE_FOLDER:
            barrier()
            if rank() == 0:
                remove_caches(Path(self.cfg.OUTPUT_DIR) / SUBFOLDER)

    def _feed(self) -> TrainingFeed:
        """The training batches; a federated loss learns how many images have each class, a cache their sizes."""
        feed = TrainingFeed(self.cfg, rank(), rank_count(), self.process_seed)
        sizes = feed.options["records"].sizes
        if rank() == 0:
            leave_earlier_cache(self.cfg, self.stored)
        self.model.frozen_stages = frozen_features(self.cfg, self.model, self.frozen.sha256 or "", sizes)
        for module in self.model.modules():
            if isinstance(module, FastRCNNOutputLayers):
                module.count_images(feed.images_of_classes)
        return feed

    def _wrapped(self) -> nn.Module:
        if self.cfg.ENGINE.COMPILE:
            self.model.backbone.compile()
        if rank_count() == 1:
            return self.model
        parallel = nn.parallel.DistributedDataParallel
        # ranks keep their own running statistics between steps, as in Detectron2; newer torch renamed the option
        names = inspect.signature(parallel.__init__).parameters
        keep = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        devices = [self.device] if self.device.type == "cuda" else None
        return parallel(self.model, device_ids=devices, **{keep: False})  # type: ignore[arg-type]

    def _precise_bn(self, batches: Callable[[], Iterator[Any]]) -> PreciseBatchNorm | None:
        settings = self.cfg.TEST.PRECISE_BN
        if not settings.ENABLED:
            return None
        return PreciseBatchNorm(self.model, batches, iterations=settings.NUM_ITER, position=self.precise_bn_position)

    def _resume(self) -> dict[str, Any] | None:
        """Restore the newest checkpoint; returns this rank's random state if the run continues exactly."""
        latest = load_latest(self.folder)
        if latest is None:
            return None
        name, content = latest
        try:
            exact = self._restore(content)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise different_config(self.folder / name, error) from error
        check_length(self.folder / name, self.start, self.cfg.SOLVER.MAX_ITER)
        logger = get_logger(__name__)
        logger.info("resuming from %s at iteration %d", self.folder / name, self.start)
        if exact is None:
            logger.warning("%s has no random state for %d processes: the order of images restarts", name, rank_count())
        return exact

    def _restore(self, content: dict[str, Any]) -> dict[str, Any] | None:
        """Restore weights, optimiser and position; returns this rank's random state if the checkpoint has it."""
        trainer = content["trainer"]["_trainer"]
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(trainer["optimizer"])
        self.precision.load_state_dict(trainer.get("grad_scaler"))
        self.start = int(content["iteration"]) + 1
        exact = self.stored = content.get(OWN_KEY)
        if exact is None or len(exact["rng"]) != rank_count():
            return None
        own = exact["rng"][rank()]
        self.process_seed, self.worker_seed = int(own["process_seed"]), int(own["worker_seed"])
        self.precise_bn_position = int(exact["precise_bn_position"])
        # neither is in checkpoints of earlier versions
        self.model.load_training_state(own.get("model", {}))
        self.windows = {name: [float(v) for v in values] for name, values in exact.get("windows", {}).items()}
        state: dict[str, Any] = own["state"]
        return state

    def _save(self, iteration: int, final: bool) -> None:
        own = {
            "state": rng_state(),
            "process_seed": self.process_seed,
            "worker_seed": self.worker_seed,
            "model": self.model.training_state(),
        }
        exact = {
            "rng": gather_objects(own),
            "precise_bn_position": self.precise_bn.position if self.precise_bn else 0,
            "windows": self.progress.windows(),
            **self.frozen.entry(),
            **cache_entry(self.cfg),
        }
        if rank() == 0:
            save_checkpoint(
                self.folder,
                checkpoint_name(iteration, final),
                model=self.model,
                optimizer=self.optimizer,
                iteration=iteration,
                base_lrs=self.schedule.base_lrs,
                exact=exact,
                scaler=self.precision.state_dict(),
                settings=self.settings,
            )
        barrier()  # no rank reads the file before it is complete

    def _evaluate(self, iteration: int, progress: Progress, after_eval: AfterEval | None) -> None:
        if after_eval is None:
            return
        # evaluation must not change the random streams of training
        state = rng_state()
        detections = {name: detect_named(self.cfg, self.model, name) for name in self.cfg.DATASETS.TEST}
        if rank() == 0:
            progress.evaluation(iteration, after_eval(iteration + 1, detections) or {})
        set_rng_state(state)

    def _summary(self, done: int, seconds: float) -> TrainSummary:
        on_gpu = self.device.type == "cuda"
        memory = (
            torch.cuda.max_memory_allocated() / 2**20
            if on_gpu
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        )
        per_iteration = seconds / max(done - self.start, 1)
        stopped = done < self.cfg.SOLVER.MAX_ITER
        return TrainSummary(done, seconds, per_iteration, stopped, memory, self.frozen.sha256)
