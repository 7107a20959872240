"""Anchor boxes: sizes x aspect ratios at every position of every level, unrounded, size-major."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class AnchorGenerator(nn.Module):
    """Anchors (XYXY, input pixels) of feature maps with the given strides.

    ``sizes`` are square roots of areas and ``aspect_ratios`` are height / width, one list per level or one for all;
    ``offset`` moves the centres by that fraction of the stride.
    """

    def __init__(
        self, *, sizes: Sequence[Any], aspect_ratios: Sequence[Any], strides: Sequence[int], offset: float = 0.0
    ) -> None:
        super().__init__()
        self.strides, self.offset = list(strides), offset
        self.cells: list[str] = []
        for level, (level_sizes, ratios) in enumerate(
            zip(_per_level(sizes, len(self.strides)), _per_level(aspect_ratios, len(self.strides)))
        ):
            # buffers, so that they follow the model to its device; not persistent, so that no checkpoint holds them
            self.register_buffer(f"cell{level}", _cell(level_sizes, ratios), persistent=False)
            self.cells.append(f"cell{level}")
        self.count = int(getattr(self, self.cells[0]).shape[0])

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One (H * W * A) x 4 tensor per feature map (N x C x H x W), positions row by row, anchors innermost."""
        anchors = []
        for feature, stride, name in zip(features, self.strides, self.cells):
            cell: torch.Tensor = getattr(self, name)
            start = self.offset * stride
            ys, xs = (
                torch.arange(start, n * stride, step=stride, dtype=torch.float32, device=cell.device)
                for n in feature.shape[-2:]
            )
            y, x = torch.meshgrid(ys, xs, indexing="ij")
            corners = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
            anchors.append((corners + cell).view(-1, 4))
        return anchors


def _per_level(values: Sequence[Any], levels: int) -> list[Sequence[float]]:
    nested = values if isinstance(values[0], list | tuple) else [values]
    return list(nested) * levels if len(nested) == 1 else list(nested)


def _cell(sizes: Sequence[float], ratios: Sequence[float]) -> torch.Tensor:
    boxes = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2.0 / ratio)
            height = ratio * width
            boxes.append([-width / 2.0, -height / 2.0, width / 2.0, height / 2.0])
    return torch.tensor(boxes)
