"""The loops of RoIAlign (arXiv:1703.06870, section 3), compiled by numba.

Results equal torchvision's bit for bit because every expression is float32, with the operations in torchvision's order
(``roi_align_kernel.cpp``). Hence the ``f32`` around constants, which would otherwise make an expression float64, and
hence no ``fastmath``, which would allow reordering and fused multiply-add. The order of additions is what counts, not
the order of loops: channels are independent, so the innermost loop runs over them and is vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

f32 = np.float32
# floats between the rows of a tile: rows that are a power of two apart would compete for the same few cache sets
PADDING = 16


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled, without the interpreter lock, cached on disk where that is possible."""
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # neither the source folder nor the user's cache folder is writable
        return njit(nogil=True, error_model="numpy")(function)


@compiled
def _grid(roi, scale, side, ratio, aligned):  # type: ignore[no-untyped-def]
    """Top and left of a region on the map, height and width of a cell, and samples per cell in both directions."""
    offset = f32(0.5) if aligned else f32(0)
    left, top = roi[1] * scale - offset, roi[2] * scale - offset
    width, height = roi[3] * scale - offset - left, roi[4] * scale - offset - top
    if not aligned:
        width, height = max(width, f32(1)), max(height, f32(1))
    cell_height, cell_width = height / f32(side), width / f32(side)
    rows = ratio if ratio > 0 else int(np.ceil(cell_height))
    columns = ratio if ratio > 0 else int(np.ceil(cell_width))
    return top, left, cell_height, cell_width, rows, columns


@compiled
def _neighbours(start, cell_size, cell, index, samples, length):  # type: ignore[no-untyped-def]
    """Along one axis: the two pixels around a sample and their weights; the first pixel is -1 outside the map.

    A sample up to one pixel outside the map still counts and is clamped to its border, as in torchvision.
    """
    place = start + f32(cell) * cell_size + (f32(index) + f32(0.5)) * cell_size / f32(samples)
    if not (place >= f32(-1) and place <= f32(length)):
        return -1, -1, f32(0), f32(0)
    place = max(place, f32(0))
    low = int(place)
    if low >= length - 1:
        return length - 1, length - 1, f32(1), f32(0)
    rest = place - f32(low)
    return low, low + 1, f32(1) - rest, rest


@compiled
def pool(features, height, width, rois, scale, side, ratio, aligned, first, last, pooled):  # type: ignore[no-untyped-def]
    """Fill ``pooled`` (R x C x side^2) for the regions first .. last - 1 from ``features`` (N x H*W x C)."""
    channels = features.shape[2]
    tile = np.empty((side * side, channels + PADDING), np.float32)
    for region in range(first, last):
        top, left, cell_height, cell_width, rows, columns = _grid(rois[region], scale, side, ratio, aligned)
        image = features[int(rois[region, 0])]
        count = f32(max(rows * columns, 1))
        # cells x channels: additions go to consecutive addresses; transposed into the output at the end
        tile[:] = f32(0)
        for y in range(side):
            for row in range(rows):
                above, below, high, low = _neighbours(top, cell_height, y, row, rows, height)
                if above < 0:
                    continue
                for x in range(side):
                    total = tile[y * side + x]
                    for column in range(columns):
                        before, after, near, far = _neighbours(left, cell_width, x, column, columns, width)
                        if before < 0:
                            continue
                        a, b = image[above * width + before], image[above * width + after]
                        c, d = image[below * width + before], image[below * width + after]
                        wa, wb, wc, wd = high * near, high * far, low * near, low * far
                        for channel in range(channels):
                            total[channel] += wa * a[channel] + wb * b[channel] + wc * c[channel] + wd * d[channel]
        target = pooled[region]
        for channel in range(channels):
            for cell in range(side * side):
                target[channel, cell] = tile[cell, channel] / count


@compiled
def spread(gradient, height, width, rois, scale, side, ratio, aligned, first, last, into):  # type: ignore[no-untyped-def]
    """Add ``gradient`` (R x C x side^2) of the channels first .. last - 1 to ``into`` (N x H*W x C): pool's adjoint."""
    channels = last - first
    tile = np.empty((side * side, channels + PADDING), np.float32)
    for region in range(len(rois)):
        top, left, cell_height, cell_width, rows, columns = _grid(rois[region], scale, side, ratio, aligned)
        image = into[int(rois[region, 0])]
        count = f32(rows * columns)
        # transposed as in ``pool``, so that the innermost loop reads consecutive addresses
        for channel in range(channels):
            for cell in range(side * side):
                tile[cell, channel] = gradient[region, first + channel, cell]
        for y in range(side):
            for x in range(side):
                source = tile[y * side + x]
                for row in range(rows):
                    above, below, high, low = _neighbours(top, cell_height, y, row, rows, height)
                    if above < 0:
                        continue
                    for column in range(columns):
                        before, after, near, far = _neighbours(left, cell_width, x, column, columns, width)
                        if before < 0:
                            continue
                        for pixel, weight in (
                            (above * width + before, high * near),
                            (above * width + after, high * far),
                            (below * width + before, low * near),
                            (below * width + after, low * far),
                        ):
                            target = image[pixel, first:last]
                            for channel in range(channels):
                                target[channel] += source[channel] * weight / count
