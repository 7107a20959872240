"""InfoNCE over a large dictionary, computed in one pass over chunks of it, and pretext accuracy by rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

LogWeights = Callable[[int, int], torch.Tensor]  # (start, stop) of the rows -> B x (stop - start)

CHUNK = 8192  # dictionary rows per product on a GPU: 8 MB of logits at B = 256


def _chunk(rows: torch.Tensor) -> int:
    """Dictionary rows per product. On a CPU fewer, so that they and their logits stay in cache."""
    return CHUNK if rows.is_cuda else CHUNK // 2


class _InfoNCE(torch.autograd.Function):
    """Mean InfoNCE of q against its key and the rows of a dictionary; the forward computes the gradient for q too.

    The dictionary needs no gradient, so the gradient for q is all that the backward needs. It is a weighted sum of rows
    with softmax weights, and the forward has these weights chunk by chunk. So the dictionary is not saved for the
    backward and may be overwritten right after the forward, and there is never a copy of it, a concatenation with the
    positive, or a B x (K+1) matrix of logits in memory.

    The softmax over chunks is the usual online one: with ``top`` the largest logit so far, ``total`` and ``pull`` are
    sums of exp(logit - top) and of exp(logit - top) * row; where a chunk raises ``top``, both are rescaled. ``total``
    then gives the loss, log(total) + top - positive, and ``pull / total`` the mean row under the softmax.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float, bf16: bool, gradient: bool,
        log_weights: LogWeights | None,
    ) -> torch.Tensor:  # fmt: skip
        # In bfloat16 the products are with r - c, where c is the mean key: q.r = q.(r - c) + q.c, and q.c is float32.
        # Early in training, features differ by as little as 1 % of their length, which bfloat16's 8 bits round away:
        # the gradient is off by 18 % without the centre, by 0.03 % with it.
        centre = k.mean(0) if bf16 else torch.zeros_like(k[0])  # D
        scaled = q / temperature
        shift = scaled @ centre  # B: what the centre adds to every logit of a row
        operand = scaled.to(torch.bfloat16) if bf16 else scaled
        positive = (scaled * k).sum(1)  # B
        top = positive.clone()
        total = torch.ones_like(positive)  # sum of exp(logit - top), the positive included
        pull = k - centre  # B x D: sum of exp(logit - top) * (row - c), the positive included
        chunk = _chunk(rows)
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            part = (part - centre).to(torch.bfloat16) if bf16 else part
            logits = (operand @ part.T).to(q.dtype)  # B x chunk
            if bf16:
                logits += shift[:, None]
            if log_weights is not None:
                logits += log_weights(start, start + len(part))
            higher = torch.maximum(top, logits.amax(1))
            shrink = torch.exp(top - higher)
            weights = logits.sub_(higher[:, None]).exp_()
            total = total * shrink + weights.sum(1)
            if gradient:
                pull = pull * shrink[:, None] + (weights.to(part.dtype) @ part).to(q.dtype)
            top = higher
        if gradient:
            ctx.save_for_backward((pull / total[:, None] + centre - k) / (temperature * len(q)))
        return (top + total.log() - positive).mean()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None, None, None, None


def info_nce(
    q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float, bf16: bool = False,
    log_weights: LogWeights | None = None,
) -> torch.Tensor:  # fmt: skip
    """MoCo, equation 1: mean over queries of -log softmax of the positive among 1 + K keys.

    q and k are B x D unit vectors in float32, rows is the dictionary K x D. Gradients reach q only. ``bf16`` computes
    the products with the dictionary in bfloat16. ``log_weights`` gives the logarithms of the weights of a slice of rows
    in each query's sum, -inf for a row that does not count.
    """
    gradient = torch.is_grad_enabled() and q.requires_grad
    with torch.autocast(q.device.type, enabled=False):
        return _InfoNCE.apply(q, k, rows, temperature, bf16, gradient, log_weights)


@torch.no_grad()
def rank_accuracy(q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor) -> tuple[float, float]:
    """Top-1 and top-5 pretext accuracy in percent: how often fewer than 1 (5) dictionary rows beat the positive."""
    with torch.autocast(q.device.type, enabled=False):
        positive = (q * k).sum(1, keepdim=True)
        beaten = torch.zeros(len(q), dtype=torch.long, device=q.device)
        chunk = _chunk(rows)
        for start in range(0, len(rows), chunk):
            beaten += (q @ rows[start : start + chunk].float().T > positive).sum(1)
    return 100.0 * (beaten < 1).float().mean().item(), 100.0 * (beaten < 5).float().mean().item()


@torch.no_grad()
def loss_and_entropy(
    q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE of each query (B), and the entropy in nats (B) of its softmax over the positive and all K rows."""
    with torch.autocast(q.device.type, enabled=False):
        scaled = q / temperature
        positive = (scaled * k).sum(1)
        top, total, energy = positive.clone(), torch.ones_like(positive), positive.clone()
        chunk = _chunk(rows)
        for start in range(0, len(rows), chunk):
            logits = scaled @ rows[start : start + chunk].to(q.dtype).T
            higher = torch.maximum(top, logits.amax(1))
            shrink = torch.exp(top - higher)
            weights = torch.exp(logits - higher[:, None])
            total = total * shrink + weights.sum(1)
            energy = energy * shrink + (weights * logits).sum(1)  # sum of exp(logit - top) * logit
            top = higher
        log_total = top + total.log()
        return log_total - positive, log_total - energy / total
