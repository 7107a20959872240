"""Region heads: sampling of proposals, the FPN / C5 head with separate branches, and the C4 head on res5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from transfer.engines.torchvision.model.box_head import FastRCNNConvFCHead, FastRCNNOutputLayers
from transfer.engines.torchvision.model.boxes import match, overlaps, sample
from transfer.engines.torchvision.model.instances import ImageDetections, Proposals, Regions, Targets
from transfer.engines.torchvision.model.mask_head import MaskRCNNConvUpsampleHead
from transfer.engines.torchvision.model.poolers import ROIPooler


class RegionSampler:
    """Labels proposals by their overlap with ground truth and samples the training regions of each image."""

    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        iou_thresholds: Sequence[float] = (0.5,),
        iou_labels: Sequence[int] = (0, 1),
        append_ground_truth: bool = True,
    ) -> None:
        self.num_classes, self.append_ground_truth = num_classes, append_ground_truth
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.iou_thresholds, self.iou_labels = list(iou_thresholds), list(iou_labels)

    @torch.no_grad()
    def __call__(self, proposals: Sequence[Proposals], targets: Sequence[Targets]) -> list[Regions]:
        """One Regions per image, foreground first."""
        return [self._sample(p.boxes, t) for p, t in zip(proposals, targets)]

    def _sample(self, boxes: torch.Tensor, target: Targets) -> Regions:
        if self.append_ground_truth:
            boxes = torch.cat([boxes, target.boxes])
        rows, labels = match(overlaps(target.boxes, boxes), self.iou_thresholds, self.iou_labels, keep_best=False)
        if len(target.boxes):
            classes = target.classes[rows]
            classes[labels == 0] = self.num_classes
            classes[labels == -1] = -1
        else:
            classes = torch.full_like(rows, self.num_classes)
        chosen = torch.cat(sample(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes))
        gt_boxes = target.boxes[rows[chosen]] if len(target.boxes) else boxes[chosen]
        return Regions(boxes[chosen], classes[chosen], gt_boxes, rows[chosen])


def _foreground(regions: Sequence[Regions], num_classes: int) -> list[Regions]:
    return [r[torch.nonzero(r.foreground(num_classes), as_tuple=True)[0]] for r in regions]


def _attach_masks(detections: Sequence[ImageDetections], masks: torch.Tensor) -> list[ImageDetections]:
    return [replace(d, masks=m) for d, m in zip(detections, masks.split([len(d) for d in detections]))]


class StandardROIHeads(nn.Module):
    """Box branch and mask branch with their own poolers and heads (FPN, dilated C5)."""

    def __init__(
        self,
        sampler: RegionSampler,
        *,
        in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: FastRCNNConvFCHead,
        box_predictor: FastRCNNOutputLayers,
        mask_pooler: ROIPooler | None = None,
        mask_head: MaskRCNNConvUpsampleHead | None = None,
        train_on_predicted_boxes: bool = False,
    ) -> None:
        super().__init__()
        self.sampler, self.in_features = sampler, list(in_features)
        self.box_pooler, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        self.train_on_predicted_boxes = train_on_predicted_boxes
        if mask_head is not None:
            self.mask_pooler, self.mask_head = mask_pooler, mask_head
        self.has_masks = mask_head is not None

    def losses(
        self, features: dict[str, torch.Tensor], proposals: Sequence[Proposals], targets: Sequence[Targets]
    ) -> dict[str, torch.Tensor]:
        """loss_cls, loss_box_reg and, with masks, loss_mask on sampled regions."""
        maps = [features[name] for name in self.in_features]
        regions = self.sampler(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_pooler(maps, [r.boxes for r in regions])))
        losses = self.box_predictor.losses(logits, deltas, regions)
        if self.train_on_predicted_boxes:
            moved = self.box_predictor.boxes_of_true_class(deltas, regions)
            regions = [replace(r, boxes=b) for r, b in zip(regions, moved)]
        if self.has_masks:
            positive = _foreground(regions, self.sampler.num_classes)
            assert self.mask_pooler is not None
            x = self.mask_pooler(maps, [r.boxes for r in positive])
            losses.update(self.mask_head.loss(x, positive, targets))
        return losses

    def detect(
        self, features: dict[str, torch.Tensor], proposals: Sequence[Proposals], sizes: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """Boxes, scores and classes per image of ``sizes`` (height, width); ``add_masks`` completes them."""
        maps = [features[name] for name in self.in_features]
        boxes = [p.boxes for p in proposals]
        logits, deltas = self.box_predictor(self.box_head(self.box_pooler(maps, boxes)))
        return self.box_predictor.detect(logits, deltas, boxes, sizes)

    def add_masks(
        self, features: dict[str, torch.Tensor], detections: Sequence[ImageDetections]
    ) -> list[ImageDetections]:
        """``detections`` with the mask probabilities of their boxes and classes; unchanged without a mask head."""
        if not self.has_masks:
            return list(detections)
        assert self.mask_pooler is not None
        x = self.mask_pooler([features[name] for name in self.in_features], [d.boxes for d in detections])
        return _attach_masks(detections, self.mask_head.probabilities(x, torch.cat([d.classes for d in detections])))


class Res5ROIHeads(nn.Module):
    """The C4 head: res5 on pooled res4 features, shared by the box branch (its spatial mean) and the mask branch.

    ``extra_norm``, a norm layer after res5, makes it the head of the MoCo paper (arXiv:1911.05722, section 4.2).
    """

    def __init__(
        self,
        sampler: RegionSampler,
        *,
        in_features: Sequence[str],
        pooler: ROIPooler,
        res5: nn.Sequential,
        box_predictor: FastRCNNOutputLayers,
        mask_head: MaskRCNNConvUpsampleHead | None = None,
        extra_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.sampler, self.in_features = sampler, list(in_features)
        self.pooler, self.res5, self.box_predictor = pooler, res5, box_predictor
        if extra_norm is not None:
            self.res5.add_module("norm", extra_norm)
        if mask_head is not None:
            self.mask_head = mask_head
        self.has_masks = mask_head is not None

    def _pooled(self, features: dict[str, torch.Tensor], boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.res5(self.pooler([features[name] for name in self.in_features], boxes))

    def losses(
        self, features: dict[str, torch.Tensor], proposals: Sequence[Proposals], targets: Sequence[Targets]
    ) -> dict[str, torch.Tensor]:
        """loss_cls, loss_box_reg and, with masks, loss_mask on sampled regions."""
        regions = self.sampler(proposals, targets)
        x = self._pooled(features, [r.boxes for r in regions])  # R x C x 7 x 7
        logits, deltas = self.box_predictor(x.mean(dim=[2, 3]))
        losses = self.box_predictor.losses(logits, deltas, regions)
        if self.has_masks:
            classes = self.sampler.num_classes
            chosen = torch.cat([r.foreground(classes) for r in regions])
            losses.update(self.mask_head.loss(x[chosen], _foreground(regions, classes), targets))
        return losses

    def detect(
        self, features: dict[str, torch.Tensor], proposals: Sequence[Proposals], sizes: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """Boxes, scores and classes per image of ``sizes`` (height, width); ``add_masks`` completes them."""
        boxes = [p.boxes for p in proposals]
        logits, deltas = self.box_predictor(self._pooled(features, boxes).mean(dim=[2, 3]))
        return self.box_predictor.detect(logits, deltas, boxes, sizes)

    def add_masks(
        self, features: dict[str, torch.Tensor], detections: Sequence[ImageDetections]
    ) -> list[ImageDetections]:
        """``detections`` with the mask probabilities of their boxes and classes; unchanged without a mask head."""
        if not self.has_masks:
            return list(detections)
        x = self._pooled(features, [d.boxes for d in detections])
        return _attach_masks(detections, self.mask_head.probabilities(x, torch.cat([d.classes for d in detections])))
