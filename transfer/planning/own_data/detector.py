"""The detector of a plan: config, image size, batch and learning rate, each with the reason for its value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.architecture import Architecture
from transfer.config import load_config
from transfer.planning.own_data.looking import GB, DataLook, Machine

# longest short side of an image in pixels: on two cores a step of 4 images of 256 pixels takes about a second
MOST_PIXELS = {"cpu": 256, "cuda": 800}
STRIDE = 32  # of the coarsest features; sizes are multiples of it
SMALL_OBJECT = 16  # pixels; the smallest anchor of own_R18_FPN.yaml
ANCHORS = ((400, 32), (128, 16), (0, 8))  # short side of an image above which the smallest anchor has so many pixels
SCALES = (0.75, 0.8125, 0.875, 0.9375, 1.0)  # of training images, as in own_R18_FPN.yaml
# GB of free memory -> images in a batch. Measured: 2.3 GB for 4 images of 256 pixels with ResNet-18 on a CPU
BATCHES = {"cpu": ((0, 2), (4, 4)), "cuda": ((0, 2), (6, 4), (14, 8), (30, 16))}


@dataclass(frozen=True)
class Choice:
    """A value of the plan and, in one sentence, why it has this value."""

    value: Any
    why: str


@dataclass(frozen=True)
class Detector:
    """``config``: a file in configs/. ``overrides``: key -> value of what differs from it, without the schedule.

    ``side``: short side of an image in pixels.
    """

    config: Choice
    overrides: Mapping[str, Choice]
    batch: int
    side: int

    def values(self) -> dict[str, Any]:
        """The overrides without their reasons."""
        return {key: choice.value for key, choice in self.overrides.items()}


def choose_detector(
    architecture: Architecture, look: DataLook, machine: Machine, smaller: Choice | None = None
) -> Detector:
    """A detector for the weights' architecture that the data needs and the machine can train.

    ``smaller``: the short side of an image in pixels, where the usual one takes too long.
    """
    device = "cuda" if machine.gpu else "cpu"
    file = "own_R50_FPN.yaml" if architecture.bottleneck else "own_R18_FPN.yaml"
    base = load_config(file)
    overrides: dict[str, Choice] = {}
    for key, value in architecture.config().items():
        if _of(base, key) != value:
            overrides[key] = Choice(value, f"the weights are those of a {architecture.name}")
    where = f"it has a GPU ({machine.gpu})" if machine.gpu else "it has no GPU"
    if device != base.MODEL.DEVICE:
        overrides["MODEL.DEVICE"] = Choice(device, f"the machine: {where}")
    if device == "cpu" and base.MODEL.RESNETS.NORM != "BN":
        why = "one process: statistics over processes, which the config asks for, are those of its own batch"
        overrides |= {f"MODEL.{part}.NORM": Choice("BN", why) for part in ("RESNETS", "FPN")}
    side = smaller or usual_side(look, device)
    overrides |= _sizes(look, side, base)
    batch, reason = _batch(look, machine, device)
    if batch != base.SOLVER.IMS_PER_BATCH:
        overrides["SOLVER.IMS_PER_BATCH"] = Choice(batch, reason)
        rate = base.SOLVER.BASE_LR * batch / base.SOLVER.IMS_PER_BATCH
        overrides["SOLVER.BASE_LR"] = Choice(
            rate,
            f"{base.SOLVER.BASE_LR:g} for a batch of {base.SOLVER.IMS_PER_BATCH}, times {batch} / "
            f"{base.SOLVER.IMS_PER_BATCH} by the linear rule (arXiv:1706.02677)",
        )
    why = f"{architecture.name} with a feature pyramid; the weights decide the depth"
    why += "" if device == "cuda" else ", and without a GPU images are small"
    return Detector(Choice(file, why), overrides, batch, side.value)


def _of(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def usual_side(look: DataLook, device: str) -> Choice:
    """Short side of an image in pixels: that of the data, within what the device can train."""
    limit = MOST_PIXELS[device]
    side = max(STRIDE, min(limit, round(look.short_side / STRIDE) * STRIDE))
    reason = f"the median short side of the images is {look.short_side:.0f} pixels"
    if side == limit < look.short_side:
        reason += f"; {limit} is the most that is sensible {'on a GPU' if device == 'cuda' else 'without a GPU'}"
    return Choice(side, reason)


def _sizes(look: DataLook, chosen: Choice, base: Any) -> dict[str, Choice]:
    """Sizes of training and test images, with anchors that fit them."""
    side, reason = chosen.value, chosen.why
    longest = math.ceil(side * max(look.long_side / look.short_side, 1.5) / STRIDE) * STRIDE
    train = tuple(round(side * scale / 16) * 16 for scale in SCALES)
    objects = look.object_side * side
    small = f"; the median object then has {objects:.0f} pixels"
    if objects < SMALL_OBJECT:
        small += ", which is small: expect a low AP, or use larger images (INPUT.*) on a GPU"
    sizes = {
        "INPUT.MIN_SIZE_TEST": Choice(side, reason + small),
        "INPUT.MAX_SIZE_TEST": Choice(longest, f"longest side: {longest / side:.2g} times the short one"),
        "INPUT.MIN_SIZE_TRAIN": Choice(train, "three quarters to all of the test size, drawn for each image"),
        "INPUT.MAX_SIZE_TRAIN": Choice(longest, "as in the test"),
    }
    smallest = next(pixels for above, pixels in ANCHORS if side > above)
    anchors = [[smallest << level] for level in range(5)]
    sizes["MODEL.ANCHOR_GENERATOR.SIZES"] = Choice(anchors, f"anchors of {smallest} pixels and up for this image size")
    return {key: choice for key, choice in sizes.items() if not _same(_of(base, key), choice.value)}


def _same(one: Any, other: Any) -> bool:
    def plain(value: Any) -> Any:
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    return bool(plain(one) == plain(other))


def _batch(look: DataLook, machine: Machine, device: str) -> tuple[int, str]:
    free = (machine.memory or 0) / GB
    batch = next(images for least, images in reversed(BATCHES[device]) if free >= least)
    reason = f"{free:.1f} GB of memory are free" if machine.memory else "how much memory is free is not known"
    few = max(2, look.train_images // 20)
    if few < batch:
        return few, f"so few training images ({look.train_images}) make larger batches see too little variety"
    return batch, reason
