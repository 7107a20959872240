"""Dictionaries that are the batch itself: end to end (MoCo's figure 2a), invariant and spreading (1904.03436)."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.methods.base import Method, spread
from pretrain.methods.exchange import BatchShuffle, gather_with_gradient
from runtime.distributed import rank_and_size


class InBatch(Method):
    """Shared by both: what the log shows about similarities of B x D queries with W*B x D keys."""

    _last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # similarities, target columns, keys

    def readings(self) -> dict[str, float]:
        """Accuracy of the own key among those of the global batch, spread of the keys."""
        assert self._last is not None
        similarities, target, keys = self._last
        beaten = (similarities > similarities.gather(1, target[:, None])).sum(1)
        return {
            "acc1": 100.0 * (beaten < 1).float().mean().item(),
            "acc5": 100.0 * (beaten < 5).float().mean().item(),
            "key_spread": spread(keys),
        }


class EndToEnd(InBatch):
    """Both encoders learn by back-propagation and the keys are the global batch, so K = batch - 1 negatives.

    The paper does not say whether the encoders share weights: two of equal start by default, one if ``share``.
    ``batch`` counts the images of all ranks that meet in one ``loss``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: float = 0.07,
        bn_splits: int = 1,
        share: bool = False,
        batch: int = 256,
        bf16: bool = False,
    ) -> None:
        super().__init__(bf16)
        self.encoder_q = encoder
        self.encoder_k = encoder if share else copy.deepcopy(encoder)
        self.temperature, self.bn_splits, self.chance = temperature, bn_splits, math.log(batch)

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """InfoNCE among the keys of the global batch, gradients into both encoders, keys shuffled for BatchNorm."""
        q = self.embed(self.encoder_q, views[0])
        order = BatchShuffle(len(q), self.bn_splits)
        k = order.gather(self.embed(self.encoder_k, order.shuffle(views[1])))  # W*B x D
        similarities = q @ k.T
        target = torch.arange(len(q), device=q.device) + rank_and_size()[0] * len(q)
        self._last = (similarities.detach(), target, k)
        return F.cross_entropy(similarities / self.temperature, target)


class InvariantSpreading(InBatch):
    """Augmented features near their own image, features of different images apart, inside the batch."""

    def __init__(self, encoder: nn.Module, *, temperature: float = 0.1, batch: int = 128, bf16: bool = False) -> None:
        super().__init__(bf16)
        self.encoder_q = encoder
        self.temperature = temperature
        self.chance = math.log(batch) - (batch - 1) * math.log1p(-1 / batch)  # both terms at P = 1 / batch

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """1904.03436, equation 6, as a mean over images."""
        features = self.embed(self.encoder_q, torch.cat(views))
        original, augmented = features.chunk(2)
        everyone = gather_with_gradient(original)  # f_k of the global batch
        own = torch.arange(len(original), device=original.device) + rank_and_size()[0] * len(original)
        similarities = augmented @ everyone.T
        self._last = (similarities.detach(), own, everyone)
        invariance = F.cross_entropy(similarities / self.temperature, own)
        # log P(i | x_j) for all i != j: what this image j is taken for among the batch, itself included
        taken_for = F.log_softmax(original @ everyone.T / self.temperature, dim=1)
        others = taken_for.scatter(1, own[:, None], float("-inf"))
        spreading = -torch.log1p(-others.exp().clamp(max=1 - 1e-6)).sum(1).mean()
        return invariance + spreading
