"""Views of an image: random operations, their order and their strengths. Every kind of view is a row of KINDS.

A view is made in two stages. In the loader's workers: decode, crop, resize, mirror, to uint8. On the device, for the
whole batch at once (``on_device``): colour jitter, grey, blur, normalisation. Every random number of both stages is a
function of (seed, epoch, image, view) alone, so a view depends on neither the number of workers, nor a restart, nor the
other images of its batch.

    views = build_views("v2", image_size=224)
    loader = build_loader(source, views, batch_size=256, epochs=200, seed=0)
    for batch in loader:
        query, key = views.on_device(batch, device, torch.float32)  # B x 3 x 224 x 224 each, channels_last
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import torch

from pretrain.images.decode import Picture, Scratch
from pretrain.views import cpu_colour, crops, device_colour
from runtime.counter_random import uniforms
from runtime.errors import UserError

if TYPE_CHECKING:
    from pretrain.views.batch import Batch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB, as the official code normalises
AUG_ON = ("auto", "device", "cpu")


class Slot(IntEnum):
    """The use of each uniform number of a view. Slots are never renumbered: that would change every view."""

    AREA = 0  # ATTEMPTS slots
    RATIO = 10  # ATTEMPTS slots
    TOP, LEFT, FLIP = 20, 21, 22
    JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, JITTER_ORDER = 23, 24, 25, 26, 27, 28
    GREY, BLUR, SIGMA = 29, 30, 31
    SOLARIZE = 32
    COUNT = 33


@dataclass(frozen=True)
class ViewKind:
    """One row of KINDS.

    views: views per image. scale: area range of RandomResizedCrop; None for the central crop of evaluation, before
    which the shorter side is resized to ``margin`` times the side of the view.
    jitter: strengths of brightness, contrast, saturation and hue, applied with probability jitter_p.
    grey_first: grey before the colour jitter (v1) or after it (v2). sigma: range of the blur, in pixels.
    blur_ps, solarize_ps: probabilities of the views, in order, where these differ; otherwise blur_p, and none.
    """

    views: int = 2
    scale: tuple[float, float] | None = (0.2, 1.0)
    flip_p: float = 0.5
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    grey_p: float = 0.0
    grey_first: bool = False
    blur_p: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    margin: float = 256 / 224
    blur_ps: tuple[float, ...] = ()
    solarize_ps: tuple[float, ...] = ()


V1 = ViewKind(jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, grey_p=0.2, grey_first=True)
V2 = ViewKind(jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, grey_p=0.2, blur_p=0.5)
KINDS: dict[str, ViewKind] = {
    "v1": V1,  # MoCo v1, the augmentation of InstDisc (arXiv 1805.01978)
    "v2": V2,  # MoCo v2 (arXiv 2003.04297, section 3): v1 with weaker hue, grey last, and SimCLR's blur
    "v1_grey_last": replace(V1, grey_first=False),  # arXiv 1904.03436: crop, jitter, grey, flip
    "cifar": replace(V2, scale=(0.08, 1.0), blur_p=0.0),  # the official CIFAR-10 demo: no blur, torchvision's scale
    # MoCo v3 (2104.02057, appendix A.1): BYOL's two unlike views
    "v3": replace(V2, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_ps=(1.0, 0.1), solarize_ps=(0.0, 0.2)),
    "supervised": ViewKind(views=1, scale=(0.08, 1.0)),  # torchvision's reference recipe
    "eval": ViewKind(views=1, scale=None, flip_p=0.0),  # shorter side to 256/224 of the size, central crop
    "whole": ViewKind(views=1, scale=None, flip_p=0.0, margin=1.0),  # CIFAR-10 demo: a 32 px image unchanged
}


def eval_kind(training: str | None) -> str:
    """The kind of views that probes use, for an encoder trained with the option --views (None: not given)."""
    return "whole" if training == "cifar" else "eval"


def build_views(
    kind: str,
    *,
    image_size: int = 224,
    views: int | None = None,
    scale: tuple[float, float] | None = None,
    aug_on: str = "auto",
) -> Views:
    """The views called ``kind`` (a key of KINDS) at image_size x image_size pixels.

    views: number of views per image, instead of the row's. scale: area range of the random crop, instead of the row's.
    aug_on: "device" for colour and blur in ``on_device``, batch by batch; "cpu" for everything except the
        normalisation in the loader's workers; "auto" for "cpu" where there is no GPU and OpenCV is installed, otherwise
        "device".
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of views {kind!r}; choose one of {', '.join(KINDS)}")
    if aug_on not in AUG_ON:
        raise UserError(f"unknown aug_on {aug_on!r}; choose one of {', '.join(AUG_ON)}")
    if image_size < 8:
        raise UserError(f"an image size of {image_size} pixels is too small for a ResNet; use 32 or more")
    row = KINDS[kind]
    row = replace(row, views=views or row.views, scale=scale if scale and row.scale else row.scale)
    if aug_on == "auto":
        aug_on = "cpu" if cpu_colour.AVAILABLE and not torch.cuda.is_available() else "device"
    return Views(row, image_size=image_size, on_cpu=aug_on == "cpu")


