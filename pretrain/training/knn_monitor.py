"""The kNN probe of a run: whether there is one, and its numbers on the main process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from pretrain.images import open_images
from pretrain.images.listing import validation_folder
from pretrain.images.source import ImageSource, require_same_classes
from pretrain.probes.knn import KnnMonitor, ProbeImages
from pretrain.settings.values import Settings
from pretrain.views import build_views, eval_kind
from runtime.distributed import World, barrier
from runtime.errors import UserError
from runtime.logs import get_logger

log = get_logger("pretrain")


def build_knn_monitor(settings: Settings, encoder: nn.Module, world: World, workers: int) -> KnnMonitor | None:
    """The monitor, where there are labelled images of the same classes to compare with; else the log says why not."""
    try:
        train, val = _labelled_images(settings)
    except NoLabelledImages as reason:
        log.info("no kNN probe: %s", reason)
        return None
    except UserError as error:
        log.warning("no kNN probe: %s", error)
        return None
    data, probe = settings.data, settings.probe
    images = ProbeImages(
        build_views(eval_kind(data.views), image_size=data.image_size),
        device=world.device,
        images=probe.knn_images,
        workers=workers,
        max_bad=data.max_bad,
    )
    return KnnMonitor(encoder, train, val, images, layer=probe.knn_layer)


def probe_images(settings: Settings) -> Path | None:
    """Where the images of the probe are, if they exist; None where no probe is asked for."""
    data = settings.data
    return (data.val or validation_folder(Path(data.data))) if settings.probe.knn_every else None


class NoLabelledImages(UserError):
    """There is nothing to probe with, and nothing wrong with that."""


def _labelled_images(settings: Settings) -> tuple[ImageSource, ImageSource]:
    """The training images with labels, and those of the probe. UserError says why there are none."""
    data = settings.data
    val = probe_images(settings)
    if val is None:
        raise NoLabelledImages("--knn-every 0")
    if not val.exists():
        raise NoLabelledImages(f"no labelled images in {val}")
    train_set = open_images(data.data, labels=True, cache=data.cache)
    val_set = open_images(val, labels=True, split=None)
    require_same_classes(train_set, val_set, data.data)
    return train_set, val_set


def run_probe(monitor: Callable[[], dict[str, float]] | None, world: World) -> dict[str, float]:
    """The monitor's numbers on the main process while the others wait; bad images end the probe, not the run."""
    numbers: dict[str, float] = {}
    if world.is_main and monitor is not None:
        try:
            numbers = monitor()
            log.info("kNN accuracy %.2f %%", numbers["knn"])
        except UserError as error:
            log.warning("no kNN accuracy: %s", error)
    barrier()
    return numbers
