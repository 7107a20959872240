"""Runs a trained model over a data set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as rle
import torch
from tqdm import tqdm

from runtime.allocator import return_freed_memory
from runtime.distributed import rank
from transfer.engines.protocol import ImageResult
from transfer.engines.torchvision.model.instances import ImageDetections
from transfer.engines.torchvision.model.postprocess import paste_masks
from transfer.engines.torchvision.model.proposal_network import ProposalNetwork
from transfer.engines.torchvision.model.rcnn import ImageDetector
from transfer.engines.training.ranks import gather_objects
from transfer.evaluate.detections import Detections, Rle

Detector = Callable[[Sequence[dict[str, Any]]], list[ImageDetections]]


def encode_masks(detections: ImageDetections, height: int, width: int) -> list[Rle] | None:
    """Mask probabilities pasted into a height x width image, as COCO run-length masks; None without masks."""
    if detections.masks is None:
        return None
    # one mask at a time: a hundred full-size masks of a large image would be gigabytes
    encoded: list[Rle] = []
    for mask, box in zip(detections.masks.float().cpu(), detections.boxes.float().cpu()):
        pasted = paste_masks(mask[None], box[None], height, width)[0]
        encoded.append(rle.encode(np.asfortranarray(pasted.numpy().astype(np.uint8))))
    return encoded


@torch.inference_mode()
def detect_images(
    model: ImageDetector, batches: Iterable[Sequence[dict[str, Any]]], detector: Detector | None = None
) -> Iterator[ImageResult]:
    """Detections of every image of ``batches`` in its original size, by ``detector`` or the model itself.

    The model's mode is restored afterwards.
    """
    training = model.training
    model.eval()
    try:
        for batch in batches:
            for item, one in zip(batch, (detector or model)(batch)):
                masks = encode_masks(one, item["height"], item["width"])
                boxes, scores, classes = one.boxes.float().cpu(), one.scores.float().cpu(), one.classes.cpu()
                points = [] if one.keypoints is None else [one.keypoints.float().cpu().numpy()]
                yield item["image_id"], boxes.numpy(), scores.numpy(), classes.numpy(), masks, *points
            return_freed_memory()
    finally:
        model.train(training)


def detect_dataset(
    model: ImageDetector, loader: Any, name: str, has_masks: bool, detector: Detector | None = None
) -> Detections:
    """Detections of a whole data set on every rank, gathered from the ranks' shares of the images."""
    progress = tqdm(loader, total=len(loader), desc=f"detect {name}"[:48], disable=True if rank() else None)
    shares = gather_objects(list(detect_images(model, progress, detector)))
    detections = Detections.from_images(itertools.chain.from_iterable(shares))
    if has_masks and detections.masks is None:
        detections.masks = []
    detections.are_proposals = isinstance(model, ProposalNetwork)
    return detections
