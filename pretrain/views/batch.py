"""One step's images, on their way from the loader through the views to the method."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class Batch:
    """One step's images on this rank, B = batch_size / world_size of them.

    step, epoch: from 0. indices: int64 B, the images shown (a bad one's substitute, if any). images: per view, uint8
    B x 3 x H x W (channels_last memory). labels: int64 B, -1 without labels. params: per view, float32
    B x device_views.COLUMNS, for `Views.on_device`. bad: (index, "name: reason") of images found bad here.
    """

    step: int
    epoch: int
    indices: torch.Tensor
    images: list[torch.Tensor]
    labels: torch.Tensor
    params: torch.Tensor  # count x B x columns
    bad: list[tuple[int, str]] = field(default_factory=list)
