"""The device stage of a view: colour jitter, grey, blur and normalisation of a batch, with parameters per image.

The operations are those of torchvision's PIL transforms, in float32 and without PIL's rounding after each one. The
parameters are drawn on the CPU and stay there: which images an operation changes is decided on the host, so that no
step waits for a GPU to count the images in a mask. Only index and parameter vectors are sent, by copies that do not
block.
"""

from __future__ import annotations

import functools
import itertools
from enum import IntEnum

import numpy as np
import torch
from torch.nn.functional import pad

from runtime.host_copies import send

ORDERS = tuple(itertools.permutations(range(4)))  # of brightness, contrast, saturation, hue: ColorJitter shuffles them
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's "L"
_CHUNK = 1 << 17  # floats per part on a CPU: they and their temporaries fit the second-level cache
_TILE = 32  # rows or columns blurred by one small matrix product
_BLUR_RADIUS = 6  # of PIL's blur for sigma up to 2


class Column(IntEnum):
    """Columns of the parameter table of a view, N x COLUMNS."""

    BRIGHTNESS = 0
    CONTRAST = 1
    SATURATION = 2
    HUE = 3  # turn of the colour circle, in turns
    ORDER = 4  # row of ORDERS
    GREY = 5  # 0 or 1
    TAPS = 6  # first of the columns with the right half of the blur's taps, centre first; 1 0 0 ... for no blur
    SOLARIZE = TAPS + _BLUR_RADIUS + 1  # 0 or 1


TAPS = slice(Column.TAPS, Column.TAPS + _BLUR_RADIUS + 1)
COLUMNS = Column.SOLARIZE + 1


FACTORS = (Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION)


