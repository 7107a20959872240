"""What a finished run was made with, so that its number is not read under flags or images that it never saw."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain.images import open_images
from pretrain.images.fingerprints import SAMPLED, is_sampled
from pretrain.settings.options import defaults
from pretrain.settings.values import Settings
from pretrain.training.checkpoints import CheckpointFolder
from pretrain.training.knn_monitor import probe_images
from runtime.atomic import read_json, write_json
from runtime.errors import UserError
from runtime.logs import get_logger

MARK = "finished"  # in the run folder; empty in runs of earlier versions


def mark_finished(folder: Path, settings: Settings) -> None:
    """Record in ``folder`` what its finished run was made with: settings, images, and what its probe looked at."""
    write_json(folder / MARK, {**_recorded_in(folder), "probe": _probe(settings)})


def is_finished(folder: Path) -> bool:
    """Whether ``mark_finished`` was reached."""
    return (folder / MARK).exists()


def differences(folder: Path, settings: Settings) -> list[str]:
    """What of ``settings``, or of the images as they are now, differs from what a finished run was made with.

    Empty where nothing differs, and for a run that records nothing (one of an earlier version without checkpoints).
    Images that cannot be read now are not compared.
    """
    mark = read_json(folder / MARK)
    record = mark if mark.get("settings") else _recorded_in(folder)
    settings_then = record.get("settings")
    if not settings_then:
        return []
    pairs = {key: (settings_then.get(key, defaults().get(key)), value) for key, value in settings.recorded.items()}
    texts = [f"{key} was {was}, is {value}" for key, (was, value) in pairs.items() if was != value]
    data = settings.data
    images = _fingerprints(data.data, settings.row.labels, data.cache, sampled=_is_sampled(settings_then.get("data")))
    if images and images[0] != settings_then.get("data", images[0]):
        texts.append(f"the images of {data.data} are others")
    elif images and images[1] != record.get("data_times", images[1]):
        texts.append(f"the images of {data.data} were changed or copied")
    probe = _probe(settings, sampled=_is_sampled(next(iter((mark.get("probe") or {}).get("images") or []), None)))
    texts += [
        f"{key} of the probe was {was}, is {probe[key]}" if key != "images" else "the images of the probe are others"
        for key, was in (mark.get("probe") or {}).items()
        if key in probe and None not in (was, probe[key]) and was != probe[key]
    ]
    return texts


def _is_sampled(recorded: object) -> bool:
    """Whether to compare by samples: as ``recorded``, or where nothing is."""
    return recorded is None or is_sampled(recorded)


def _probe(settings: Settings, *, sampled: bool = True) -> dict[str, Any]:
    """What decides a probe's number beside the encoder. images: their fingerprints, None where there are none."""
    val = probe_images(settings)
    images = _fingerprints(str(val), True, None, None, sampled=sampled) if val is not None else None
    return {**asdict(settings.probe), "images": None if images is None else list(images)}


@functools.cache
def _fingerprints(
    data: str, labels: bool, cache: Path | None, split: str | None = "train", *, sampled: bool
) -> tuple[str, str] | None:
    """(fingerprint, times) of a set of images, None where it cannot be read; each set is listed once.

    ``sampled`` False: of all files, as earlier versions recorded them however many there are.
    """
    try:
        source = open_images(data, labels=labels, cache=cache, split=split)
    except UserError as error:
        get_logger("sweep").warning("finished runs are not compared with these images: %s", error)
        return None
    images = source.fingerprints_like(SAMPLED if sampled else "")
    return images.images, images.times


def _recorded_in(folder: Path) -> dict[str, Any]:
    """settings and data_times of the newest checkpoint, {} where there is none that can be read."""
    try:
        newest = CheckpointFolder(folder, steps_per_epoch=1).newest()
    except UserError:
        return {}
    checkpoint = newest[1] if newest else {}
    return {key: checkpoint[key] for key in ("settings", "data_times") if key in checkpoint}
