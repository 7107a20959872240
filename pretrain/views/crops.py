"""The CPU stage of a view: decode no larger than needed, crop, resize with antialiasing, mirror; all in uint8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate

from pretrain.images.decode import Picture, Scratch

try:
    import cv2
except ImportError:  # optional
    cv2 = None  # type: ignore[assignment]

ATTEMPTS = 10  # rejection attempts of RandomResizedCrop, as in torchvision
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


@dataclass(frozen=True)
class Crop:
    """A box of the full-size image, in pixels, and whether its view is mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


def random_resized_crop(
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    area_u: Sequence[float],
    ratio_u: Sequence[float],
    place_u: Sequence[float],
    flip: bool = False,
) -> Crop:
    """The box of torchvision's RandomResizedCrop (ratio 3/4 to 4/3), from uniform numbers given by the caller.

    area_u, ratio_u: ATTEMPTS numbers each; place_u: 2 numbers (top, left). All in [0, 1). After ten rejected shapes
    the largest central box within the ratio bounds is taken.
    """
    for area_part, ratio_part in zip(area_u, ratio_u):
        area = (scale[0] + (scale[1] - scale[0]) * area_part) * height * width
        ratio = math.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * ratio_part)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(place_u[0] * (height - h + 1)), int(place_u[1] * (width - w + 1)), h, w, flip)
    h, w = height, width
    if width / height < 3 / 4:
        h = round(w / (3 / 4))
    elif width / height > 4 / 3:
        w = round(h * (4 / 3))
    return Crop((height - h) // 2, (width - w) // 2, h, w, flip)


def reduction_for(picture: Picture, crops: Sequence[Crop], size: int) -> int:
    """The largest decoding reduction at which every crop still has at least ``size`` pixels on both sides.

    So a crop is enlarged only where it would be without the reduction: everywhere else resizing still averages pixels,
    and the statistics of the views stay those of full-size decoding.
    """
    least = min(min(crop.height, crop.width) for crop in crops)
    return next((reduction for reduction in picture.reductions if least // reduction >= size), 1)


def cut(
    pixels: np.ndarray, crop: Crop, size: int, reduction: int, out: np.ndarray, scratch: Scratch | None = None
) -> None:
    """Resize one crop of an image to out, uint8 size x size x 3, contiguous.

    pixels: uint8 H x W x 3, decoded at 1 / reduction of the size that ``crop`` refers to. scratch: memory for the crop,
    other than that of ``pixels``.
    """
    height, width = pixels.shape[:2]
    top, left = min(round(crop.top / reduction), height - 1), min(round(crop.left / reduction), width - 1)
    bottom = min(max(round((crop.top + crop.height) / reduction), top + 1), height)
    right = min(max(round((crop.left + crop.width) / reduction), left + 1), width)
    part = pixels[top:bottom, left:right]
    contiguous = (scratch or Scratch()).array(*part.shape)
    contiguous[...] = part  # torch resizes contiguous pixels only, and would allocate memory for its copy
    _resize_into(_planes(contiguous), [size, size], False, None, None, out=_planes(out))
    if crop.flip and cv2 is not None:
        cv2.flip(out, 1, dst=out)  # ten times as fast as torch, the same pixels
    elif crop.flip:
        out[...] = out[:, ::-1].copy()


_resize_into = torch.ops.aten._upsample_bilinear2d_aa.out  # interpolate() calls it, but cannot write to ``out``


def _planes(pixels: np.ndarray) -> torch.Tensor:
    """The same memory as a batch of one image for torch: H x W x 3 -> 1 x 3 x H x W, channels_last."""
    height, width = pixels.shape[:2]
    return torch.from_numpy(pixels).as_strided((1, 3, height, width), (height * width * 3, 1, width * 3, 3))


def resize(pixels: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Bilinear resize with antialiasing, in torchvision's uint8 channels-last kernel: uint8 1 x 3 x height x width."""
    image = _planes(np.require(pixels, requirements=("C", "W")))  # torch warns of read-only memory
    if image.shape[2:] == (height, width):
        return image
    return interpolate(image, size=(height, width), mode="bilinear", antialias=True)


def cut_centre(picture: Picture, resize_to: int, size: int, out: np.ndarray, scratch: Scratch | None = None) -> None:
    """Resize the shorter side to ``resize_to``, write the central size x size box to out (Resize, CenterCrop)."""
    height, width = picture.height, picture.width
    if height <= width:
        new_height, new_width = resize_to, max(int(resize_to * width / height), size)
    else:
        new_height, new_width = max(int(resize_to * height / width), size), resize_to
    whole = Crop(0, 0, height, width)
    pixels = picture.pixels(reduction_for(picture, [whole], max(new_height, new_width)), scratch)
    resized = resize(pixels, new_height, new_width)[0].permute(1, 2, 0)
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    torch.from_numpy(out).copy_(resized[top : top + size, left : left + size])
