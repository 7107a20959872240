"""Active choice of negatives: the rows of the dictionary that are expected to move the queries most."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pretrain.methods.info_nce import info_nce
from runtime.host_copies import send


@dataclass(frozen=True)
class Active:
    """``count`` of the K rows, chosen anew for every batch by their expected gradient; the batch shares them.

    The gradient of InfoNCE for a query q is (sum_j p_j r_j - (1 - p_0) k) / t, with p the softmax over the positive (0)
    and the rows. So row j contributes p_j r_j / t, of length p_j / t since rows have unit length, and its expected
    gradient over the queries of the batch is e_j = mean_q p_j / t.

    ``sampled`` False takes the rows with the largest e_j and contrasts with these alone: no other choice of as many
    rows leaves out less softmax weight, but the loss is smaller than that of the whole queue, with a bias towards hard
    rows. ``sampled`` True draws rows j with probability e_j / sum(e), and weights each by 1 / (count * probability).
    Then the estimate Z' of a query's sum of exponentials Z has the mean Z. The logarithm of Z' would be biased again,
    so the loss is linear in Z': log Z + (Z' - Z) / Z - positive. Its mean is the loss of the whole queue, and the mean
    of its gradient is the gradient of that loss.

    Cost: one product of the queries with all K rows, without a gradient, and the products with ``count`` rows; plain
    InfoNCE has two products with all K.
    """

    count: int
    sampled: bool = False

    def __call__(self, q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float) -> torch.Tensor:
        """Mean loss; q, k: B x D unit vectors, rows: K x D. Gradients reach q only."""
        rows = rows.to(q.dtype)
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            positive = (q * k).sum(1) / temperature
            logits = q @ rows.T / temperature
            log_total = torch.logaddexp(torch.logsumexp(logits, 1), positive)
            softmax = torch.exp(logits.sub_(log_total[:, None]))  # B x K
            expected = softmax.mean(0)  # times 1 / t, which all rows have in common
            if self.sampled:
                own = torch.exp(positive - log_total)[:, None]  # p_0, B x 1
                drawn, weight = self._draw(expected)
                estimate = softmax[:, drawn] * weight  # B x count; its sum and p_0 have the mean 1
                value = (log_total - positive + (estimate.sum(1) + own[:, 0] - 1)).mean()
                slope = (estimate @ rows[drawn] + own * k - k) / (temperature * len(q))
            else:
                drawn = expected.topk(min(self.count, len(rows))).indices
        if not self.sampled:
            return info_nce(q, k, rows[drawn], temperature)
        return value + ((q - q.detach()) * slope).sum()  # the value, with the gradient ``slope``

    def _draw(self, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``count`` rows in proportion to ``expected`` (K), with replacement, and the weight of each.

        One draw from each of ``count`` equal strata of the distribution function: still unbiased, with less variance
        than independent draws. The uniform numbers come from the CPU, whose generator the loop seeds for each step.
        """
        strata = (torch.arange(self.count) + torch.rand(self.count, dtype=torch.float64)) / self.count
        total = expected.double().cumsum(0)
        places = send(strata, expected.device) * total[-1]
        drawn = torch.searchsorted(total, places, right=True).clamp_(max=len(expected) - 1)
        smallest = torch.finfo(expected.dtype).tiny  # a row that underflowed weighs nothing, rather than 0 / 0
        weight = total[-1] / (self.count * expected[drawn].double().clamp_min(smallest))
        return drawn, weight.to(expected.dtype)
