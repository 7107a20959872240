"""The colour stage on the CPU in uint8, image by image, with OpenCV where it is installed.

OpenCV and PIL round after each operation, and so differ from exact arithmetic by about half a grey level on average.
Without OpenCV the exact batched code of ``device_colour`` runs on the single image instead and rounds once, at the end:
slower, and the same views to within that rounding.
"""

from __future__ import annotations

import numpy as np
import torch

from pretrain.views import device_colour
from pretrain.views.device_colour import GREY_WEIGHTS, ORDERS, TAPS, Column

try:
    import cv2

    cv2.setNumThreads(0)  # the loader's workers already use every core
except ImportError:  # optional
    cv2 = None  # type: ignore[assignment]

AVAILABLE = cv2 is not None
_WEIGHTS = np.asarray(GREY_WEIGHTS, np.float32)


def augment(image: np.ndarray, params: torch.Tensor, *, grey_first: bool = False) -> None:
    """Colour jitter, grey, blur, solarize, in place. image: uint8 H x W x 3, contiguous; params: COLUMNS."""
    if cv2 is None:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255.0).contiguous()
        x = device_colour.augment(x, params[None], grey_first=grey_first)
        image[...] = x[0].mul_(255.0).round_().byte().permute(1, 2, 0).numpy()
        return
    row = params.tolist()
    if grey_first:
        _grey(image, row)
    for operation in ORDERS[int(row[Column.ORDER])]:
        if row[operation] != _NEUTRAL[operation]:
            _OPERATIONS[operation](image, row[operation])
    if not grey_first:
        _grey(image, row)
    if row[Column.TAPS] < 1.0:
        half = np.asarray(row[TAPS], np.float32)
        taps = np.concatenate([half[:0:-1], half])
        cv2.sepFilter2D(image, -1, taps, taps, dst=image, borderType=cv2.BORDER_REPLICATE)
    if row[Column.SOLARIZE]:
        np.copyto(image, 255 - image, where=image >= 128)


def _grey(image: np.ndarray, row: list[float]) -> None:
    if row[Column.GREY]:
        cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=image)


def _brightness(image: np.ndarray, factor: float) -> None:
    cv2.addWeighted(image, factor, image, 0.0, 0.0, dst=image)


def _contrast(image: np.ndarray, factor: float) -> None:
    # mean of the grey image: the mean of a weighted sum is the weighted sum of the means
    mean = sum(weight * channel for weight, channel in zip(GREY_WEIGHTS, cv2.mean(image)))
    cv2.addWeighted(image, factor, image, 0.0, (1.0 - factor) * mean, dst=image)


def _saturation(image: np.ndarray, factor: float) -> None:
    mix = factor * np.eye(3, dtype=np.float32) + (1.0 - factor) * _WEIGHTS[None]
    cv2.transform(image, mix, dst=image)


def _hue(image: np.ndarray, turns: float) -> None:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # HSV_FULL has 256 hues, so an addition in uint8 wraps around the circle by itself. Whole rows at once are faster
    # than the strided hue channel; saturation and value get 0 added.
    step = np.tile(np.array([round(turns * 256) % 256, 0, 0], np.uint8), image.shape[1])
    flat = hsv.reshape(len(hsv), -1)
    np.add(flat, step, out=flat)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=image)


_OPERATIONS = (_brightness, _contrast, _saturation, _hue)
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)
