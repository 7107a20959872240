"""Where a run starts: at step 0, or at the checkpoint that --resume names."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pretrain.images.source import ImageSource
from pretrain.methods.base import Method
from pretrain.settings.options import defaults
from pretrain.settings.values import Settings
from pretrain.training.checkpoints import CheckpointFolder, read_checked, restore
from runtime.errors import UserError
from runtime.logs import get_logger
from runtime.recorded_settings import changed_settings

log = get_logger("pretrain")
EXPLANATIONS = {"data_times": "the images have the same names and sizes, but were changed or copied since"}


@dataclass(frozen=True)
class Start:
    """The first step, the changes of settings allowed so far, and whether the folder's files must be renumbered
    because an epoch has another number of steps by now. checkpoint: what was resumed, of these images or others."""

    step: int
    changes: list[dict[str, Any]] = field(default_factory=list)
    renumber: bool = False
    checkpoint: dict[str, Any] = field(default_factory=dict)
    same_images: bool = True


def find_start(
    settings: Settings,
    checkpoints: CheckpointFolder,
    method: Method,
    optimizer: torch.optim.Optimizer,
    recorded: dict[str, Any],
    source: ImageSource,
) -> Start:
    """Load the checkpoint that --resume names, or the newest of the folder, into ``method`` and ``optimizer``.

    ``recorded`` holds this run's deciding settings, ``source`` its images. Raises UserError where they differ from the
    checkpoint's without --allow-change, where it does not fit, or where the folder holds checkpoints and --resume is
    absent.
    """
    saving, per_epoch = settings.saving, checkpoints.steps_per_epoch
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # torchrun repeats the same command
    if saving.resume is None and not restarted:
        if checkpoints.steps():
            raise UserError(f"{saving.folder} already holds checkpoints; add --resume, or choose another --output")
        return Start(settings.optimisation.start_epoch * per_epoch)
    # A restarted run has checkpoints of its own by now, newer than the one it was first given.
    named = saving.resume not in (None, "auto") and not (restarted and checkpoints.steps())
    newest = (Path(str(saving.resume)), read_checked(Path(str(saving.resume)))) if named else checkpoints.newest()
    if newest is None:
        log.info("nothing to resume in %s: starting from the beginning", saving.folder)
        return Start(0)
    file, checkpoint = newest
    if checkpoint["arch"] != settings.model.arch:
        raise UserError(f"{file} holds a {checkpoint['arch']}, not the {settings.model.arch} of -a")
    changes = list(checkpoint.get("changes", []))
    saved = saved_settings(checkpoint, recorded)
    images = source.fingerprints_like(saved["data"])
    now = {**recorded, "data": images.images}
    if saved["data"] == now["data"] and "data_times" in checkpoint:  # images of other names or sizes differ anyway
        saved["data_times"], now["data_times"] = checkpoint["data_times"], images.times
    if changed := changed_settings(saved, now, saving.allow_change, file, EXPLANATIONS):
        changes.append({"step": checkpoint["step"], "changed": changed})
        log.warning("continuing with changed settings: %s", changed)
    restore(method, optimizer, checkpoint, file)
    step = first_step(settings, checkpoint, per_epoch)
    log.info("resumed %s at step %d", file, step)
    renumber = bool(checkpoints.steps()) and checkpoint.get("steps_per_epoch", per_epoch) != per_epoch
    return Start(step, changes, renumber, checkpoint, saved["data"] == now["data"])


def saved_settings(checkpoint: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint was made with, for every key of ``recorded``, this run's.

    An official file records none, and a setting that was added after the checkpoint had its default then.
    """
    return {key: checkpoint.get("settings", recorded).get(key, defaults().get(key)) for key in recorded}


def first_step(settings: Settings, checkpoint: dict[str, Any], per_epoch: int) -> int:
    """The step at which a checkpoint continues.

    Where an allowed change of the batch or the data changed the number of steps in an epoch, that is the same place in
    the epochs; in a run whose length is given in steps it is the same step.
    """
    optimisation = settings.optimisation
    if "step" not in checkpoint:
        return (optimisation.start_epoch or checkpoint.get("epoch", 0)) * per_epoch
    step, before = checkpoint["step"], checkpoint.get("steps_per_epoch", per_epoch)
    return step if optimisation.iterations or before == per_epoch else round(step * per_epoch / before)
