"""The process group as the model and the loop see it: how many ranks, sums over them, decisions shared by them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def rank_count() -> int:
    """Processes in the group; 1 where there is no group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 where there is no group."""
    return dist.get_rank() if rank_count() > 1 else 0


class SummedOverRanks(torch.autograd.Function):
    """Sum of a tensor over ranks whose gradient is summed over ranks as well."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """All-reduce ``x`` (any shape)."""
        # one tensor per rank, added in rank order: the sum does not depend on the backend's ring
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
