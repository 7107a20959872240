"""Detectron2's DefaultTrainer with exact resume, stop signals and this project's evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter, JSONWriter, TensorboardXWriter

from runtime.atomic import write_text
from runtime.logs import get_logger
from runtime.metrics import cut_metrics
from runtime.seeds import rng_state, set_rng_state
from runtime.torch_files import save_torch
from transfer.data.loader import draw_base_seed
from transfer.engines.detectron2.data import ResumableBatches
from transfer.engines.torchvision.model.focal_loss import skip_first_call
from transfer.engines.training.batches import TrainingFeed
from transfer.engines.training.evaluation import is_evaluation_due, is_evaluation_missing
from transfer.engines.training.failures import (
    ONE_VALUE,
    check_length,
    different_config,
    non_finite_loss,
    one_value_per_channel,
)
from transfer.engines.training.frozen_backbone import FrozenBackbone
from transfer.engines.training.precise_bn import PreciseBatchNorm
from transfer.engines.training.ranks import any_rank, gather_objects
from transfer.engines.weights.checkpoints import OWN_KEY, POINTER, SETTINGS_KEY, checkpoint_name, load_latest
from transfer.engines.weights.loading import load_weights


class StoppedEarly(BaseException):
    """Ends Detectron2's loop after a stop signal. Not an Exception, which the loop would log as a failure."""


