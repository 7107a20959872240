"""Region heads: sampling of proposals, the FPN / C5 head with separate branches, and the C4 head on res5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from transfer.engines.torchvision.model.box_head import FastRCNNConvFCHead, FastRCNNOutputLayers
from transfer.engines.torchvision.model.boxes import match, overlaps, sample
from transfer.engines.torchvision.model.instances import ImageDetections, Proposals, Regions, Targets
from transfer.engines.torchvision.model.keypoint_head import KRCNNConvDeconvUpsampleHead, with_visible_keypoints
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
    """Box, mask and keypoint branches with their own poolers and heads (FPN, dilated C5)."""

    def __init__(
        self,
        sampler: RegionSampler,
        *,
        in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: FastRCNNConvFCHead | nn.ModuleList,
        box_predictor: FastRCNNOutputLayers | nn.ModuleList,
        mask_pooler: ROIPooler | None = None,
        mask_head: MaskRCNNConvUpsampleHead | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: KRCNNConvDeconvUpsampleHead | None = None,
        train_on_predicted_boxes: bool = False,
    ) -> None:
        super().__init__()
        self.sampler, self.in_features = sampler, list(in_features)
        self.box_pooler, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        self.train_on_predicted_boxes = train_on_predicted_boxes
        if mask_head is not None:
            self.mask_pooler, self.mask_head = mask_pooler, mask_head
        if keypoint_head is not None:
            self.keypoint_pooler, self.keypoint_head = keypoint_pooler, keypoint_head
        self.has_masks, self.has_keypoints = mask_head is not None, keypoint_head is not None

    @property
    def last_predictor(self) -> FastRCNNOutputLayers:
        """The prediction layers whose boxes are detected."""
        assert isinstance(self.box_predictor, FastRCNNOutputLayers)
        return self.box_predictor

    def losses(
        self,
        features: dict[str, torch.Tensor],
        proposals: Sequence[Proposals],
        targets: Sequence[Targets],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, torch.Tensor]:
        """loss_cls and loss_box_reg, loss_mask and loss_keypoint if these branches exist, on sampled regions."""
        maps = [features[name] for name in self.in_features]
        losses, regions = self._box_losses(maps, self.sampler(proposals, targets), targets, sizes)
        positive = _foreground(regions, self.sampler.num_classes)
        if self.has_masks:
            assert self.mask_pooler is not None
            x = self.mask_pooler(maps, [r.boxes for r in positive])
            losses.update(self.mask_head.loss(x, positive, targets))
        if self.has_keypoints:
            assert self.keypoint_pooler is not None
            visible = [with_visible_keypoints(r, t) for r, t in zip(positive, targets)]
            x = self.keypoint_pooler(maps, [r.boxes for r in visible])
            losses.update(self.keypoint_head.loss(x, visible, targets))
        return losses

    def _box_losses(
        self,
        maps: Sequence[torch.Tensor],
        regions: list[Regions],
        targets: Sequence[Targets],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[dict[str, torch.Tensor], list[Regions]]:
        """The losses of the box branch, and the regions on which the other branches train."""
        predictor = self.last_predictor
        logits, deltas = predictor(self.box_head(self.box_pooler(maps, [r.boxes for r in regions])))
        losses = predictor.losses(logits, deltas, regions)
        if self.train_on_predicted_boxes:
            moved = predictor.boxes_of_true_class(deltas, regions)
            regions = [replace(r, boxes=b) for r, b in zip(regions, moved)]
        return losses, regions

    def detect(
        self, features: dict[str, torch.Tensor], proposals: Sequence[Proposals], sizes: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """Boxes, scores and classes per image of ``sizes`` (height, width); ``complete`` adds masks and keypoints."""
        maps = [features[name] for name in self.in_features]
        boxes = [p.boxes for p in proposals]
        logits, deltas = self.last_predictor(self.box_head(self.box_pooler(maps, boxes)))
        return self.last_predictor.detect(logits, deltas, boxes, sizes)

    def complete(
        self, features: dict[str, torch.Tensor], detections: Sequence[ImageDetections]
    ) -> list[ImageDetections]:
        """``detections`` with the masks and keypoints of their boxes, if these branches exist."""
        found = self.add_masks(features, detections)
        if not self.has_keypoints:
            return found
        assert self.keypoint_pooler is not None
        x = self.keypoint_pooler([features[name] for name in self.in_features], [d.boxes for d in found])
        points = self.keypoint_head.keypoints(x, torch.cat([d.boxes for d in found]))
        return [replace(d, keypoints=p) for d, p in zip(found, points.split([len(d) for d in found]))]

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

    @property
    def last_predictor(self) -> FastRCNNOutputLayers:
        """The prediction layers whose boxes are detected."""
        return self.box_predictor

    def _pooled(self, features: dict[str, torch.Tensor], boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.res5(self.pooler([features[name] for name in self.in_features], boxes))

    def losses(
        self,
        features: dict[str, torch.Tensor],
        proposals: Sequence[Proposals],
        targets: Sequence[Targets],
        sizes: Sequence[tuple[int, int]],
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
        """Boxes, scores and classes per image of ``sizes`` (height, width); ``complete`` adds masks."""
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

    def complete(
        self, features: dict[str, torch.Tensor], detections: Sequence[ImageDetections]
    ) -> list[ImageDetections]:
        """``detections`` with the masks of their boxes, if there is a mask branch."""
        return self.add_masks(features, detections)
