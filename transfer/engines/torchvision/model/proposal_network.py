"""A region proposal network alone: images to object proposals without classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from transfer.engines.torchvision.model.instances import ImageDetections, Targets
from transfer.engines.torchvision.model.postprocess import rescale
from transfer.engines.torchvision.model.rcnn import ImageDetector
from transfer.engines.torchvision.model.rpn import RPN


class ProposalNetwork(ImageDetector):
    """Backbone and region proposal network."""

    def __init__(
        self,
        backbone: Any,
        proposal_generator: RPN,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        square_size: int = 0,
    ) -> None:
        super().__init__(backbone, pixel_mean=pixel_mean, pixel_std=pixel_std, square_size=square_size)
        self.proposal_generator = proposal_generator

    def forward(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor] | list[ImageDetections]:
        """Losses in training mode; in evaluation mode proposals, whose scores are logits and whose class is 0."""
        features, sizes = self.features(items)
        targets = [Targets.from_item(item, self.pixel_mean.device) for item in items] if self.training else None
        proposals, losses = self.proposal_generator(features, sizes, targets)
        if self.training:
            return dict(losses)
        found = [ImageDetections(p.boxes, p.logits, torch.zeros_like(p.logits, dtype=torch.int64)) for p in proposals]
        return [
            rescale(one, size, int(item.get("height", size[0])), int(item.get("width", size[1])))
            for one, size, item in zip(found, sizes, items)
        ]
