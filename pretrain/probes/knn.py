"""Probes of an encoder: nearest neighbours (1805.01978, section 3.4), alignment and uniformity (2005.10242)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pretrain.batches.loader import build_eval_loader
from pretrain.encoders import pooled_features
from pretrain.images.source import ImageSource
from pretrain.views import Views, build_views

Encode = Callable[[torch.Tensor], torch.Tensor]  # B x 3 x H x W -> B x C


def evenly(count: int, wanted: int) -> np.ndarray:
    """``wanted`` of ``count`` indices (all with 0), evenly spread: int64."""
    return np.arange(count) if not wanted or wanted >= count else np.linspace(0, count - 1, wanted).astype(np.int64)


def encoder_function(encoder: Any, layer: str = "backbone") -> Encode:
    """What a probe looks at: the "backbone"'s pooled features or the "head"'s output."""
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


@torch.no_grad()
def extract(
    encode: Encode, source: ImageSource, views: Views, *, device: torch.device, images: int = 0, workers: int = 0,
    batch_size: int = 256, max_bad: float = 0.01,
) -> tuple[list[torch.Tensor], torch.Tensor]:  # fmt: skip
    """Unit features (per view n x C, float32) and labels (n) of a source, or of ``images`` of it, evenly spread."""
    part: Any = Subset(source, evenly(len(source), images))
    features: list[list[torch.Tensor]] = [[] for _ in range(views.count)]
    labels = []
    for batch in build_eval_loader(part, views, batch_size=batch_size, workers=workers, max_bad=max_bad):
        for found, pixels in zip(features, views.on_device(batch, device)):
            found.append(F.normalize(encode(pixels).float(), dim=1))
        labels.append(batch.labels.to(device))
    return [torch.cat(found) for found in features], torch.cat(labels)


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
    """kNN accuracy of the encoder being trained: its data with labels as the bank, ``val`` as the queries."""

    def __init__(
        self, encoder: nn.Module, train: ImageSource, val: ImageSource, *, image_size: int, device: torch.device,
        images: int, workers: int, layer: str = "backbone", max_bad: float = 0.01, kind: str = "eval",
    ) -> None:  # fmt: skip
        """At most ``images`` of each set are looked at, evenly spread (0: all), in views of ``kind`` (a key of KINDS);
        ``max_bad`` as for the training."""
        self.encoder, self.train, self.val = encoder, train, val
        self.encode = encoder_function(encoder, layer)
        views = build_views(kind, image_size=image_size)
        self.how: dict[str, Any] = {
            "views": views,
            "device": device,
            "images": images,
            "workers": workers,
            "max_bad": max_bad,
        }

    def __call__(self) -> dict[str, float]:
        """{"knn": top-1 in percent}; the encoder is in evaluation mode meanwhile."""
        self.encoder.eval()
        try:
            (bank,), bank_labels = extract(self.encode, self.train, **self.how)
            (queries,), labels = extract(self.encode, self.val, **self.how)
        finally:
            self.encoder.train()
        return {"knn": knn_accuracy(bank, bank_labels, queries, labels)}
