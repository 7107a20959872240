"""Methods whose dictionary is the batch: end to end (MoCo, figure 2a), invariant and spreading (1904.03436)."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.methods.base import Method, spread
from pretrain.methods.exchange import BatchShuffle, gather_with_gradient
from runtime.distributed import rank


class InBatch(Method):
    """The readings of both methods, from the similarities of B x D queries with W*B x D keys."""

    _last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # similarities, target columns, keys

    def readings(self) -> dict[str, float]:
        """Percentages of queries whose own key is the nearest (among the 5 nearest) of the global batch; key spread."""
        assert self._last is not None
        similarities, target, keys = self._last
        beaten = (similarities > similarities.gather(1, target[:, None])).sum(1)
        return {
            "acc1": 100.0 * (beaten < 1).float().mean().item(),
            "acc5": 100.0 * (beaten < 5).float().mean().item(),
            "key_spread": spread(keys),
        }


class EndToEnd(InBatch):
    """Both encoders learn by back-propagation and the keys are the global batch, so there are batch - 1 negatives.

    The paper does not say whether the encoders share weights. By default there are two that start with equal weights;
    with ``share`` there is one. ``batch`` is the number of images in one ``loss``, over all ranks.
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
        target = torch.arange(len(q), device=q.device) + rank() * len(q)
        self._last = (similarities.detach(), target, k)
        return F.cross_entropy(similarities / self.temperature, target)


class InvariantSpreading(InBatch):
    """Pulls an augmented view to its own image, and pushes different images of the batch apart."""

    def __init__(self, encoder: nn.Module, *, temperature: float = 0.1, batch: int = 128, bf16: bool = False) -> None:
        super().__init__(bf16)
        self.encoder_q = encoder
        self.temperature = temperature
        self.chance = math.log(batch) - (batch - 1) * math.log1p(-1 / batch)  # both terms at P = 1 / batch

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """1904.03436, equation 6, as a mean over images."""
        features = self.embed(self.encoder_q, torch.cat(views))
        original, augmented = features.chunk(2)
        gathered = gather_with_gradient(original)  # f_k of the global batch
        own = torch.arange(len(original), device=original.device) + rank() * len(original)
        similarities = augmented @ gathered.T
        self._last = (similarities.detach(), own, gathered)
        invariance = F.cross_entropy(similarities / self.temperature, own)
        # log P(i | x_j) for all i != j: the softmax is over the whole batch, x_j included, and then i = j is left out
        log_probability = F.log_softmax(original @ gathered.T / self.temperature, dim=1)
        others = log_probability.scatter(1, own[:, None], float("-inf"))
        spreading = -torch.log1p(-others.exp().clamp(max=1 - 1e-6)).sum(1).mean()
        return invariance + spreading
