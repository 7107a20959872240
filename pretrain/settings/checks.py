"""Settings that cannot work together, each refused in one line before anything is built or written."""

from __future__ import annotations

from typing import Any

from pretrain.methods.row import Sizes
from pretrain.settings.values import Settings
from runtime.arguments import RATES, Bounds, is_rate
from runtime.errors import UserError

SMALLEST_IMAGE = 8  # pixels: a ResNet halves an image five times


def check_settings(settings: Settings) -> None:
    """Refuse what no data set could make right."""
    from pretrain.encoders import ARCHITECTURES
    from pretrain.encoders.vit import PATCH, VITS
    from pretrain.methods import METHODS

    model, optimisation, data = settings.model, settings.optimisation, settings.data
    if model.arch not in ARCHITECTURES:
        raise UserError(f"unknown encoder -a {model.arch}; choose one of {', '.join(ARCHITECTURES)}")
    if model.arch in VITS:
        if not settings.row.vits:
            able = " and ".join(name for name, row in METHODS.items() if row.vits)
            raise UserError(f"-a {model.arch} is for --method {able}; --method {settings.method} trains ResNets")
        if data.image_size % PATCH:
            raise UserError(f"--image-size {data.image_size} must be a multiple of {PATCH}, the side of a patch")
        if model.stem != "imagenet" or model.bn_splits > 1:
            raise UserError("--stem and --bn-splits are for ResNets; leave them out with a ViT")
    if data.image_size < SMALLEST_IMAGE:
        raise UserError(f"--image-size {data.image_size} is too small for a ResNet; use 32 or more")
    if not 0 <= model.moco_m <= 1:
        raise UserError(f"--moco-m must be between 0 and 1, not {model.moco_m}")
    if not model.moco_t > 0:
        raise UserError(f"--moco-t must be positive, not {model.moco_t}")
    if not is_rate(optimisation.lr):
        raise UserError(f"--lr must be {RATES}, not {optimisation.lr}")
    for name in ("momentum", "weight_decay", "warmup_epochs", "lr_gamma"):
        Bounds().check(name, getattr(optimisation, name))
    Bounds().check("max_bad", data.max_bad)
    factors = optimisation.schedule_factors
    if factors is not None and len(factors) != len(optimisation.schedule):
        raise UserError("--schedule-factors needs one factor for each epoch of --schedule")
    settings.row.check_options(settings.options)


def check_sizes(settings: Settings, sizes: Sizes, ranks: int) -> None:
    """Refuse a batch, a queue or BatchNorm groups that do not fit each other, the data set or the ``ranks``."""
    batch, parts, groups = sizes.global_batch, sizes.parts, settings.model.bn_splits
    if batch > sizes.images:
        raise UserError(f"--batch-size {batch} is larger than the data set ({sizes.images} images); lower it")
    if batch % (ranks * parts):
        raise UserError(f"a batch of {batch} cannot be split over {ranks} process(es) x --accumulate {parts}")
    part = batch // ranks // parts
    if part % groups or part // groups < 2:
        raise UserError(
            f"--bn-splits {groups} does not divide {part} images per process and part into groups of 2 or more"
        )
    if settings.row.check_sizes is not None:
        settings.row.check_sizes(settings.model, settings.options, sizes)


def deciding(settings: Settings, *, fingerprint: str, ranks: int) -> dict[str, Any]:
    """Every setting that decides the result, the data and the number of processes: what a resume must not change."""
    return {**settings.recorded, "data": fingerprint, "world_size": ranks}
