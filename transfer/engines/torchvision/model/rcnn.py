"""GeneralizedRCNN: images to losses in training, to detections otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from transfer.engines.torchvision.model.dilated_c5 import DilatedC5
from transfer.engines.torchvision.model.fpn import FPN
from transfer.engines.torchvision.model.instances import ImageDetections, Proposals, Targets
from transfer.engines.torchvision.model.postprocess import rescale
from transfer.engines.torchvision.model.resnet import ResNet
from transfer.engines.torchvision.model.roi_heads import Res5ROIHeads, StandardROIHeads
from transfer.engines.torchvision.model.rpn import RPN
from transfer.engines.torchvision.model.simple_feature_pyramid import SimpleFeaturePyramid

Detector = TypeVar("Detector", bound="ImageDetector")
# (detector, items) -> outputs of the backbone's frozen stages, and each image's own (height, width)
FrozenStages = Callable[[Any, Sequence[Mapping[str, Any]]], tuple[dict[str, torch.Tensor], list[tuple[int, int]]]]


class ImageDetector(nn.Module):
    """What all detectors do with images.

    ``pixel_mean`` and ``pixel_std`` are per channel in the order of the input images, on the 0-255 scale. All images
    are padded to ``square_size`` pixels a side if it is above 0.
    """

    def __init__(
        self,
        backbone: ResNet | FPN | DilatedC5 | SimpleFeaturePyramid,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        square_size: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.pixel_mean: torch.Tensor
        self.pixel_std: torch.Tensor
        self.memory_format, self.square_size = torch.contiguous_format, square_size
        self.frozen_stages: FrozenStages | None = None

    def channels_last(self: Detector) -> Detector:
        """Keep weights and images in channels-last memory format from now on; returns the model."""
        self.memory_format = torch.channels_last
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def training_state(self) -> dict[str, Any]:
        """What a resumed training needs beside the weights."""
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``training_state`` returned."""

    def batch_images(self, items: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Normalised images, zero-padded at the right and bottom: N x 3 x H x W, and each one's own (height, width)."""
        images = [(item["image"].to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std for item in items]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = (self.square_size or max(side) for side in zip(*sizes))
        step = self.backbone.size_divisibility
        if step > 1:
            height, width = -(-height // step) * step, -(-width // step) * step
        batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for row, image in zip(batch, images):
            row[:, : image.shape[1], : image.shape[2]].copy_(image)
        return batch.contiguous(memory_format=self.memory_format), sizes

    def features(self, items: Sequence[Mapping[str, Any]]) -> tuple[dict[str, torch.Tensor], list[tuple[int, int]]]:
        """The backbone's maps of a batch, N x C x H x W each, and each image's own (height, width).

        In training, ``frozen_stages`` gives the outputs of the stages of a frozen backbone instead of the images.
        """
        if self.training and self.frozen_stages is not None:
            stages, sizes = self.frozen_stages(self, items)
            rest = getattr(self.backbone, "from_stages", None)
            return (stages if rest is None else rest(stages)), sizes
        images, sizes = self.batch_images(items)
        return self.backbone(images), sizes


class GeneralizedRCNN(ImageDetector):
    """Backbone, region proposal network and region heads; without the network, proposals come with the images."""

    def __init__(
        self,
        backbone: ResNet | FPN | DilatedC5 | SimpleFeaturePyramid,
        proposal_generator: RPN | None,
        roi_heads: StandardROIHeads | Res5ROIHeads,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        square_size: int = 0,
    ) -> None:
        super().__init__(backbone, pixel_mean=pixel_mean, pixel_std=pixel_std, square_size=square_size)
        self.proposal_generator, self.roi_heads = proposal_generator, roi_heads

    def detect_boxes(
        self,
        features: dict[str, torch.Tensor],
        sizes: Sequence[tuple[int, int]],
        items: Sequence[Mapping[str, Any]] = (),
    ) -> list[ImageDetections]:
        """Detections without masks and keypoints, in the coordinates of the input images of ``sizes``.

        ``items`` have the proposals of a detector that makes none.
        """
        proposals, _ = self._propose(features, sizes, items, None)
        return self.roi_heads.detect(features, proposals, sizes)

    def _propose(
        self,
        features: dict[str, torch.Tensor],
        sizes: Sequence[tuple[int, int]],
        items: Sequence[Mapping[str, Any]],
        targets: Sequence[Targets] | None,
    ) -> tuple[list[Proposals], dict[str, torch.Tensor]]:
        if self.proposal_generator is None:
            return [Proposals.from_item(item, self.pixel_mean.device) for item in items], {}
        proposals, losses = self.proposal_generator(features, sizes, targets)
        return proposals, dict(losses)

    def forward(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor] | list[ImageDetections]:
        """Losses by name in training mode; detections in each item's original height x width in evaluation mode.

        An item has ``image`` (uint8, 3 x H x W) and, in training, ``instances``; see ``Targets.from_item``.
        """
        features, sizes = self.features(items)
        if self.training:
            targets = [Targets.from_item(item, self.pixel_mean.device) for item in items]
            proposals, losses = self._propose(features, sizes, items, targets)
            return {**self.roi_heads.losses(features, proposals, targets, sizes), **losses}
        detections = self.roi_heads.complete(features, self.detect_boxes(features, sizes, items))
        return [
            rescale(one, size, int(item.get("height", size[0])), int(item.get("width", size[1])))
            for one, size, item in zip(detections, sizes, items)
        ]
