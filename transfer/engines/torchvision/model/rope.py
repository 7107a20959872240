"""Axial rotary positions as DINOv3 computes them (arXiv:2508.10104): tables of angles, and the rotation by them.

Patch centres have coordinates from -1 to 1 on each axis, whatever the size of the image. Half of the channels of a
head turn with the row, half with the column. The source is facebookresearch/dinov3, rope_position_encoding.py.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from convert.rotary_periods import BASE, rotary_periods
from transfer.engines.torchvision.model.windows import split_windows


class AxialRope(nn.Module):
    """Tables of rotations for grids of any size, for heads of ``head`` channels, a multiple of 4.

    ``periods`` (head / 4) is a buffer, not a constant: the released files hold it in less precision than float32.
    """

    periods: torch.Tensor

    def __init__(self, head: int, base: float = BASE) -> None:
        super().__init__()
        self.register_buffer("periods", torch.from_numpy(rotary_periods(head, base)))

    def forward(self, size: tuple[int, int], *, prefix: int = 0, window: int = 0) -> torch.Tensor:
        """Cosines and sines for a grid of (height, width) ``size``: 2 x windows x tokens x head.

        Without ``window`` there is one window, the whole grid, after ``prefix`` tokens that are not turned. With it,
        windows are those of ``split_windows``; coordinates are those in the whole image, and go on in its padding.
        """
        axes = []
        for length in size:
            padded = length + (-length % window if window else 0)
            axes.append(torch.arange(0.5, padded, dtype=self.periods.dtype, device=self.periods.device) / length)
        coordinates = 2.0 * torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) - 1.0
        angles = (2 * math.pi * coordinates[..., None] / self.periods).flatten(2)  # H x W x head / 2
        table = torch.stack((angles.cos(), angles.sin())).tile(2)
        if window:
            return torch.stack([split_windows(part[None], window)[0].flatten(1, 2) for part in table])
        table = table.flatten(1, 2)
        still = torch.stack((table.new_ones(prefix, table.shape[-1]), table.new_zeros(prefix, table.shape[-1])))
        return torch.cat((still, table), dim=1)[:, None]


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Queries or keys, (images * windows) x heads x tokens x head, turned by a table of ``AxialRope``.

    Computed in the table's type, as DINOv3 does under bfloat16, and returned in that of ``x``.
    """
    cosines, sines = table[:, :, None]
    by_image = x.unflatten(0, (-1, len(cosines)))
    first, second = by_image.chunk(2, dim=-1)
    turned = by_image * cosines + torch.cat((-second, first), dim=-1) * sines
    return turned.to(x.dtype).reshape(x.shape)