class Views:
    """Views of one kind at one size, built by ``build_views``.

    count: views per image. image_size: side of a view in pixels. on_cpu: whether workers do colour and blur.
    """

    def __init__(self, kind: ViewKind, *, image_size: int, on_cpu: bool) -> None:
        self.kind, self.image_size, self.count = kind, image_size, kind.views
        self.on_cpu = on_cpu
        self._scratch, self._room = Scratch(), Scratch()

    def draw(self, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """The uniform numbers of N images: float64, N x count x Slot.COUNT."""
        return uniforms(seed, epoch, indices, self.count, Slot.COUNT)

    def cut(self, picture: Picture, u: np.ndarray, out: np.ndarray) -> None:
        """First stage of one image. u: its numbers, count x Slot.COUNT; out: uint8 count x size x size x 3, written."""
        if self.kind.scale is None:
            shorter_side = round(self.image_size * self.kind.margin)
            crops.cut_centre(picture, shorter_side, self.image_size, out[0], self._scratch)
            out[1:] = out[0]
            return
        boxes = [self._crop(picture, numbers) for numbers in u.tolist()]
        reduction = crops.reduction_for(picture, boxes, self.image_size)
        pixels = picture.pixels(reduction, self._scratch)
        for view, box in zip(out, boxes, strict=True):
            crops.cut(pixels, box, self.image_size, reduction, view, self._room)

    def _crop(self, picture: Picture, u: list[float]) -> crops.Crop:
        return crops.random_resized_crop(
            picture.height,
            picture.width,
            scale=self.kind.scale or (1.0, 1.0),
            area_u=u[Slot.AREA : Slot.AREA + crops.ATTEMPTS],
            ratio_u=u[Slot.RATIO : Slot.RATIO + crops.ATTEMPTS],
            place_u=u[Slot.TOP : Slot.LEFT + 1],
            flip=u[Slot.FLIP] < self.kind.flip_p,
        )

    def params(self, u: np.ndarray) -> torch.Tensor:
        """The table for the second stage, float32 count x N x COLUMNS, from the numbers N x count x Slot.COUNT."""
        kind, table = self.kind, np.zeros((*u.shape[:2], device_colour.COLUMNS), np.float32)
        jittered = u[..., Slot.JITTER] < kind.jitter_p
        for column in device_colour.FACTORS:
            low, high = max(0.0, 1.0 - kind.jitter[column]), 1.0 + kind.jitter[column]
            table[..., column] = np.where(jittered, low + (high - low) * u[..., Slot.BRIGHTNESS + column], 1.0)
        table[..., device_colour.Column.HUE] = np.where(jittered, kind.jitter[3] * (2.0 * u[..., Slot.HUE] - 1.0), 0.0)
        table[..., device_colour.Column.ORDER] = np.floor(u[..., Slot.JITTER_ORDER] * len(device_colour.ORDERS))
        table[..., device_colour.Column.GREY] = u[..., Slot.GREY] < kind.grey_p
        low, high = kind.sigma
        blur_p = np.resize(kind.blur_ps or (kind.blur_p,), u.shape[1])
        sigma = np.where(u[..., Slot.BLUR] < blur_p, low + (high - low) * u[..., Slot.SIGMA], 0.0)
        table[..., device_colour.TAPS] = device_colour.blur_taps(sigma)
        solarize_p = np.resize(kind.solarize_ps or (0.0,), u.shape[1])
        table[..., device_colour.Column.SOLARIZE] = u[..., Slot.SOLARIZE] < solarize_p
        return torch.from_numpy(np.ascontiguousarray(table.transpose(1, 0, 2)))

    def finish_on_cpu(self, out: np.ndarray, params: torch.Tensor) -> None:
        """Second stage of one image without the normalisation, in place, in a worker.

        out: uint8 count x size x size x 3; params: float32 count x COLUMNS.
        """
        for view, row in zip(out, params, strict=True):
            cpu_colour.augment(view, row, grey_first=self.kind.grey_first)

    @torch.no_grad()
    def on_device(
        self, batch: Batch, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> list[torch.Tensor]:
        """Second stage of a batch: ``count`` tensors B x 3 x size x size, normalised, channels_last, on ``device``.

        Colour and blur are computed in float32 whatever ``dtype`` is; ``dtype`` is that of the result.
        """
        finished = []
        for images, params in zip(batch.images, batch.params, strict=True):
            pixels = images.to(device, non_blocking=True)
            colour = None if self.on_cpu else params
            finished.append(
                device_colour.finish(pixels, colour, mean=MEAN, std=STD, dtype=dtype, grey_first=self.kind.grey_first)
            )
        return finished
