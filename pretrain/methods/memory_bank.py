"""Memory bank methods: the second mechanism of MoCo's figure 2, and instance discrimination (1805.01978)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.methods.base import Method, spread
from pretrain.methods.dictionaries import MemoryBank
from pretrain.methods.info_nce import info_nce, rank_accuracy
from runtime.distributed import all_gather_rows, all_reduce_mean

NCE_EPSILON = 1e-7


class BankMethod(Method):
    """The query is compared with its own row of the bank and ``negatives`` sampled rows; one view, no key encoder.

    ``form`` "infonce" is the mechanism as MoCo compares it, "nce" the binary noise-contrastive loss of instance
    discrimination, "softmax" its non-parametric softmax over all images (then ``negatives`` is not used).
    """

    normaliser: torch.Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        images: int,
        dim: int = 128,
        negatives: int = 4096,
        momentum: float = 0.5,
        temperature: float = 0.07,
        form: str = "infonce",
        bf16: bool = False,
    ) -> None:
        super().__init__(bf16)
        self.encoder_q = encoder
        self.memory = MemoryBank(images, dim, momentum)
        self.register_buffer("normaliser", torch.zeros(()))  # Z of the NCE form, 0 until the first batch estimates it
        self.negatives, self.temperature, self.form = negatives, temperature, form
        rows = images - 1 if form == "softmax" else negatives
        self.chance = math.log(rows + 1) + (rows * math.log1p(1 / rows) if form == "nce" else 0.0)  # at h = 1 / (m + 1)
        self._new: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def begin_step(self) -> None:
        """Forget the features of a step that was not committed."""
        self._new.clear()

    def loss(self, views: list[torch.Tensor], indices: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Contrast of the features with the bank, which is updated at the end of the step."""
        features = self.embed(self.encoder_q, views[0])
        self._new.append((all_gather_rows(indices), all_gather_rows(features.detach())))
        positive = self.memory.lookup(indices)
        rows = self.memory.rows if self.form == "softmax" else self.memory.sample(self.negatives)
        self._last = (features.detach(), positive, rows)
        if self.form == "softmax":
            return F.cross_entropy(features @ rows.T / self.temperature, indices)
        if self.form == "infonce":
            return info_nce(features, positive, rows, self.temperature)
        return self._nce(features, positive, rows)

    def _nce(self, f: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """1805.01978, equations 4 to 7: P = exp(v.f/t)/Z, h = P/(P + m Pn), -log h(pos) - sum log(1 - h(neg))."""
        logit_pos = torch.exp((f * positive).sum(1, keepdim=True) / self.temperature)
        logit_neg = torch.exp(f @ rows.T / self.temperature)  # B x m
        images = len(self.memory.rows)
        # Z is estimated on the first mini-batch and constant from then on. Only the device knows whether it has been
        # (it is neither 0 nor the NaN of a refused step), so every step computes the mean and ``where`` chooses.
        estimate = images * all_reduce_mean(torch.cat([logit_pos, logit_neg], dim=1).detach().mean())
        self.normaliser.copy_(torch.where(self.normaliser > 0, self.normaliser, estimate))
        noise = self.negatives / images
        probability_pos, probability_neg = logit_pos / self.normaliser, logit_neg / self.normaliser
        attract = (probability_pos / (probability_pos + noise + NCE_EPSILON)).log().sum(1)
        repel = (noise / (probability_neg + noise + NCE_EPSILON)).log().sum(1)
        return -(attract + repel).mean()

    def end_step(self, refused: torch.Tensor | None = None) -> None:
        """Update the rows of the step's images."""
        for indices, features in self._new:
            self.memory.update(indices, features, refused)
        self._new.clear()

    def readings(self) -> dict[str, float]:
        """Percentages of queries whose own row beats all (all but 4) sampled rows; spread of the features."""
        assert self._last is not None
        features, positive, rows = self._last
        top1, top5 = rank_accuracy(features, positive, rows)
        return {"acc1": top1, "acc5": top5, "key_spread": spread(features)}
