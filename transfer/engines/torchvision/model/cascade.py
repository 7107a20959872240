"""Cascade R-CNN (arXiv:1712.00726): box branches in a row, each trained on the boxes of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from transfer.engines.torchvision.model.box_head import FastRCNNConvFCHead, FastRCNNOutputLayers
from transfer.engines.torchvision.model.boxes import clip_to_image, match, overlaps
from transfer.engines.torchvision.model.instances import ImageDetections, Proposals, Regions, Targets
from transfer.engines.torchvision.model.poolers import ROIPooler
from transfer.engines.torchvision.model.roi_heads import RegionSampler, StandardROIHeads


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``scale``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.scale, None


class CascadeROIHeads(StandardROIHeads):
    """Box branches of several stages with class-agnostic boxes; masks and keypoints as in ``StandardROIHeads``.

    The first stage trains on sampled proposals, every later one on all boxes that the stage before predicts for them,
    labelled at its own entry of ``ious``. Scores of a detection are the mean over stages, boxes those of the last.
    """

    def __init__(
        self,
        sampler: RegionSampler,
        *,
        in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_heads: Sequence[FastRCNNConvFCHead],
        box_predictors: Sequence[FastRCNNOutputLayers],
        ious: Sequence[float],
        **branches: Any,
    ) -> None:
        super().__init__(
            sampler,
            in_features=in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            **branches,
        )
        self.ious = list(ious)

    @property
    def last_predictor(self) -> FastRCNNOutputLayers:
        """The prediction layers of the last stage."""
        return self.box_predictor[-1]  # type: ignore[index, return-value]

    def _box_losses(
        self,
        maps: Sequence[torch.Tensor],
        regions: list[Regions],
        targets: Sequence[Targets],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[dict[str, torch.Tensor], list[Regions]]:
        losses: dict[str, torch.Tensor] = {}
        current, boxes = regions, [r.boxes for r in regions]
        for stage, predictor in enumerate(self._predictors()):
            if stage:
                current = self._relabelled(boxes, targets, sizes, self.ious[stage])
                boxes = [r.boxes for r in current]
            logits, deltas = self._run_stage(stage, maps, boxes)
            boxes = predictor.predict_boxes(deltas, boxes)
            found = predictor.losses(logits, deltas, current)
            losses.update({f"{name}_stage{stage}": loss for name, loss in found.items()})
        return losses, regions

    def detect(
        self, features: dict[str, torch.Tensor], proposals: Sequence[Proposals], sizes: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """Boxes, scores and classes per image of ``sizes`` (height, width); ``complete`` adds masks and keypoints."""
        maps = [features[name] for name in self.in_features]
        boxes = [p.boxes for p in proposals]
        scores: list[list[torch.Tensor]] = []
        for stage, predictor in enumerate(self._predictors()):
            if stage:  # empty boxes stay, so that the scores of the stages belong together
                boxes = [clip_to_image(one, size) for one, size in zip(boxes, sizes)]
            logits, deltas = self._run_stage(stage, maps, boxes)
            scores.append(predictor.probabilities(logits, [len(one) for one in boxes]))
            boxes = predictor.predict_boxes(deltas, boxes)
        mean = [sum(stages) * (1.0 / len(scores)) for stages in zip(*scores)]
        last = self.last_predictor
        return [last.select(b, s, size, last.score_thresh) for b, s, size in zip(boxes, mean, sizes)]

    def _predictors(self) -> list[FastRCNNOutputLayers]:
        return list(self.box_predictor)  # type: ignore[arg-type]

    def _run_stage(
        self, stage: int, maps: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.box_pooler(maps, boxes)
        if self.training:
            # the losses of the stages are added, and what reaches the backbone is their mean (section 4.4)
            x = _ScaledGradient.apply(x, 1.0 / len(self.ious))
        logits, deltas = self.box_predictor[stage](self.box_head[stage](x))  # type: ignore[index]
        return logits, deltas

    @torch.no_grad()
    def _relabelled(
        self,
        boxes: Sequence[torch.Tensor],
        targets: Sequence[Targets],
        sizes: Sequence[tuple[int, int]],
        iou: float,
    ) -> list[Regions]:
        """The predicted boxes inside their images as regions, labelled by their overlap with ground truth."""
        regions = []
        for predicted, target, size in zip(boxes, targets, sizes):
            inside = clip_to_image(predicted.detach(), size)
            inside = inside[(inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])]
            rows, labels = match(overlaps(target.boxes, inside), [iou], [0, 1], keep_best=False)
            if len(target.boxes):
                classes = target.classes[rows]
                classes[labels == 0] = self.sampler.num_classes
                gt_boxes = target.boxes[rows]
            else:
                classes = torch.full_like(rows, self.sampler.num_classes)
                gt_boxes = torch.zeros_like(inside)
            regions.append(Regions(inside, classes, gt_boxes, rows))
        return regions
