"""RetinaNet (arXiv:1708.02002): classes and boxes for every anchor of a pyramid, trained by the focal loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchvision.ops import batched_nms

from transfer.engines.torchvision.model.anchors import AnchorGenerator
from transfer.engines.torchvision.model.boxes import BoxCoder, box_regression_loss, match, overlaps
from transfer.engines.torchvision.model.convolution import init_normal
from transfer.engines.torchvision.model.focal_loss import focal_loss, skip_first_call
from transfer.engines.torchvision.model.instances import ImageDetections, Targets
from transfer.engines.torchvision.model.level_norms import LevelNorms
from transfer.engines.torchvision.model.norms import build_norm
from transfer.engines.torchvision.model.postprocess import rescale
from transfer.engines.torchvision.model.rcnn import ImageDetector

FIRST_NORMALIZER, MOMENTUM = 100.0, 0.9  # of the moving average of positive anchors per batch


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions (norm, ReLU), shared by all levels: A x K class logits and A x 4 deltas.

    With "BN" and "SyncBN" every level has statistics of its own. ``prior`` is the initial probability of every class.
    """

    def __init__(
        self,
        channels: int,
        *,
        levels: int,
        num_anchors: int,
        num_classes: int,
        num_convs: int = 4,
        norm: str = "",
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        classes: list[nn.Module] = []
        boxes: list[nn.Module] = []
        for _ in range(num_convs):
            for tower in (classes, boxes):
                tower.append(nn.Conv2d(channels, channels, 3, padding=1))
                if norm in LevelNorms.KINDS:
                    tower.append(LevelNorms(norm, levels, channels))
                elif (layer := build_norm(norm, channels)) is not None:
                    tower.append(layer)
                tower.append(nn.ReLU(inplace=True))
        self.cls_subnet, self.bbox_subnet = nn.Sequential(*classes), nn.Sequential(*boxes)
        self.cls_score = nn.Conv2d(channels, num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, num_anchors * 4, 3, padding=1)
        for part in (*classes, *boxes, self.cls_score, self.bbox_pred):
            if isinstance(part, nn.Conv2d):
                init_normal(part, std=0.01)
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]
        self.num_classes = num_classes

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per level (N x C x H x W): logits N x (H*W*A) x K and deltas N x (H*W*A) x 4."""
        logits, deltas = [], []
        for feature in features:
            logits.append(_by_anchor(self.cls_score(self.cls_subnet(feature)), self.num_classes))
            deltas.append(_by_anchor(self.bbox_pred(self.bbox_subnet(feature)), 4))
        return logits, deltas


def _by_anchor(x: torch.Tensor, values: int) -> torch.Tensor:
    """N x (A * values) x H x W to N x (H*W*A) x values."""
    x = x.reshape(x.shape[0], -1, values, x.shape[-2], x.shape[-1])
    return x.permute(0, 3, 4, 1, 2).reshape(x.shape[0], -1, values)


class RetinaNet(ImageDetector):
    """A pyramid, a head on all of its levels, and the losses and detections of its anchors.

    Losses are divided by a moving average of the number of positive anchors per batch (Detectron2's normaliser), which
    ``training_state`` returns: it is part of the training and not of the weights.
    """

    def __init__(
        self,
        backbone: Any,
        head: RetinaNetHead,
        anchor_generator: AnchorGenerator,
        *,
        in_features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        square_size: int = 0,
        box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        iou_thresholds: Sequence[float] = (0.4, 0.5),
        iou_labels: Sequence[int] = (0, -1, 1),
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        box_loss: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        score_thresh: float = 0.05,
        topk_candidates: int = 1000,
        nms_thresh: float = 0.5,
        topk_per_image: int = 100,
    ) -> None:
        super().__init__(backbone, pixel_mean=pixel_mean, pixel_std=pixel_std, square_size=square_size)
        self.head, self.anchor_generator, self.in_features = head, anchor_generator, list(in_features)
        self.coder = BoxCoder(box_weights)
        self.iou_thresholds, self.iou_labels = list(iou_thresholds), list(iou_labels)
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.box_loss, self.smooth_l1_beta = box_loss, smooth_l1_beta
        self.score_thresh, self.topk_candidates = score_thresh, topk_candidates
        self.nms_thresh, self.topk_per_image = nms_thresh, topk_per_image
        self.normalizer = FIRST_NORMALIZER

    def training_state(self) -> dict[str, Any]:
        """The moving average."""
        return {"loss_normalizer": self.normalizer}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Continue with the moving average of ``state``, if it has one."""
        self.normalizer = float(state.get("loss_normalizer", self.normalizer))
        skip_first_call()

    def forward(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor] | list[ImageDetections]:
        """Losses by name in training mode, detections in evaluation mode; see ``GeneralizedRCNN.forward``."""
        features, sizes = self.features(items)
        maps = [features[name] for name in self.in_features]
        logits, deltas = self.head(maps)
        anchors = self.anchor_generator(maps)
        if self.training:
            targets = [Targets.from_item(item, self.pixel_mean.device) for item in items]
            return self.losses(anchors, logits, deltas, targets)
        found = [self._detect(anchors, [x[i] for x in logits], [x[i] for x in deltas]) for i in range(len(items))]
        return [
            rescale(one, size, int(item.get("height", size[0])), int(item.get("width", size[1])))
            for one, size, item in zip(found, sizes, items)
        ]

    def losses(
        self,
        anchors: Sequence[torch.Tensor],
        logits: Sequence[torch.Tensor],
        deltas: Sequence[torch.Tensor],
        targets: Sequence[Targets],
    ) -> dict[str, torch.Tensor]:
        """Focal loss over all anchors that are not ignored, and box loss of the positive ones; moves the normaliser."""
        flat = torch.cat(list(anchors))
        classes, matched = self._label_anchors(flat, targets)
        used, positive = classes >= 0, (classes >= 0) & (classes != self.head.num_classes)
        self.normalizer = self.normalizer * MOMENTUM + max(int(positive.sum()), 1) * (1 - MOMENTUM)
        predicted = torch.cat(list(logits), dim=1)[used]
        truth = torch.zeros_like(predicted)
        objects = positive[used]
        truth[objects, classes[positive]] = 1
        focal = focal_loss(predicted, truth, alpha=self.focal_alpha, gamma=self.focal_gamma)
        box = box_regression_loss(
            self.box_loss,
            self.smooth_l1_beta,
            self.coder,
            flat.expand(len(targets), -1, -1)[positive],
            torch.cat(list(deltas), dim=1)[positive],
            matched[positive],
        )
        return {"loss_cls": focal / self.normalizer, "loss_box_reg": box / self.normalizer}

    @torch.no_grad()
    def _label_anchors(self, anchors: torch.Tensor, targets: Sequence[Targets]) -> tuple[torch.Tensor, torch.Tensor]:
        """Class of every anchor (N x R; K background, -1 ignored) and its ground-truth box (N x R x 4)."""
        labels, matched = [], []
        for target in targets:
            rows, label = match(overlaps(target.boxes, anchors), self.iou_thresholds, self.iou_labels, keep_best=True)
            if len(target.boxes):
                classes = target.classes[rows]
                classes[label == 0] = self.head.num_classes
                classes[label == -1] = -1
                matched.append(target.boxes[rows])
            else:
                classes = torch.full_like(rows, self.head.num_classes)
                matched.append(torch.zeros_like(anchors))
            labels.append(classes)
        return torch.stack(labels), torch.stack(matched)

    def _detect(
        self, anchors: Sequence[torch.Tensor], logits: Sequence[torch.Tensor], deltas: Sequence[torch.Tensor]
    ) -> ImageDetections:
        """Detections of one image: the best (anchor, class) pairs of each level above the threshold, NMS per class."""
        boxes, scores, classes = [], [], []
        for level_anchors, logit, delta in zip(anchors, logits, deltas):
            probability = logit.float().sigmoid()
            above = probability > self.score_thresh
            score = probability[above]
            best, index = score.topk(min(len(score), self.topk_candidates))
            rows, kinds = torch.nonzero(above)[index].unbind(dim=1)
            boxes.append(self.coder.decode(level_anchors[rows], delta[rows]))
            scores.append(best)
            classes.append(kinds)
        box, score, kind = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
        keep = batched_nms(box, score, kind, self.nms_thresh)[: self.topk_per_image]
        return ImageDetections(box[keep], score[keep], kind[keep])
