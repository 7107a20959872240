"""The images of one step, as the loader hands them to the views and the method."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class Batch:
    """This rank's images of one step: B = batch_size / world_size.

    step, epoch: counted from 0. indices: int64 B, the images shown (for a bad image, its substitute). images: per view,
    uint8 B x 3 x H x W (channels_last memory). labels: int64 B, -1 without labels. params: per view, float32
    B x device_colour.COLUMNS, for ``Views.on_device``. bad: (index, "name: reason") of the bad images of this step.
    """

    step: int
    epoch: int
    indices: torch.Tensor
    images: list[torch.Tensor]
    labels: torch.Tensor
    params: torch.Tensor  # count x B x columns
    bad: list[tuple[int, str]] = field(default_factory=list)
