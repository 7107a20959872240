"""The shared loader's batches in Detectron2's form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

from transfer.engines.training.batches import TrainingFeed

Items = list[dict[str, Any]]


def as_detectron2_items(batch: Sequence[dict[str, Any]]) -> Items:
    """Items of the shared loader with their targets and proposals as Detectron2's Instances."""
    items: Items = []
    for given in batch:
        item = dict(given)
        if "proposals" in item:
            item["proposals"] = _proposals(item)
        if "instances" not in item:
            items.append(item)
            continue
        targets = item["instances"]
        instances = Instances(tuple(item["image"].shape[1:]))
        instances.gt_boxes, instances.gt_classes = Boxes(targets["boxes"]), targets["classes"]
        masks = targets.get("masks")
        if masks is not None:
            instances.gt_masks = BitMasks(masks) if isinstance(masks, torch.Tensor) else PolygonMasks(masks)
        if targets.get("keypoints") is not None and len(targets["classes"]):  # as from Detectron2's loader
            instances.gt_keypoints = Keypoints(targets["keypoints"])
        items.append({**item, "instances": instances})
    return items


def _proposals(item: dict[str, Any]) -> Instances:
    proposals = Instances(tuple(item["image"].shape[1:]))
    proposals.proposal_boxes = Boxes(item["proposals"]["boxes"])
    proposals.objectness_logits = item["proposals"]["logits"]
    return proposals


class ResumableBatches:
    """The training batches in the form that Detectron2's trainer expects; ``iter()`` starts at batch ``start``.

    The shared loader plans Detectron2's own stream (order, sizes, flips) without hidden state, so that it can start
    anywhere; Detectron2's sampler would start again with the first epoch.
    """

    def __init__(self, feed: TrainingFeed) -> None:
        self.feed, self.start, self.worker_seed, self.precise_bn_start = feed, 0, -1, 0
        self.last: Items = []
        self._measuring: Callable[[], Iterator[Items]] | None = None

    def measuring(self) -> Iterator[Items]:
        """The batches of precise batch norm; training has begun."""
        assert self._measuring is not None
        return (as_detectron2_items(batch) for batch in self._measuring())

    def __iter__(self) -> Iterator[Items]:
        batches, self._measuring = self.feed.streams(self.worker_seed, self.start, self.precise_bn_start)
        for batch in batches:
            self.last = as_detectron2_items(batch)
            yield self.last
