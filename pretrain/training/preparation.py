"""What a run takes from its settings before its first step: images, processes, loader processes, views, timetable."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from pretrain.images import open_images
from pretrain.images.source import ImageSource
from pretrain.settings.schedule import Schedule
from pretrain.settings.values import Settings
from pretrain.training.loop import Timetable
from pretrain.views import Views, build_views
from runtime.bfloat16 import SLOW, has_native_bfloat16
from runtime.distributed import World
from runtime.errors import UserError
from runtime.logs import get_logger
from runtime.provenance import usable_cores

log = get_logger("pretrain")


def with_precision(settings: Settings, device: str) -> Settings:
    """The settings with --precision auto replaced by what the device computes in itself; records hold that.

    ``device``: the type of the torch device. A chosen bf16 stays, with a warning where it is slow.
    """
    precision, native = settings.model.precision, has_native_bfloat16(device)
    if precision == "auto":
        chosen = "bf16" if native else "fp32"
        recorded = {**settings.recorded, "precision": chosen}
        return replace(settings, model=replace(settings.model, precision=chosen), recorded=recorded)
    if precision == "bf16" and device == "cpu" and not native:
        log.warning("--precision bf16: %s; --precision auto or fp32 is faster here", SLOW)
    return settings


def open_training_images(settings: Settings) -> ImageSource:
    """The images to train on, with labels where the method learns from them. UserError where these are missing."""
    data, needs_labels = settings.data, settings.row.labels
    source = open_images(data.data, labels=needs_labels, cache=data.cache)
    if needs_labels and len(source.classes or []) < 2:
        raise UserError(
            f"{data.data} holds one class ({', '.join(source.classes or [])}): --method {settings.method} needs "
            "DIR/CLASS/*.jpg with two classes or more; is the folder of classes one level deeper?"
        )
    return source


def report_labels(settings: Settings) -> np.ndarray | None:
    """Class numbers of the images for a report of the method; None where it makes none, or there are none.

    They are read beside the images that are trained on, whose fingerprint stays that of a run without labels.
    """
    wish = settings.row.class_report(settings.options)
    if wish is None:
        return None
    try:
        return open_images(settings.data.data, labels=True, cache=settings.data.cache).labels()
    except UserError:
        if wish == "needed":
            raise
        return None


def machines(world: World) -> int:
    """Number of machines: --batch-size counts the images of one, as in the official code."""
    return max(1, world.size // int(os.environ.get("LOCAL_WORLD_SIZE", world.size)))


def usable_workers(settings: Settings, world: World) -> int:
    """Loader processes of this rank: the machine's, divided among its ranks, never more than its cores."""
    asked = settings.data.workers
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    return max(0 if asked == 0 else 1, min(asked, usable_cores()) // ranks_here)


def training_views(settings: Settings) -> Views:
    """As many views as the method needs, of the kind that --views names, else of the method's own, v1 or v2."""
    data, row = settings.data, settings.row
    kind = data.views or row.views or ("v2" if data.aug_plus else "v1")
    return build_views(kind, image_size=data.image_size, views=row.crops, aug_on=data.aug_on)


def timetable(
    settings: Settings, total_steps: int, steps_per_epoch: int, *, probing: bool, global_batch: int = 256
) -> Timetable:
    """The run's learning rates, and the steps after which it saves and (when ``probing``) probes."""
    optimisation = settings.optimisation
    scale = global_batch / 256 if settings.row.rate_of_256 else 1.0
    schedule = Schedule(
        optimisation.lr * scale,
        total_steps,
        steps_per_epoch,
        cos=optimisation.cos,
        by_step=optimisation.iterations is not None,
        after_warmup=settings.row.rate_of_256,
        every=optimisation.lr_every,
        milestones=sorted(optimisation.schedule),
        gamma=optimisation.lr_gamma,
        factors=optimisation.schedule_factors,
        warmup_steps=round(optimisation.warmup_epochs * steps_per_epoch),
    )
    return Timetable(
        schedule,
        settings.seed,
        save_every=settings.saving.save_every * steps_per_epoch,
        save_also_every=settings.saving.save_steps,
        probe_every=settings.probe.knn_every * steps_per_epoch if probing else 0,
    )
