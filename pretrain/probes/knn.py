"""Probes of an encoder: nearest neighbours (1805.01978, section 3.4), alignment and uniformity (2005.10242)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pretrain.batches.loader import build_eval_loader
from pretrain.encoders import pooled_features
from pretrain.images.source import ImageSource, evenly
from pretrain.views import Views
from runtime.errors import UserError

Encode = Callable[[torch.Tensor], torch.Tensor]  # B x 3 x H x W -> B x C


def encoder_function(encoder: Any, layer: str = "backbone") -> Encode:
    """The features that a probe compares: the pooled features of the "backbone" or the output of the "head"."""
    return encoder if layer == "head" else lambda images: pooled_features(encoder, images)


class Subset:
    """Some images of a source, in the order of ``chosen``."""

    def __init__(self, source: ImageSource, chosen: np.ndarray) -> None:
        self.source, self.chosen = source, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def picture(self, index: int) -> Any:
        """See ImageSource.picture."""
        return self.source.picture(int(self.chosen[index]))

    def label(self, index: int) -> int:
        """See ImageSource.label."""
        return self.source.label(int(self.chosen[index]))


@dataclass(frozen=True)
class ProbeImages:
    """How a probe reads a set of images. images: number of images at most, evenly spread over the set, 0 for all.
    workers: loader processes. max_bad: bad images tolerated, as in training."""

    views: Views
    device: torch.device
    images: int = 0
    workers: int = 0
    max_bad: float = 0.01
    batch_size: int = 256


@torch.no_grad()
def extract(encode: Encode, source: ImageSource, images: ProbeImages) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Unit features (per view n x C, float32) and labels (n) of the chosen images of a source."""
    part: Any = Subset(source, evenly(len(source), images.images))
    views, device = images.views, images.device
    features: list[list[torch.Tensor]] = [[] for _ in range(views.count)]
    labels = []
    loader = build_eval_loader(
        part, views, batch_size=images.batch_size, workers=images.workers, max_bad=images.max_bad
    )
    for batch in loader:
        for of_view, pixels in zip(features, views.on_device(batch, device)):
            features_of_batch = encode(pixels).float()
            if not torch.isfinite(features_of_batch).all():
                raise UserError("the encoder's features are not finite (NaN or Inf): take an earlier checkpoint")
            of_view.append(F.normalize(features_of_batch, dim=1))
        labels.append(batch.labels.to(device))
    return [torch.cat(of_view) for of_view in features], torch.cat(labels)


def knn_accuracy(
    bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor,
    *, k: int = 200, temperature: float = 0.1, classes: int | None = None,
) -> float:  # fmt: skip
    """Top-1 in percent of weighted kNN: each of the k most similar bank rows votes exp(similarity / temperature).

    bank: n x C, queries: m x C, unit rows; labels are class numbers.
    """
    count = classes or int(max(bank_labels.max(), labels.max())) + 1
    correct = 0
    for part, truth in zip(queries.split(256), labels.split(256)):
        similarity, nearest = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), count, device=part.device)
        # exp((s - 1) / t): the same ranking, and no overflow at small temperatures
        votes.scatter_add_(1, bank_labels[nearest], ((similarity - 1) / temperature).exp())
        correct += int((votes.argmax(1) == truth).sum())
    return 100.0 * correct / len(queries)


def alignment(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean squared distance of the unit features of two views of the same images (n x C each); lower is closer."""
    return (first - second).pow(2).sum(1).mean().item()


def uniformity(features: torch.Tensor, t: float = 2.0) -> float:
    """log mean exp(-t |x - y|^2) over all pairs of unit rows (n x C); lower is more uniform, NaN for one row."""
    if len(features) < 2:
        return math.nan
    total = 0.0
    for part in features.split(1024):  # the 1.2e9 pairs of ImageNet's validation images would need 5 GB at once
        total += torch.cdist(part, features).pow_(2).mul_(-t).exp_().double().sum().item()
    rows = len(features)
    return math.log((total - rows) / (rows * (rows - 1)))  # without each row's pair with itself, which counts 1


class KnnMonitor:
    """kNN accuracy of the encoder being trained, with its labelled training images as bank and ``val`` as queries."""

    def __init__(
        self, encoder: nn.Module, train: ImageSource, val: ImageSource, images: ProbeImages, layer: str = "backbone"
    ) -> None:
        """``images`` says how both sets are read; ``layer`` is "backbone" or "head"."""
        self.encoder, self.train, self.val, self.images = encoder, train, val, images
        self.encode = encoder_function(encoder, layer)

    def __call__(self) -> dict[str, float]:
        """{"knn": top-1 in percent}. The encoder is put in evaluation mode for that, and back."""
        self.encoder.eval()
        try:
            (bank,), bank_labels = extract(self.encode, self.train, self.images)
            (queries,), labels = extract(self.encode, self.val, self.images)
        finally:
            self.encoder.train()
        return {"knn": knn_accuracy(bank, bank_labels, queries, labels)}
