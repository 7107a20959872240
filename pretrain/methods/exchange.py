"""What ranks exchange: gathered rows, shuffled key batches, averaged gradients. The identity in a single process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed

from runtime.distributed import all_gather_rows, rank, rank_count
from runtime.host_copies import send


class _GatherRows(torch.autograd.Function):
    """all_gather with a backward: every rank's loss depends on a row, so its gradient is summed over ranks."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(rows)
        return all_gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        own_rank = rank()
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total[own_rank * ctx.rows : (own_rank + 1) * ctx.rows]


def gather_with_gradient(rows: torch.Tensor) -> torch.Tensor:
    """Rows (B x D) of all ranks in rank order (W*B x D); gradients flow back to the rank that computed the row."""
    return rows if rank_count() == 1 else _GatherRows.apply(rows)


class BatchShuffle:
    """A permutation of the global key batch across BatchNorm groups (MoCo, section 3.3), and its inverse.

    A query and its key in the same BatchNorm group share batch statistics, which give the positive away without any
    feature being learnt. Shuffled, a key is normalised among other images than its query.

    The groups are the ranks times the BatchNorm splits inside a rank. With one group in total a permutation leaves the
    batch statistics as they are, so nothing is done. The permutation is drawn from the CPU's global generator, which
    the loop seeds with the same number on every rank at every step: all ranks draw the same one without exchanging it.
    """

    def __init__(self, images: int, splits: int) -> None:
        """``images`` per rank, ``splits`` BatchNorm groups inside each rank."""
        self.rank, self.size = rank(), rank_count()
        self.images = images
        self.order = torch.randperm(images * self.size) if self.size * splits > 1 else None

    def shuffle(self, images: torch.Tensor) -> torch.Tensor:
        """This rank's share (B x ...) of the shuffled global batch."""
        if self.order is None:
            return images
        mine = self.order[self.rank * self.images : (self.rank + 1) * self.images]
        shuffled = all_gather_rows(images)[send(mine, images.device)]
        # Neither the exchange nor the indexing keeps channels_last, in which the convolutions are faster.
        channels_last = images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)
        return shuffled.contiguous(memory_format=torch.channels_last) if channels_last else shuffled

    def gather(self, keys: torch.Tensor) -> torch.Tensor:
        """Keys of the whole global batch in the original order: B x D per rank -> W*B x D, with gradient."""
        gathered = gather_with_gradient(keys)
        return gathered if self.order is None else gathered[send(self.order.argsort(), keys.device)]

    def mine(self, gathered: torch.Tensor) -> torch.Tensor:
        """This rank's rows of a gathered batch."""
        return gathered[self.rank * self.images : (self.rank + 1) * self.images]


def average_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Replace every gradient by its mean over ranks.

    One flat buffer in a fixed order instead of DistributedDataParallel's buckets, which are rebuilt after the first
    step: that changes the order of summation, and with it the last bits of a resumed run.
    """
    size = rank_count()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if size == 1 or not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= size
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
