"""The maps of a frozen backbone for training, computed for each image alone and, if asked for, kept on disk.

In a batch, an image is padded to the size of the largest one, and the padding is not empty after the first
convolution: what a backbone sees near the right and lower border depends on the other images of the batch. Maps that
are to be used again must not, so they are made of each image alone, padded to the stride, and padded with zeros to the
size of the batch (ENGINE.FEATURES image). Read from a cache (ENGINE.FEATURES cached) they have the same bits.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from runtime.logs import get_logger
from transfer.config import flatten
from transfer.config.protocol import BATCH, IMAGE
from transfer.data.random_geometry import resized_shape
from transfer.engines.torchvision.feature_cache import RESERVE, FeatureCache, views_of_image
from transfer.engines.torchvision.feature_folder import SUBFOLDER
from transfer.engines.training.device import choose_device
from transfer.engines.training.frozen_backbone import bottom_up

Maps = dict[str, torch.Tensor]  # output of the backbone's stages -> N x C x H x W
SAMPLED = 500  # images whose maps are estimated
log = get_logger("run")


class FrozenFeatures:
    """Makes the stages' maps of a batch; ``cache`` None: computes them every time."""

    def __init__(self, cache: FeatureCache | None = None) -> None:
        self.cache = cache

    def __call__(self, model: Any, items: Sequence[Mapping[str, Any]]) -> tuple[Maps, list[tuple[int, int]]]:
        """The outputs of the frozen stages for ``items``, and each image's own (height, width)."""
        alone = [self._of(model, item) for item in items]
        sizes = [(int(item["image"].shape[1]), int(item["image"].shape[2])) for item in items]
        return {name: _padded([maps[name] for maps in alone], model.memory_format) for name in alone[0]}, sizes

    def _of(self, model: Any, item: Mapping[str, Any]) -> Maps:
        """The maps of one image, 1 x C x H x W each."""
        device = model.pixel_mean.device
        stored = None if self.cache is None else self.cache.load(item)
        stages: Any = bottom_up(model)
        if stored is not None and set(stored) == set(stages.out_features):
            return {name: value.to(device) for name, value in stored.items()}
        with torch.no_grad():
            images, _ = model.batch_images([item])
            maps: Maps = stages(images)
        if self.cache is not None:
            self.cache.store(item, maps)
        return maps


def _padded(maps: Sequence[torch.Tensor], memory_format: torch.memory_format) -> torch.Tensor:
    """One batch of maps of different sizes, zeros at the right and bottom."""
    height, width = (max(side) for side in zip(*((int(m.shape[2]), int(m.shape[3])) for m in maps)))
    batch = maps[0].new_zeros(len(maps), maps[0].shape[1], height, width)
    for row, one in zip(batch, maps):
        row[:, : one.shape[2], : one.shape[3]].copy_(one[0])
    return batch.contiguous(memory_format=memory_format)


def frozen_features(cfg: Any, model: Any, sha256: str, image_sizes: Sequence[tuple[int, int]]) -> FrozenFeatures | None:
    """What ENGINE.FEATURES asks for; None for "batch". ``sha256``: of the backbone; sizes are (height, width)."""
    if cfg.ENGINE.FEATURES == BATCH:
        return None
    if cfg.ENGINE.FEATURES == IMAGE:
        return FrozenFeatures()
    folder = Path(cfg.ENGINE.FEATURE_FOLDER or Path(cfg.OUTPUT_DIR) / SUBFOLDER)
    cache = FeatureCache(folder, _made_with(cfg, sha256))
    _report_room(cfg, bottom_up(model), image_sizes, cache.folder)
    return FrozenFeatures(cache)


def _made_with(cfg: Any, sha256: str) -> dict[str, Any]:
    """Everything that decides the bits of the maps beside the image and its view."""
    sections = ("MODEL.RESNETS.", "MODEL.PIXEL_", "SOLVER.AMP.", "MODEL.BACKBONE.")
    single = ("INPUT.FORMAT", "INPUT.MAX_SIZE_TRAIN", "INPUT.RANDOM_FLIP", "FLOAT32_PRECISION")
    own = ("ENGINE.AMP_DTYPE", "ENGINE.CHANNELS_LAST")
    keys = {key: value for key, value in flatten(cfg).items() if key.startswith(sections) or key in (*single, *own)}
    device = choose_device(cfg.MODEL.DEVICE)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "backbone sha256": sha256,
        "torch": str(torch.__version__),
        "device": name,
        "threads": torch.get_num_threads(),
        **keys,
    }


def _report_room(cfg: Any, stages: Any, image_sizes: Sequence[tuple[int, int]], folder: Path) -> None:
    """Say how many views there can be, and whether the disk has room for them."""
    views = views_of_image(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.RANDOM_FLIP)
    wanted = min(len(image_sizes) * views, cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH)
    one = view_bytes(cfg, stages, image_sizes)
    free = shutil.disk_usage(folder).free
    log.info(
        "%s: up to %d views (%d images, %d views each), about %.1f MB each, %.1f GB in all; the disk has %.1f GB free",
        *(folder, wanted, len(image_sizes), views, one / 1e6, one * wanted / 1e9, free / 1e9),
    )
    share = max(free - RESERVE, 0) / max(one * wanted, 1)
    if share < 1:
        log.warning(
            "about %d %% of the views fit on the disk; the others are computed every time. Fewer INPUT.MIN_SIZE_TRAIN "
            "make fewer views",
            int(100 * share),
        )


def view_bytes(cfg: Any, stages: Any, image_sizes: Sequence[tuple[int, int]]) -> float:
    """Bytes of the maps of a view, mean over a sample of the images and over the sizes of training."""
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    item = 2 if cfg.SOLVER.AMP.ENABLED else 4
    total = count = 0
    for image in image_sizes[:: max(1, len(image_sizes) // SAMPLED)]:
        for size in sizes:
            shape = resized_shape(*image, size, cfg.INPUT.MAX_SIZE_TRAIN) if size else image
            strides = [(stages.channels[name], stages.strides[name]) for name in stages.out_features]
            total += sum(c * math.ceil(shape[0] / s) * math.ceil(shape[1] / s) for c, s in strides) * item
            count += 1
    return total / max(count, 1)
