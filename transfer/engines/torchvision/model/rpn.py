"""Region proposal network (arXiv:1506.01497)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import batched_nms

from transfer.engines.torchvision.model.anchors import AnchorGenerator
from transfer.engines.torchvision.model.boxes import (
    BoxCoder,
    box_regression_loss,
    clip_to_image,
    match,
    overlaps,
    sample,
)
from transfer.engines.torchvision.model.convolution import Conv, init_normal
from transfer.engines.torchvision.model.instances import Proposals, Targets


class RPNHead(nn.Module):
    """3x3 convolutions with ReLU, then 1x1 convolutions to one logit and four deltas per anchor.

    ``conv_dims`` are the widths of the 3x3 convolutions; -1 keeps the input's.
    """

    def __init__(self, in_channels: int, num_anchors: int, conv_dims: Sequence[int] = (-1,)) -> None:
        super().__init__()
        widths = [in_channels, *(in_channels if dim == -1 else dim for dim in conv_dims)]
        convs = [Conv(a, b, 3, padding=1, relu=True) for a, b in itertools.pairwise(widths)]
        self.conv: nn.Module = convs[0]
        if len(convs) > 1:
            self.conv = nn.Sequential()
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = nn.Conv2d(widths[-1], num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(widths[-1], num_anchors * 4, kernel_size=1)
        for layer in [*convs, self.objectness_logits, self.anchor_deltas]:
            init_normal(layer, std=0.01)

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per level (N x C x H x W): logits N x (H*W*A) and deltas N x (H*W*A) x 4."""
        logits, deltas = [], []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.objectness_logits(hidden).permute(0, 2, 3, 1).flatten(1))
            d = self.anchor_deltas(hidden)
            d = d.view(d.shape[0], -1, 4, d.shape[-2], d.shape[-1])
            deltas.append(d.permute(0, 3, 4, 1, 2).flatten(1, -2))
        return logits, deltas


