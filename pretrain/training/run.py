"""One pretraining run: data, method, schedule, checkpoints and loop, put together from the settings."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.batches.loader import build_loader
from pretrain.images.source import ImageSource
from pretrain.methods.base import Method
from pretrain.methods.row import Sizes
from pretrain.settings.checks import check_settings, check_sizes, deciding
from pretrain.settings.values import Settings
from pretrain.training.checkpoint_checks import weights_sha256
from pretrain.training.checkpoints import CheckpointFolder, optimizer_state
from pretrain.training.e_step import e_step
from pretrain.training.findings import changed_since, collect, report
from pretrain.training.informed_epochs import InformedEpochs
from pretrain.training.knn_monitor import build_knn_monitor, run_probe
from pretrain.training.loop import Loop, Stepper
from pretrain.training.memory import Estimate, estimate
from pretrain.training.optimiser import build_optimizer
from pretrain.training.preparation import (
    machines,
    open_training_images,
    report_labels,
    timetable,
    training_views,
    usable_workers,
    with_precision,
)
from pretrain.training.recorder import Pace, Recorder
from pretrain.training.resume import Start, find_start
from pretrain.training.step_guard import StepGuard
from pretrain.training.trial_steps import seconds_of_steps, time_line
from pretrain.training.warnings_of_failure import HealthWatch
from pretrain.views import Views
from pretrain.views.batch import Batch
from runtime.allocator import keep_freed_memory
from runtime.atomic import write_text
from runtime.distributed import World, barrier
from runtime.findings import Finding
from runtime.logs import get_logger, setup_logging
from runtime.metrics import read_metrics
from runtime.provenance import provenance
from runtime.run_folder import RunLock
from runtime.seeds import derive_seed, rng_state, seed_everything
from runtime.stop import StopSignal

log = get_logger("pretrain")
HASH_FILE = "weights.sha256"
TERMINATED = 143  # 128 + SIGTERM: the exit code of a rank that stops because another one got the signal


def pretrain(settings: Settings, world: World) -> int:
    """Run or continue a pretraining; returns the exit code (0, or 128 + the signal that stopped it).

    Raises UserError for settings or data that cannot work, before anything is written.
    """
    check_settings(settings)
    settings = with_precision(settings, world.device.type)
    source = open_training_images(settings)
    global_batch = settings.optimisation.batch_size * machines(world)
    classes, parts = len(source.classes or []), settings.optimisation.accumulate
    per_epoch, optimisation = len(source) // global_batch, settings.optimisation
    total = optimisation.iterations or optimisation.epochs * per_epoch
    sizes = Sizes(len(source), classes, global_batch, per_epoch, parts, total)
    check_sizes(settings, sizes, world.size)
    labels, folder = report_labels(settings), settings.saving.folder
    if settings.dry_run:
        if world.is_main:
            print("\n".join(Run(settings, world, source, sizes).plan()))
        return 0
    with RunLock(folder) if world.is_main else nullcontext():
        setup_logging(folder if world.is_main else None, world.rank)
        return Run(settings, world, source, sizes, labels).run()


class Run:
    """The parts of one run that live as long as it does."""

    def __init__(
        self,
        settings: Settings,
        world: World,
        source: ImageSource,
        sizes: Sizes,
        labels: np.ndarray | None = None,
    ) -> None:
        """``labels``: class numbers of the images, for the method's report."""
        self.settings, self.world, self.source, self.sizes = settings, world, source, sizes
        self.labels = labels
        optimisation = settings.optimisation
        self.total_steps = sizes.total_steps
        seed_everything(derive_seed(settings.seed, "weights"))
        self.method: Method = settings.build_method(sizes).to(world.device)
        self.method.to(memory_format=torch.channels_last)  # BatchNorm 3x, bf16 convolutions faster still
        self.optimizer = build_optimizer(self.method.trained_parameters(), optimisation)
        self.checkpoints = CheckpointFolder(settings.saving.folder, sizes.steps_per_epoch, settings.saving.keep)
        self.recorded = deciding(settings, fingerprint=source.fingerprint, ranks=world.size)
        self.informed: InformedEpochs | None = None
        self.changes: list[dict[str, Any]] = []
        self.findings: list[Finding] = []

    def plan(self) -> list[str]:
        """What the run would do, as lines: steps, memory, time, findings. Takes a few steps to know the time."""
        views, device, memory = training_views(self.settings), self.world.device, self._memory()
        parts, on_device = self.settings.optimisation.accumulate, partial(views.on_device, device=device)
        batches = self._batches(views, 0)
        trial = partial(seconds_of_steps, self.method, self.optimizer, parts, batches, on_device, device)
        obstacle = "" if memory.fits else "the memory does not suffice"
        obstacle = "several processes" if self.world.size > 1 else obstacle
        return [
            f"steps: {self.total_steps} of {self.sizes.global_batch} images, {self.sizes.steps_per_epoch} an epoch",
            memory.line(),
            time_line(self.checkpoints.folder, self.sizes.global_batch, self.total_steps, trial, obstacle),
            *(f"finding: {finding.line()}" for finding in collect(self.settings, self.source, self.sizes)),
        ]

    def _memory(self) -> Estimate:
        workers = usable_workers(self.settings, self.world)
        return estimate(self.settings, self.sizes, self.world, self.method, workers)

    def run(self) -> int:
        """Resume where that is asked for, train, and say how it ended; returns the exit code."""
        parts = (self.checkpoints, self.method, self.optimizer)
        start = find_start(self.settings, *parts, self.recorded, self.source)
        self.changes = start.changes
        if start.step >= self.total_steps:
            self._finished_before(start)
            return 0
        self._prepare_choices(start)
        if self.world.is_main:
            self.findings = collect(self.settings, self.source, self.sizes)
            report(self.findings, self.settings.saving.folder)
        memory = self._memory()
        log.log(logging.INFO if memory.fits else logging.WARNING, memory.line())
        barrier()  # every rank has read its checkpoint before rank 0 may move the files
        if start.renumber and self.world.is_main:
            self.checkpoints.renumber(self._state_after(start.step))
        log.info(
            "%s %s on %d images of %s: %d steps of %d images%s, %d process(es) on %s",
            self.settings.method, self.settings.model.arch, len(self.source), self.settings.data.data,
            self.total_steps, self.sizes.global_batch, f" from step {start.step}" if start.step else "",
            self.world.size, self.world.device,
        )  # fmt: skip
        with StopSignal() as stop:
            done = self._train(start.step, stop)
        if done < self.total_steps:
            log.info("stopped by a signal after step %d of %d; add --resume to continue", done, self.total_steps)
            return stop.exit_code or TERMINATED
        log.info("finished: %s", self.checkpoints.name(self.total_steps))
        return 0

    def _prepare_choices(self, start: Start) -> None:
        """What choosing images and negatives needs: the scores of images, and class labels for a report."""
        row, options = self.settings.row, self.settings.options
        if (rule := row.sampling(options)) is not None:
            self.method.informed_by = rule.by
            self.informed = InformedEpochs(rule, self.source, self.settings.saving.folder, self.world)
            if start.step:
                self.informed.resume(start.checkpoint, start.same_images)
        if self.labels is not None:
            self.method.class_of = torch.from_numpy(self.labels).to(self.world.device)
        elif row.class_report(options):
            log.info("no labels: how many of the dropped pairs are of one class is not reported")

    def _finished_before(self, start: Start) -> None:
        folder = self.checkpoints.folder
        if self.world.is_main and not (folder / HASH_FILE).exists():  # killed between the last save and this file
            _write_hash(self.checkpoints.name(start.step), weights_sha256(self.method.export_state()))
        log.info("already finished: %d of %d steps are in %s", start.step, self.total_steps, folder)

    def _train(self, start: int, stop: StopSignal) -> int:
        """Build what the loop needs and run it; returns the number of steps done."""
        if self.world.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        else:
            keep_freed_memory()
        settings, device = self.settings, self.world.device
        views = training_views(settings)
        interrupted = self._probe_is_missing(start)  # read before the log is opened
        recorder = self._recorder(start)
        monitor = build_knn_monitor(settings, self.method.encoder_q, self.world, usable_workers(settings, self.world))
        guard = StepGuard(settings.saving.folder, settings.skip_nonfinite)
        loop = Loop(
            Stepper(
                self.method,
                self.optimizer,
                guard,
                settings.optimisation.accumulate,
                note=self.informed.note if self.informed else None,
            ),
            timetable(
                settings,
                self.total_steps,
                self.sizes.steps_per_epoch,
                probing=monitor is not None,
                global_batch=self.sizes.global_batch,
            ),
            recorder,
            save=self._save,
            probe=partial(run_probe, monitor, self.world),
            prepare=partial(
                e_step, self.method, settings, self.source, self.world, usable_workers(settings, self.world)
            ),
        )
        try:
            if interrupted and loop.timetable.probes_after(start):
                recorder.scalars(start, **loop.probe())
                recorder.pause()
            return loop.run(self._batches(views, start), lambda batch: views.on_device(batch, device), stop)
        finally:
            recorder.close()

    def _probe_is_missing(self, start: int) -> bool:
        """Whether the log of this folder has no probe after ``start`` steps: killed between checkpoint and probe."""
        log_file = self.settings.saving.folder / "metrics.json"
        if start == 0 or not log_file.is_file():
            return False
        return not any(record["iteration"] == start and "knn" in record for record in read_metrics(log_file))

    def _batches(self, views: Views, start: int) -> Iterable[Batch]:
        loader_of = partial(
            build_loader,
            self.source,
            views,
            batch_size=self.sizes.global_batch,
            seed=self.settings.seed,
            workers=usable_workers(self.settings, self.world),
            rank=self.world.rank,
            world_size=self.world.size,
            max_bad=self.settings.data.max_bad,
        )
        if self.informed is not None:
            return self.informed.batches(loader_of, start, self.total_steps, self.sizes.steps_per_epoch)
        return loader_of(start_step=start, stop_step=self.total_steps)

    def _recorder(self, start: int) -> Recorder:
        return Recorder(
            self.settings.saving.folder,
            Pace(self.settings.print_freq, self.sizes.global_batch, self.total_steps, self.sizes.steps_per_epoch),
            HealthWatch(self.method.chance, self.total_steps),
            start=start,
            main=self.world.is_main,
            wandb={"config": self.recorded} if self.settings.wandb else None,
        )

    def _save(self, done: int) -> None:
        """Write the state after ``done`` steps; at the end of the run its hash too."""
        if self.world.is_main:  # the ranks hold the same weights; the BatchNorm buffers saved are rank 0's
            if done == self.total_steps and (changed := changed_since(self.source, self.settings)):
                self.findings += changed
                report(self.findings, self.settings.saving.folder)
            state = self._state_after(done)
            file = self.checkpoints.save(state)
            log.info("saved %s, weights %s", file, state["weights_sha256"])
            if done == self.total_steps:
                _write_hash(file, state["weights_sha256"])
        barrier()

    def _state_after(self, done: int) -> dict[str, Any]:
        """A checkpoint: the official keys, and what an exact resume and an honest record need."""
        weights = self.method.export_state()
        return {
            "epoch": done // self.sizes.steps_per_epoch,
            "arch": self.settings.model.arch,
            "state_dict": weights,
            **({"extra_state": extra} if (extra := self.method.export_extra()) else {}),
            **({"scores": self.informed.state()} if self.informed else {}),
            "optimizer": optimizer_state(self.optimizer, self.method),
            "method": self.settings.method,
            "recipe": self.settings.recipe,
            "step": done,
            "steps_per_epoch": self.sizes.steps_per_epoch,
            "settings": self.recorded,
            "data_times": self.source.times_fingerprint,
            "changes": self.changes,
            "findings": [finding.as_record() for finding in self.findings],
            "rng": rng_state(),
            "weights_sha256": weights_sha256(weights),
            "provenance": provenance(),
        }


def _write_hash(checkpoint: Path, sha256: str) -> None:
    """The sha256 of the last checkpoint's weights: the one file that two equal runs have byte for byte in common."""
    write_text(checkpoint.parent / HASH_FILE, f"{sha256}  {checkpoint.name}\n")
