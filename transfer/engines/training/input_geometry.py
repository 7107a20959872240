"""The random geometry of a config's INPUT section, as its mapper and the checks before a run need it."""

from __future__ import annotations

import importlib.util
from typing import Any

from runtime.errors import UserError
from transfer.data.random_geometry import LargeScaleJitter, RandomCrop, RandomGeometry


def training_geometry(cfg: Any) -> RandomGeometry:
    """Sizes, flip, and crop or jitter of training. Raises UserError for settings that no image can have."""
    settings, crop, jitter = cfg.INPUT, cfg.INPUT.CROP, cfg.INPUT.LSJ
    sizes = settings.MIN_SIZE_TRAIN
    cut = crop.ENABLED or jitter.ENABLED
    if cut and cfg.MODEL.MASK_ON and not importlib.util.find_spec("shapely"):
        key = "INPUT.CROP.ENABLED" if crop.ENABLED else "INPUT.LSJ.ENABLED"
        raise UserError(f"{key} with MODEL.MASK_ON needs shapely to cut polygons; pip install shapely")
    return RandomGeometry(
        min_sizes=(sizes,) if isinstance(sizes, int) else tuple(sizes),
        max_size=settings.MAX_SIZE_TRAIN,
        sampling=settings.MIN_SIZE_TRAIN_SAMPLING,
        flip=settings.RANDOM_FLIP,
        crop=RandomCrop(crop.TYPE, tuple(crop.SIZE)) if crop.ENABLED else None,
        jitter=LargeScaleJitter(jitter.SIZE, jitter.MIN_SCALE, jitter.MAX_SCALE) if jitter.ENABLED else None,
    )
