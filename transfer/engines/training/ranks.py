"""Sums over the ranks of the process group, and decisions that all ranks share."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from runtime.distributed import rank_count


class SummedOverRanks(torch.autograd.Function):
    """Sum of a tensor over ranks whose gradient is summed over ranks as well."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """All-reduce ``x`` (any shape)."""
        # gathered and added in rank order: the result of an all-reduce depends on the backend's algorithm
        parts = [torch.empty_like(x) for _ in range(rank_count())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts).sum(0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """All-reduce the gradient."""
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any rank, the same answer on all."""
    if rank_count() == 1:
        return flag
    votes = torch.tensor([float(flag)], device=device)
    dist.all_reduce(votes)
    return bool(votes.item() > 0)


def gather_objects(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order."""
    if rank_count() == 1:
        return [value]
    gathered: list[Any] = [None] * rank_count()
    dist.all_gather_object(gathered, value)
    return gathered
