"""Choices of negatives: the whole dictionary, hard ones mixed (MoCHi), debiased, weighted by hardness, or active."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pretrain.methods.active import Active
from pretrain.methods.info_nce import info_nce
from runtime.host_copies import send

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]  # (q, k, rows, temperature) -> scalar


@dataclass(frozen=True)
class MixedHard:
    """MoCHi (2010.01028): synthetic negatives mixed from the hardest rows of the dictionary.

    Each query has its ``hardest`` rows, those with the largest logits. ``pairs`` negatives mix two of them with a
    weight from U(0, 1); ``with_query`` negatives mix one of them with the query, whose weight is from U(0, 0.5). Mixed
    vectors are normalised, carry no gradient and are negatives of their own query only.
    """

    hardest: int = 1024
    pairs: int = 1024
    with_query: int = 128

    def __call__(self, q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float) -> torch.Tensor:
        """Mean loss; q, k: B x D unit vectors, rows: K x D."""
        rows = rows.float()
        negative = q @ rows.T  # B x K
        positive = (q * k).sum(1, keepdim=True)
        with torch.no_grad():
            hard = rows[negative.topk(min(self.hardest, len(rows)), dim=1).indices]  # B x N x D
            mixed = torch.cat([self._mix_pairs(hard), self._mix_with_query(q.detach(), hard)], dim=1)
        synthetic = torch.einsum("bd,bsd->bs", q, mixed)
        logits = torch.cat([positive, negative, synthetic], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))

    def _mix_pairs(self, hard: torch.Tensor) -> torch.Tensor:
        shape = (len(hard), self.pairs, 1)
        weight = _uniform(shape, hard)
        return F.normalize(weight * _pick(hard, self.pairs) + (1 - weight) * _pick(hard, self.pairs), dim=2)

    def _mix_with_query(self, q: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
        weight = 0.5 * _uniform((len(hard), self.with_query, 1), hard)
        return F.normalize(weight * q[:, None] + (1 - weight) * _pick(hard, self.with_query), dim=2)


def _uniform(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    # drawn on the CPU, whose generator the loop seeds per step: the same numbers on every device
    return send(torch.rand(shape), like.device)


def _pick(hard: torch.Tensor, count: int) -> torch.Tensor:
    """Rows of each query's own hard set, with replacement: B x N x D -> B x count x D."""
    choice = send(torch.randint(hard.shape[1], (len(hard), count)), hard.device)
    return hard.gather(1, choice[:, :, None].expand(-1, -1, hard.shape[2]))


@dataclass(frozen=True)
class Reweighted:
    """Debiased (2007.00224) and hard-negative (2010.04592, equation 4) contrastive loss over a dictionary of N rows.

    With positive p and negatives n_j (exponentials of similarity / t), class prior tau+ and concentration beta,
    R = N sum(n^(1+beta)) / sum(n^beta), Ng = max((R - N tau+ p) / (1 - tau+), N exp(-1/t)), loss -log p / (p + Ng).
    beta = 0 is the debiased loss. At t = 0.07 the exponentials overflow half precision, hence logarithms throughout.
    """

    class_prior: float = 0.1
    beta: float = 0.0

    def __call__(self, q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float) -> torch.Tensor:
        """Mean loss; q, k: B x D unit vectors, rows: N x D."""
        count = math.log(len(rows))
        positive = (q * k).sum(1) / temperature  # log p
        negative = q @ rows.float().T / temperature  # B x N, log n
        total = torch.logsumexp((1 + self.beta) * negative, 1) - torch.logsumexp(self.beta * negative, 1) + count
        floor = torch.full_like(positive, count - 1 / temperature)
        if self.class_prior > 0:
            gap = positive + count + math.log(self.class_prior) - total  # log(N tau+ p / R)
            usable = gap < -1e-6  # elsewhere the difference in Ng is not positive, and the floor is the maximum
            gap = torch.where(usable, gap, -1.0)
            total = total + torch.log1p(-torch.exp(gap)) - math.log1p(-self.class_prior)
            total = torch.where(usable, total, floor)
        return (torch.logaddexp(positive, torch.maximum(total, floor)) - positive).mean()


def negatives_of(score: Loss, rows: int) -> int:
    """Number of negatives of a query, from a dictionary of so many rows."""
    if isinstance(score, MixedHard):
        return rows + score.pairs + score.with_query
    if isinstance(score, Active) and not score.sampled:  # a sample has the loss of the whole dictionary
        return min(score.count, rows)
    return rows


STRATEGIES: dict[str, Callable[..., Loss]] = {
    "queue": lambda **_: info_nce,
    "mochi": lambda hardest, pairs, with_query, **_: MixedHard(hardest, pairs, with_query),
    "debiased": lambda class_prior, **_: Reweighted(class_prior, 0.0),
    "hard": lambda class_prior, beta, **_: Reweighted(class_prior, beta),
    "active": lambda active_rows, active_sampled, **_: Active(active_rows, active_sampled),
}