class RPN(nn.Module):
    """Objectness and boxes per anchor; losses on a random sample of anchors, proposals by NMS per level.

    ``pre_nms_topk`` (per level) and ``post_nms_topk`` (over all levels, per image) are (training, test) pairs;
    losses are divided by ``batch_size_per_image`` x images.
    """

    def __init__(
        self,
        head: RPNHead,
        anchor_generator: AnchorGenerator,
        *,
        in_features: Sequence[str],
        box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        iou_thresholds: Sequence[float] = (0.3, 0.7),
        iou_labels: Sequence[int] = (0, -1, 1),
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_topk: tuple[int, int] = (12000, 6000),
        post_nms_topk: tuple[int, int] = (2000, 1000),
        nms_thresh: float = 0.7,
        min_size: float = 0.0,
        boundary_thresh: float = -1,
        box_loss: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        loss_weight: float = 1.0,
        box_loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.rpn_head, self.anchor_generator = head, anchor_generator
        self.in_features, self.coder = list(in_features), BoxCoder(box_weights)
        self.iou_thresholds, self.iou_labels = list(iou_thresholds), list(iou_labels)
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.pre_nms_topk, self.post_nms_topk = pre_nms_topk, post_nms_topk
        self.nms_thresh, self.min_size, self.boundary_thresh = nms_thresh, float(min_size), boundary_thresh
        self.box_loss, self.smooth_l1_beta = box_loss, smooth_l1_beta
        self.weights = {"loss_rpn_cls": loss_weight, "loss_rpn_loc": box_loss_weight * loss_weight}

    def forward(
        self,
        features: dict[str, torch.Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Targets] | None = None,
    ) -> tuple[list[Proposals], dict[str, torch.Tensor]]:
        """Proposals per image of ``sizes`` (height, width) and, when ``targets`` are given, the two losses."""
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        losses = self.losses(anchors, logits, deltas, sizes, targets) if targets is not None else {}
        return self.propose(anchors, logits, deltas, sizes), losses

    @torch.no_grad()
    def label_anchors(
        self, anchors: torch.Tensor, sizes: Sequence[tuple[int, int]], targets: Sequence[Targets]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sampled labels (N x A: 1 object, 0 background, -1 unused) and matched ground-truth boxes (N x A x 4)."""
        labels, matched = [], []
        for (height, width), target in zip(sizes, targets):
            rows, label = match(overlaps(target.boxes, anchors), self.iou_thresholds, self.iou_labels, keep_best=True)
            if self.boundary_thresh >= 0:
                limit = self.boundary_thresh
                inside = (anchors[:, 0] >= -limit) & (anchors[:, 1] >= -limit)
                inside &= (anchors[:, 2] < width + limit) & (anchors[:, 3] < height + limit)
                label[~inside] = -1
            positive, negative = sample(label, self.batch_size_per_image, self.positive_fraction, background=0)
            label.fill_(-1)
            label[positive] = 1
            label[negative] = 0
            labels.append(label)
            matched.append(target.boxes[rows] if len(target.boxes) else torch.zeros_like(anchors))
        return torch.stack(labels), torch.stack(matched)

    def losses(
        self,
        anchors: Sequence[torch.Tensor],
        logits: Sequence[torch.Tensor],
        deltas: Sequence[torch.Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Targets],
    ) -> dict[str, torch.Tensor]:
        """Summed losses over the sampled anchors / (batch_size_per_image x images)."""
        flat = torch.cat(list(anchors))
        labels, matched = self.label_anchors(flat, sizes, targets)
        positive, used = labels == 1, labels >= 0
        references = flat.expand(len(targets), -1, -1)[positive]
        box = box_regression_loss(
            self.box_loss,
            self.smooth_l1_beta,
            self.coder,
            references,
            torch.cat(list(deltas), dim=1)[positive],
            matched[positive],
        )
        objectness = F.binary_cross_entropy_with_logits(
            torch.cat(list(logits), dim=1)[used], labels[used].to(torch.float32), reduction="sum"
        )
        divisor = self.batch_size_per_image * len(targets)
        losses = {"loss_rpn_cls": objectness / divisor, "loss_rpn_loc": box / divisor}
        return {name: loss * self.weights[name] for name, loss in losses.items()}

    @torch.no_grad()
    def propose(
        self,
        anchors: Sequence[torch.Tensor],
        logits: Sequence[torch.Tensor],
        deltas: Sequence[torch.Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Proposals]:
        """Boxes with the highest logits of each level, clipped, filtered by size and NMS, then the best of all levels.

        Raises FloatingPointError in training when a prediction is not finite.
        """
        images, mode = len(sizes), 0 if self.training else 1
        top_logits, top_boxes, top_levels = [], [], []
        for level, (reference, logit, delta) in enumerate(zip(anchors, logits, deltas)):
            best, index = logit.topk(min(self.pre_nms_topk[mode], logit.shape[1]), dim=1)  # N x T
            # only the boxes of the top logits are decoded
            chosen = torch.gather(delta, 1, index[:, :, None].expand(-1, -1, 4)).reshape(-1, 4)
            boxes = self.coder.decode(reference[index].view(-1, 4), chosen)
            top_logits.append(best)
            top_boxes.append(boxes.view(images, -1, 4))
            top_levels.append(torch.full((best.shape[1],), level, dtype=torch.int64, device=best.device))
        scores, boxes, levels = torch.cat(top_logits, 1), torch.cat(top_boxes, 1), torch.cat(top_levels)
        limit = self.post_nms_topk[mode]
        return [self._select(boxes[i], scores[i], levels, sizes[i], limit) for i in range(images)]

    def _select(
        self, boxes: torch.Tensor, scores: torch.Tensor, levels: torch.Tensor, size: tuple[int, int], limit: int
    ) -> Proposals:
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        if not finite.all():
            if self.training:
                raise FloatingPointError("the RPN predicts boxes or scores that are not finite: training has diverged")
            boxes, scores, levels = boxes[finite], scores[finite], levels[finite]
        boxes = clip_to_image(boxes, size)
        keep = (boxes[:, 2] - boxes[:, 0] > self.min_size) & (boxes[:, 3] - boxes[:, 1] > self.min_size)
        if not keep.all():
            boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
        best = batched_nms(boxes.float(), scores, levels, self.nms_thresh)[:limit]
        return Proposals(boxes[best], scores[best])
