"""InfoNCE over a large dictionary, formed in one pass over chunks of it; pretext accuracy by rank."""

from __future__ import annotations

from typing import Any

import torch

CHUNK = 8192  # dictionary rows per product: B x 8192 logits stay in cache, 8 MB at B = 256


class _InfoNCE(torch.autograd.Function):
    """Mean InfoNCE of q against its key and the rows of a dictionary; the gradient for q is formed in the forward.

    The dictionary needs no gradient and is never kept for the backward, so it may be overwritten right after and no
    copy of it, no B x (K+1) matrix of logits and no concatenation is ever made.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float, wanted: bool
    ) -> torch.Tensor:
        scaled = (q / temperature).to(rows.dtype)  # products run in the dictionary's precision
        positive = (q * k).sum(1) / temperature  # B
        top = positive.clone()
        total = torch.ones_like(positive)  # sum of exp(logit - top), the positive included
        pull = k.float().clone()  # B x D: sum of exp(logit - top) * key
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            logits = (scaled @ part.T).float()  # B x chunk
            higher = torch.maximum(top, logits.amax(1))
            shrink = torch.exp(top - higher)
            weights = logits.sub_(higher[:, None]).exp_()
            total = total * shrink + weights.sum(1)
            if wanted:
                pull = pull * shrink[:, None] + (weights.to(part.dtype) @ part).float()
            top = higher
        if wanted:
            ctx.save_for_backward((pull / total[:, None] - k) / (temperature * len(q)))
        return (top + total.log() - positive).mean()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None, None


def info_nce(q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, temperature: float) -> torch.Tensor:
    """MoCo, equation 1: mean over queries of -log softmax of the positive among 1 + K keys.

    q and k are B x D unit vectors in float32, rows is the dictionary K x D. Gradients reach q only.
    """
    wanted = torch.is_grad_enabled() and q.requires_grad
    with torch.autocast(q.device.type, enabled=False):
        return _InfoNCE.apply(q, k, rows, temperature, wanted)


@torch.no_grad()
def rank_accuracy(q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor) -> tuple[float, float]:
    """Top-1 and top-5 pretext accuracy in percent: how often fewer than 1 (5) dictionary rows beat the positive."""
    with torch.autocast(q.device.type, enabled=False):
        positive = (q * k).sum(1, keepdim=True)
        beaten = torch.zeros(len(q), dtype=torch.long, device=q.device)
        for start in range(0, len(rows), CHUNK):
            beaten += (q @ rows[start : start + CHUNK].float().T > positive).sum(1)
    return 100.0 * (beaten < 1).float().mean().item(), 100.0 * (beaten < 5).float().mean().item()