def finish(
    pixels: torch.Tensor,
    params: torch.Tensor | None,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype = torch.float32,
    grey_first: bool = False,
) -> torch.Tensor:
    """Augment and normalise a batch.

    pixels: uint8 N x 3 x H x W on any device. params: float32 N x COLUMNS on the CPU, or None to normalise only.
    mean, std: of the normalisation, for pixels in [0, 1]. Returns N x 3 x H x W of ``dtype``, channels_last.
    """
    factor, shift = _scale(mean, std, pixels.device)
    rows = factor.repeat(pixels.shape[3]), shift.repeat(pixels.shape[3])
    out = torch.empty(pixels.shape, dtype=dtype, device=pixels.device, memory_format=torch.channels_last)
    chunk = max(1, _CHUNK // pixels[0].numel()) if pixels.device.type == "cpu" else len(pixels)
    for start in range(0, len(pixels), chunk):
        part = slice(start, start + chunk)
        if params is None:
            _normalise_rows(pixels[part], *rows, out[part])
            continue
        x = pixels[part].to(torch.float32, memory_format=torch.contiguous_format).mul_(1.0 / 255.0)
        x = augment(x, params[part], grey_first=grey_first)
        out[part] = torch.addcmul(shift.view(3, 1, 1), x, factor.view(3, 1, 1), value=255.0)
    return out


@functools.cache
def _scale(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and shift that normalise bytes: x / 255 / std - mean / std. Sent to each device once."""
    factor = torch.tensor([1.0 / (255.0 * s) for s in std])
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
    return send(factor, device), send(shift, device)


def _normalise_rows(pixels: torch.Tensor, factor: torch.Tensor, shift: torch.Tensor, out: torch.Tensor) -> None:
    """out = pixels * factor + shift, over whole rows of interleaved channels so that the work vectorises.

    pixels: N x 3 x H x W with channels-last strides; factor, shift: 3 W.
    """
    rows = pixels.permute(0, 2, 3, 1).flatten(2).float()  # N x H x 3 W
    rows = torch.addcmul(shift, rows, factor)
    out.permute(0, 2, 3, 1).copy_(rows.unflatten(2, (-1, 3)))


def augment(x: torch.Tensor, params: torch.Tensor, *, grey_first: bool = False) -> torch.Tensor:
    """Colour jitter, grey, blur, solarize. x: float32 N x 3 x H x W in [0, 1], overwritten; params: N x COLUMNS."""
    if grey_first:
        x = _grey(x, params)
    x = _jitter(x, params)
    if not grey_first:
        x = _grey(x, params)
    return _solarize(_blur(x, params), params)


def _solarize(x: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    """Invert the pixels of at least 128 / 255, as PIL's ``ImageOps.solarize`` does."""
    rows = _rows(params[:, Column.SOLARIZE] > 0, x)
    if len(rows):
        part = x[rows]
        x[rows] = torch.where(part >= 127.5 / 255.0, 1.0 - part, part)
    return x


def luma(x: torch.Tensor) -> torch.Tensor:
    """Grey value of RGB: N x 3 x H x W -> N x 1 x H x W."""
    red, green, blue = GREY_WEIGHTS
    return torch.add(x[:, :1] * red, x[:, 1:2], alpha=green).add_(x[:, 2:], alpha=blue)


def _rows(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Indices at which a mask on the CPU is true, on the device of ``like``; the copy does not block."""
    return send(mask.nonzero()[:, 0], like.device)


def _grey(x: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    rows = _rows(params[:, Column.GREY] > 0, x)
    if len(rows):
        x[rows] = luma(x[rows]).expand(-1, 3, -1, -1)
    return x


def _jitter(x: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    """ColorJitter, whose four operations each image applies in an order of its own.

    At each of the four turns every image has one operation. Brightness, contrast and saturation all blend the image
    with a reference (black, its mean grey, its grey image), so one blend with per-image factors and references does all
    of a turn's images at once. Images whose turn is hue have factor 1 there, which changes nothing, and are done apart.
    """
    orders = torch.tensor(ORDERS)[params[:, Column.ORDER].long()]  # N x 4
    active = params[:, : Column.HUE + 1] != torch.tensor([1.0, 1.0, 1.0, 0.0])  # N x 4
    for turn in range(4):
        operation = orders[:, turn]
        acts = active.gather(1, operation[:, None])[:, 0]
        blends = acts & (operation != Column.HUE)
        if blends.any():
            factor = torch.where(blends, params.gather(1, operation[:, None])[:, 0], torch.ones(len(params)))
            x = _blend(x, factor, operation)
        rows = _rows(acts & (operation == Column.HUE), x)
        if len(rows):
            turns = send(params[:, Column.HUE], x.device)[rows]
            if len(rows) == len(x):
                x = shift_hue(x, turns)
            else:
                x[rows] = shift_hue(x[rows], turns)
    return x


def _blend(x: torch.Tensor, factor: torch.Tensor, operation: torch.Tensor) -> torch.Tensor:
    """factor x + (1 - factor) reference, clamped to [0, 1]; factor and operation: one per image, on the CPU."""
    shape = (-1, 1, 1, 1)
    weight = send(factor, x.device).view(shape)
    if bool((operation == Column.BRIGHTNESS).all()):
        return x.mul_(weight).clamp_(0.0, 1.0)
    grey = luma(x)
    mean = grey.mean((2, 3), keepdim=True)
    contrast = send((operation == Column.CONTRAST).float(), x.device).view(shape)
    saturation = send((operation == Column.SATURATION).float(), x.device).view(shape)
    reference = torch.addcmul(mean * contrast, grey, saturation)
    return torch.lerp(reference, x, weight).clamp_(0.0, 1.0)


def shift_hue(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate the hue in HSV. x: float32 N x 3 x H x W in [0, 1]; turns: N, in turns of the circle.

    Value and chroma stay. With hue h in turns and chroma c, channel k of the result is
    value - c clamp(min(m, 4 - m), 0, 1), where m = (offset_k + 6 h) mod 6 and the offsets are 5, 3, 1.
    """
    red, green, blue = x.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = chroma.clamp_min(1e-8).reciprocal_().div_(6.0)
    hue = torch.where(
        value == red,
        (green - blue).mul_(scale),
        torch.where(
            value == green, (blue - red).mul_(scale).add_(1.0 / 3.0), (red - green).mul_(scale).add_(2.0 / 3.0)
        ),
    )
    hue += (turns + 3.0).view(-1, 1, 1)  # positive, so that frac() below is the remainder modulo 1
    out = torch.empty_like(x)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        m = torch.frac(hue + offset / 6.0).mul_(6.0)
        m = torch.minimum(m, 4.0 - m).clamp_(0.0, 1.0)
        torch.addcmul(value, chroma, m, value=-1.0, out=out[:, channel])
    return out


def blur_taps(sigma: np.ndarray) -> np.ndarray:
    """Right half of the impulse response of PIL's GaussianBlur(sigma), centre first: float64, ... x (radius + 1).

    PIL blurs by three passes of an "extended box" of variance sigma^2 / 3 (Gwosdek et al., "Theoretical foundations of
    Gaussian convolution by extended box filtering", SSVM 2011): weight 1 up to distance l, weight a at l + 1.
    Sigma 0 gives 1 0 0 ...; the radius is enough for sigma up to 2.
    """
    variance = np.asarray(sigma, np.float64)[..., None] ** 2 / 3.0
    whole = np.floor((np.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    a = (2 * whole + 1) * (whole * (whole + 1) - 3.0 * variance) / (6.0 * (variance - (whole + 1) ** 2))
    distance = np.abs(np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1))
    box = (distance <= whole) + a * (distance == whole + 1)
    length = 6 * _BLUR_RADIUS + 1  # of the box convolved with itself twice
    spectrum = np.fft.rfft(box / box.sum(-1, keepdims=True), n=length)
    taps = np.fft.irfft(spectrum**3, n=length)[..., 3 * _BLUR_RADIUS : 4 * _BLUR_RADIUS + 1]
    return np.where(variance > 0, taps.clip(0.0), distance[_BLUR_RADIUS:] == 0)


def _blur(x: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    """Blur the images whose centre tap is below 1, with replicated borders."""
    blurred = params[:, Column.TAPS] < 1.0
    if not blurred.any():
        return x
    half = params[blurred, TAPS]
    taps = send(torch.cat([half[:, 1:].flip(1), half], 1), x.device)
    rows = _rows(blurred, x)
    x[rows] = separable(x[rows], taps)
    return x


def separable(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Convolve each image with its own taps along both axes. x: N x 3 x H x W float32; taps: N x (2 r + 1).

    Computed as products with small banded matrices: ``_TILE`` output rows (columns) need ``_TILE`` + 2 r input rows
    (columns), and the band is the same for every tile. Matrix units do this fast; a convolution with other taps for
    each image (groups = N) does not use them.
    """
    height, width = x.shape[2:]
    radius = taps.shape[1] // 2
    tile = min(_TILE, max(height, width))
    band = _band(taps, tile)[:, None, None]  # N x 1 x 1 x tile x (tile + 2 r)
    extra_h, extra_w = -height % tile, -width % tile
    x = pad(x, (radius, radius + extra_w, radius, radius + extra_h), mode="replicate")
    columns = x.unfold(3, tile + 2 * radius, tile).permute(0, 1, 3, 2, 4)  # N x 3 x tiles x (H + 2 r) x (tile + 2 r)
    x = (columns @ band.transpose(-1, -2)).permute(0, 1, 3, 2, 4).flatten(3)
    rows = x.unfold(2, tile + 2 * radius, tile).transpose(-1, -2)  # N x 3 x tiles x (tile + 2 r) x W
    return (band @ rows).flatten(2, 3)[:, :, :height, :width]


def _band(taps: torch.Tensor, tile: int) -> torch.Tensor:
    """Toeplitz band of each image: N x tile x (tile + 2 r), row i holding the taps from column i on."""
    count, size = taps.shape
    padded = torch.zeros(
        count, tile, tile + size, device=taps.device
    )  # one column more than the band: each row is shifted by one
    padded[:, :, :size] = taps[:, None]
    return padded.flatten(1)[:, : tile * (tile + size - 1)].view(count, tile, tile + size - 1)
