"""Runs a Detectron2 model over a data set."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as rle
import torch
from tqdm import tqdm

from runtime.distributed import rank, rank_count
from transfer.engines.detectron2.data import as_detectron2_items
from transfer.engines.protocol import ImageResult
from transfer.engines.training.batches import build_test_feed
from transfer.engines.training.choices import finds_proposals
from transfer.engines.training.ranks import gather_objects
from transfer.evaluate.detections import Detections


@torch.no_grad()
def detect_images(
    cfg: Any, model: torch.nn.Module, batches: Iterable[Sequence[dict[str, Any]]]
) -> Iterator[ImageResult]:
    """Detections of every image of ``batches``; with TEST.AUG.ENABLED by Detectron2's test-time augmentation."""
    training = model.training
    model.eval()
    network: Any = getattr(model, "module", model)
    if cfg.TEST.AUG.ENABLED:
        from detectron2.modeling import GeneralizedRCNNWithTTA

        network = GeneralizedRCNNWithTTA(cfg, network)
    try:
        for batch in batches:
            for item, output in zip(batch, network(batch)):
                found = output["proposals" if "proposals" in output else "instances"]
                yield item["image_id"], *arrays(found.to("cpu"))
    finally:
        model.train(training)


def detect_dataset(cfg: Any, model: torch.nn.Module, dataset: str) -> Detections:
    """Detections of a whole data set on every rank."""
    loader = build_test_feed(cfg, dataset, rank(), rank_count())
    progress = tqdm(loader, desc=f"detect {dataset}"[:48], disable=True if rank() else None)
    shares = gather_objects(list(detect_images(cfg, model, map(as_detectron2_items, progress))))
    detections = Detections.from_images(itertools.chain.from_iterable(shares))
    if cfg.MODEL.MASK_ON and detections.masks is None:
        detections.masks = []
    detections.are_proposals = finds_proposals(cfg)
    return detections


def arrays(instances: Any) -> tuple[Any, ...]:
    """Boxes, scores, classes, run-length masks and, if there are any, keypoints n x K x 3 of an image's Instances.

    Of proposals: boxes, logits and the class 0.
    """
    if instances.has("proposal_boxes"):
        logits = instances.objectness_logits.numpy()
        return instances.proposal_boxes.tensor.numpy(), logits, np.zeros(len(logits), dtype=np.int64), None
    masks = None
    if instances.has("pred_masks"):
        masks = [rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in instances.pred_masks]
    points = [instances.pred_keypoints.numpy()] if instances.has("pred_keypoints") else []
    return instances.pred_boxes.tensor.numpy(), instances.scores.numpy(), instances.pred_classes.numpy(), masks, *points