class Trainer(DefaultTrainer):
    """DefaultTrainer on the shared batches; ``process_seed`` is the seed of this process's generators."""

    def __init__(self, cfg: Any, process_seed: int, stop_requested: Callable[[], bool], evaluate: Any) -> None:
        self.process_seed, self.stop_requested, self.evaluate = process_seed, stop_requested, evaluate
        self.feed = TrainingFeed(cfg, comm.get_rank(), comm.get_world_size(), process_seed)
        self.batches = ResumableBatches(self.feed)
        self.precise_bn: PreciseBatchNorm | None = None
        self.random_state: dict[str, Any] | None = None
        self.settings: Mapping[str, Any] | None = None  # stored in every checkpoint
        self.evaluated: Collection[int] = ()  # iterations whose evaluation is in the history
        # DefaultTrainer gets its loader from this class method; an instance attribute replaces it
        self.build_train_loader = lambda cfg: self.batches
        super().__init__(cfg)

    def begin(self, folder: Path, resume: bool) -> None:
        """Resume from the newest readable checkpoint of ``folder``, or load MODEL.WEIGHTS; then open the log."""
        latest = load_latest(folder) if resume else None
        model: Any = getattr(self.model, "module", self.model)
        if latest is None:
            if self.cfg.MODEL.WEIGHTS:
                load_weights(model, self.cfg.MODEL.WEIGHTS)
        else:
            self._restore(model, *latest)
        self.frozen = FrozenBackbone(self.cfg, model, latest and latest[1].get(OWN_KEY))
        if self.batches.worker_seed < 0:
            self.batches.worker_seed = draw_base_seed()
        if comm.is_main_process():
            self.register_hooks([hooks.PeriodicWriter(self._writers(folder), period=20)])
        self.register_hooks([StopHook(self)])

    def _writers(self, folder: Path) -> list[EventWriter]:
        """Detectron2's writers. What an interrupted run logged after the checkpoint is dropped: it is logged again."""
        folder.mkdir(parents=True, exist_ok=True)
        metrics = folder / "metrics.json"
        cut_metrics(metrics, self.start_iter)
        board = TensorboardXWriter(str(folder), purge_step=self.start_iter)
        return [CommonMetricPrinter(self.max_iter), JSONWriter(str(metrics)), board]

    def _restore(self, model: torch.nn.Module, name: str, content: dict[str, Any]) -> None:
        folder = Path(self.cfg.OUTPUT_DIR)
        try:
            model.load_state_dict(content["model"])
            self.load_state_dict(content["trainer"])
            self.start_iter = int(self.iter) + 1
            exactly = self._restore_stream(content.get(OWN_KEY))
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise different_config(folder / name, error) from error
        check_length(folder / name, self.start_iter, self.max_iter)
        get_logger(__name__).info("resuming from %s at iteration %d", name, self.start_iter)
        if not exactly:
            get_logger(__name__).warning("%s: the order of images restarts", name)

    def _restore_stream(self, exact: dict[str, Any] | None) -> bool:
        """Restore random states and stream position; returns False if the checkpoint has none for these ranks."""
        if exact is None or len(exact["rng"]) != comm.get_world_size():
            return False
        own = exact["rng"][comm.get_rank()]
        restore_loss_state(self.model, own.get("model", {}))
        self.random_state = own["state"]
        self.batches.start, self.batches.worker_seed = self.start_iter, own["worker_seed"]
        if self.precise_bn is not None:
            self.precise_bn.position = self.batches.precise_bn_start = exact["precise_bn_position"]
        self.feed.process_seed = own["process_seed"]
        return True

    def before_train(self) -> None:
        """Make up an interrupted evaluation, and restore the random state last: all before has drawn from it."""
        super().before_train()
        if is_evaluation_missing(self.cfg, self.start_iter, self.evaluated):
            self.storage.iter = self.start_iter - 1  # the iteration after which it was due
            self.evaluate_model()
            self.storage.iter = self.start_iter
        if self.random_state is not None:
            set_rng_state(self.random_state)

    def evaluate_model(self) -> None:
        """Evaluate the model as it is; the random streams of training do not change."""
        state = rng_state()
        for name, value in (self.evaluate(self.model, self.storage.iter + 1) or {}).items():
            self.storage.put_scalar(name, value, smoothing_hint=False)
        set_rng_state(state)

    def run_step(self) -> None:
        """One step; a loss that is not finite raises NonFiniteLoss with iteration and images before the update."""
        try:
            super().run_step()
        except FloatingPointError as error:
            raise non_finite_loss(self.iter, self._image_ids(), error) from error
        except ValueError as error:
            if ONE_VALUE not in str(error):
                raise
            raise one_value_per_channel(self.iter, self._image_ids(), error) from error

    def _image_ids(self) -> list[str]:
        return [str(item.get("image_id")) for item in self.batches.last]

    def save(self, name: str) -> None:
        """Write a checkpoint with the random state of all ranks, whole or not at all; call it on every rank."""
        own = {
            "state": rng_state(),
            "process_seed": self.process_seed,
            "worker_seed": self.batches.worker_seed,
            "model": loss_state(self.model),
        }
        exact = {
            "rng": gather_objects(own),
            "precise_bn_position": self.precise_bn.position if self.precise_bn else 0,
            **self.frozen.entry(),
        }
        if comm.is_main_process():
            parts = {key: part.state_dict() for key, part in self.checkpointer.checkpointables.items()}
            folder, model = Path(self.cfg.OUTPUT_DIR), self.checkpointer.model.state_dict()
            own_entries = {OWN_KEY: exact, SETTINGS_KEY: None if self.settings is None else dict(self.settings)}
            save_torch({"model": model, **parts, "iteration": self.iter, **own_entries}, folder / name)
            write_text(folder / POINTER, name)
        comm.synchronize()  # no rank reads the file before it is complete

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks in its order, with checkpoints, precise batch norm and evaluation of this project."""
        cfg = self.cfg
        if cfg.TEST.PRECISE_BN.ENABLED:
            iterations = cfg.TEST.PRECISE_BN.NUM_ITER
            self.precise_bn = PreciseBatchNorm(self.model, self.batches.measuring, iterations=iterations)
        built: list[HookBase] = [hooks.IterationTimer(), hooks.LRScheduler(), AfterStep(self)]
        return built  # ``begin`` adds the writers, which need to know the first iteration, and the stop


def loss_state(model: Any) -> dict[str, Any]:
    """What Detectron2's RetinaNet keeps of past batches, under the embedded engine's name, and its checkpoints lack."""
    value = getattr(getattr(model, "module", model), "loss_normalizer", None)
    return {} if value is None else {"loss_normalizer": value}


def restore_loss_state(model: Any, state: Mapping[str, Any]) -> None:
    """Continue with what ``loss_state`` returned."""
    if "loss_normalizer" in state:
        getattr(model, "module", model).loss_normalizer = state["loss_normalizer"]
        skip_first_call()


class AfterStep(HookBase):
    """Precise batch norm, checkpoint, evaluation."""

    def __init__(self, owner: Trainer) -> None:
        self.owner = owner

    def after_step(self) -> None:
        """Run what is due after this iteration."""
        owner, done = self.owner, self.owner.iter + 1
        due, last = is_evaluation_due(owner.cfg, done), done == owner.max_iter
        if owner.precise_bn is not None and (due or last):
            with EventStorage():  # discards what the forward passes record: it belongs to no iteration
                owner.precise_bn.update()
        if done % owner.cfg.SOLVER.CHECKPOINT_PERIOD == 0:
            owner.save(checkpoint_name(owner.iter))
        if last:
            owner.save(checkpoint_name(owner.iter, final=True))
        elif due:
            owner.evaluate_model()


class StopHook(HookBase):
    """Ends the loop after a stop signal to any rank, with a checkpoint. Last, so that the metrics are written."""

    def __init__(self, owner: Trainer) -> None:
        self.owner = owner

    def after_step(self) -> None:
        """Save and stop the loop when a signal has arrived."""
        owner = self.owner
        if any_rank(owner.stop_requested(), torch.device(owner.cfg.MODEL.DEVICE)) and owner.iter + 1 < owner.max_iter:
            owner.save(checkpoint_name(owner.iter))
            raise StoppedEarly
